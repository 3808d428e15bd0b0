"""Lists of the best items after histories, by score alone or diverse, as `longtail serve` makes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from longtail import rerank
from longtail.data.histories import Histories, IntArray
from longtail.data.ids import IdMap
from longtail.errors import DataError
from longtail.evaluation.protocol import USERS, Scorer, blocks, mask_history
from longtail.methods.base import Method, TrainedMethod
from longtail.rerank import Reranker


class Lists(NamedTuple):
    """Items (n, k) of n users, best first, and their scores (n, k), -inf where nothing is left."""

    items: IntArray
    scores: npt.NDArray[np.float32]


def top(score: Scorer, asked: Histories, k: int, exclude_seen: bool) -> Lists:
    """The k items with the highest scores, for users 1..n of `asked`."""
    found = Lists(np.zeros((asked.users, k), np.int64), np.zeros((asked.users, k), np.float32))
    for block in blocks(asked.lengths[1:], USERS):
        known = asked.select(block + 1)
        for rows, scores in score(block + 1, known):
            scores[:, 0] = -torch.inf
            if exclude_seen:
                mask_history(scores, known, rows)
            values, items = scores.topk(k, dim=1)
            found.items[block[rows]], found.scores[block[rows]] = items.cpu().numpy(), values.cpu().numpy()
    return found


def diverse(
    score: Scorer, method: Method, asked: Histories, k: int, exclude_seen: bool, diversity: float, by: Reranker
) -> Lists:
    """k items of the first `rerank.candidates(k)`, by their scores and by the cosines of the method's item vectors.

    A DataError if the diversity is not of 0 to 1, the re-ranker unknown, or the method without item vectors.
    """
    if not 0 <= diversity <= 1:
        raise DataError(f"diversity = {diversity:g}: choose from 0, by score alone, to 1, by difference alone")
    if not isinstance(method, TrainedMethod):
        raise DataError(f"method {method.config.name!r} has no item vectors to compare; leave diversity out")
    candidates = top(score, asked, min(rerank.candidates(k), method.sizes.items), exclude_seen)
    with torch.no_grad():
        vectors = method.item_vectors().float().cpu().numpy()
    found = Lists(np.zeros((asked.users, k), np.int64), np.full((asked.users, k), -np.inf, np.float32))
    for row, (items, scores) in enumerate(zip(*candidates, strict=True)):
        chosen = rerank.diverse(scores, vectors[items], k, diversity, rerank.named(by))
        found.items[row, : len(chosen)], found.scores[row, : len(chosen)] = items[chosen], scores[chosen]
    return found


def frame(found: Lists, labels: pl.Series, items: IdMap, text: pl.DataFrame) -> pl.DataFrame:
    """Lists of users called `labels` (n,) as rows: user, rank from 1, item, score, and titles if items have some."""
    rows, ranks = np.nonzero(np.isfinite(found.scores))
    chosen = found.items[rows, ranks]
    made = pl.DataFrame(
        {
            "user": labels.gather(rows),
            "rank": ranks + 1,
            "item": items.external(chosen),
            "score": found.scores[rows, ranks],
        }
    )
    titles = title_column(text)
    return made if titles is None else made.with_columns(title=text[titles].gather(chosen - 1))


def title_column(text: pl.DataFrame) -> str | None:
    """The column of an item table that people would call the item's name."""
    usual = ("title", "name", "product_name", "item_name")
    return next((column for column in text.columns if column.lower() in usual), None)
