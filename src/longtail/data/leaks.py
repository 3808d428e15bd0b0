"""Columns of an item table that count what users did: popularity, and the test period, in disguise."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.histories import IntArray

Floats = npt.NDArray[np.float64]
# Names of such columns, letters only (docs/method.md, sec. 2).
FUTURE = re.compile(
    r"^(average|avg|mean|overall)?(rating|star|review|score)s?(score|value|mean|avg|average)?$"
    r"|(review|rating|vote|purchase|order|sale|view|click|checkin|interaction|like|fan|user|tip)s?(count|number|num|total)$"
    r"|^(num|number|count|total|n)(of)?(review|rating|vote|purchase|order|sale|view|click|checkin|interaction|like|user)s?$"
    r"|(review|vote|imdb|user|critic|metacritic)s?(rating|score|average|avg)$|^(purchase|sale|order|download|play|view)s$"
    r"|^boughtin|(units?|copies|total)sold$|(download|play|listen|watch|stream)s?(count|number|num|total)$|^popularity"
    r"|^(sales|bestsellers?|popularity)rank|^rank$|^popularity$|^helpful(ness|votes?)?$|^votes?$"
    r"|^(also|other)(bought|buy|view|viewed)|^(bought|buy|purchased|viewed)(together|after)|^related|^similaritems?$"
)
# The same inside a text: "1,204 ratings", "4.5 stars", "500+ sold".
COUNTED = r"(?i)\b\d[\d,.]*\+?\s*(?:reviews?|ratings?|stars?|votes?|check-?ins?|sold|downloads?|purchases?|likes?)\b"
OFTEN = 0.2  # the share of values that must match
NUMBERS = 0.9  # the share of values that must be numbers for a column of text to count as numeric
STRONG = 0.5  # |Spearman| with the count of interactions from which a column is named
ENOUGH = 20  # items with a value, below which no correlation is looked at


class Leak(NamedTuple):
    """Why a column's contents look like counts of interactions.

    kind: 'future', it knows the held-out interactions beyond what training counts tell; 'popularity', it follows the
    counts no further than training does; 'words', its texts count; 'stars', its numbers are such as average ratings.
    correlation: Spearman, with all interactions of an item. beyond: partial, with those held out, given training's.
    """

    kind: str
    correlation: float = 0.0
    beyond: float = 0.0


def counts_the_future(column: str) -> bool:
    """Whether a column's name says that it counts what users did, so that it holds popularity and test data.

    >>> [counts_the_future(name) for name in ("review_count", "Average Rating", "salesRank", "title", "price")]
    [True, True, True, False, False]
    """
    return FUTURE.search(re.sub(r"[^a-z]", "", column.lower())) is not None


def leak(column: pl.Series, train: IntArray, held_out: IntArray) -> Leak | None:
    """What the contents of a column (I,) give away; train, held_out: (I,) interactions of each item."""
    numbers = _numbers(column)
    if numbers is None:
        return Leak("words") if column.dtype == pl.String and _counting(column) else None
    known = numbers.is_not_null().to_numpy()
    if known.sum() >= ENOUGH:
        values = numbers.drop_nulls()
        x, t, h, total = (_ranks(one) for one in (values, train[known], held_out[known], (train + held_out)[known]))
        found, beyond = _correlation(x, total), _partial(x, h, t)
        if abs(found) >= STRONG:
            certain = abs(beyond) >= max(0.1, 3 / len(x) ** 0.5)  # three sigma, and worth mentioning
            return Leak("future" if certain else "popularity", found, beyond)
    return Leak("stars") if _stars(numbers.drop_nulls()) else None


def _numbers(column: pl.Series) -> pl.Series | None:
    """The column as Float64, if it is, or reads as, numbers."""
    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    if column.dtype != pl.String:
        return None
    numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
    known = len(column) - column.null_count()
    return numbers if known and (len(numbers) - numbers.null_count()) >= NUMBERS * known else None


def _counting(column: pl.Series) -> bool:
    known = column.drop_nulls()
    return len(known) > 0 and float(known.str.contains(COUNTED).sum()) >= OFTEN * len(known)


def _stars(numbers: pl.Series) -> bool:
    """Whether all are halves from 1 to 5, and some are no whole ones, as averages of ratings are shown."""
    if numbers.n_unique() < 4 or not numbers.is_between(1, 5).all():
        return False
    halves = numbers * 2
    return bool((halves == halves.floor()).all() and (numbers != numbers.floor()).any())


def _ranks(values: pl.Series | IntArray) -> Floats:
    ranks: Floats = pl.Series(values).rank("average").to_numpy().astype(np.float64)
    return ranks


def _correlation(x: Floats, y: Floats) -> float:
    """Pearson's, 0 where either is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def _partial(x: Floats, y: Floats, given: Floats) -> float:
    """Correlation of x and y without what `given` explains of each."""
    xy, xg, yg = _correlation(x, y), _correlation(x, given), _correlation(y, given)
    left = (1 - xg**2) * (1 - yg**2)
    return (xy - xg * yg) / left**0.5 if left > 1e-9 else 0.0
