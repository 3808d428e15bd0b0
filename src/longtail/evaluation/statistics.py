"""How sure a mean or a difference is: bootstrap intervals over users and seeds, paired tests, Holm; numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = npt.NDArray[np.float64]
DRAWS = 2000  # resamples of an interval
CELLS = 2**20  # counts held at once: 8 MB each of the few arrays of a block
ROUNDING = 12  # decimals: differences of means over seeds that only rounding keeps from zero, or from a tie, are none


class Spread(NamedTuple):
    """Mean, sample deviation (nan for one value) and number of values."""

    mean: float
    sd: float
    n: int


class Interval(NamedTuple):
    """Ends of an interval; nan where nothing can be said."""

    low: float
    high: float


class Outcome(NamedTuple):
    """A two-sided test: its statistic, p (nan where nothing can be tested) and the number of differences or values."""

    statistic: float
    p: float
    n: int


class Part(NamedTuple):
    """One source of a mean's error: draws of it around zero (R,), its variance, the freedom of that estimate."""

    draws: Floats
    variance: float
    freedom: float


def spread(values: Sequence[float] | Floats) -> Spread:
    """Mean and sample deviation, divided by n - 1, of one value a seed.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, sd=1.0, n=3)
    """
    known = np.asarray(values, np.float64)
    return Spread(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else np.nan, len(known))


def resampled_means(values: Floats, generator: np.random.Generator, draws: int = DRAWS) -> Floats:
    """(draws, k) means of k columns over rows drawn with replacement, the same rows for each column. values (n, k).

    Rows that are all zero, as most users' are, change no sum: only how many of the others are drawn matters, which is
    binomial; and a mean needs only how often a row was drawn, so that a block of draws is one matrix product.
    """
    n, told = len(values), values[(values != 0).any(axis=1)]
    m = len(told)
    means = np.zeros((draws, values.shape[1]))
    for start in range(0, draws if m else 0, max(CELLS // n, 1)):
        rows = min(max(CELLS // n, 1), draws - start)
        drawn = generator.binomial(n, m / n, size=rows)
        cells = np.repeat(np.arange(rows) * m, drawn) + generator.integers(m, size=drawn.sum())
        means[start : start + rows] = np.bincount(cells, minlength=rows * m).reshape(rows, m) @ told / n
    return means


def bootstrap(
    values: Floats,
    generator: np.random.Generator,
    draws: int = DRAWS,
    level: float = 0.95,
    kind: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Interval of the mean over users, values (n,). bca: bias-corrected and accelerated (Efron, 1987)."""
    if len(values) < 2:
        return Interval(np.nan, np.nan)
    means, ends = resampled_means(values[:, None], generator, draws)[:, 0], _ends(level)
    off = values - values.mean()
    square = (off**2).sum()
    if kind == "bca" and square > 0:
        below = ((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2
        bias, skew = ndtri(np.clip(below, 1 / draws, 1 - 1 / draws)), (off**3).sum() / (6 * square**1.5)
        shifted = bias + ndtri(ends)
        ends = ndtr(bias + shifted / (1 - skew * shifted))
    return Interval(*map(float, np.quantile(means, ends)))


def users_part(values: Floats, means: Floats) -> Part:
    """What the choice of users adds to the error of their mean. values (n,), n > 1; means: resampled (R,)."""
    return Part(means - values.mean(), float(values.var(ddof=1)) / len(values), len(values) - 1)


def seeds_part(values: Floats, generator: np.random.Generator, draws: int = DRAWS) -> Part:
    """What the choice of seeds adds to the error of the mean over seeds and users. values (S, n), S and n > 1.

    Two or three seeds are too few to draw from again, so that their error is drawn from a normal distribution. Each
    seed's own luck with each user spreads the seeds' means too; it is among the users' part already, and taken out
    here as in a two-way analysis of variance.
    """
    S, n = values.shape
    means = values.mean(axis=1)
    residual = values - values.mean(axis=0) - (means - means.mean())[:, None]
    luck = float((residual**2).sum()) / ((S - 1) * (n - 1)) / (S * n)
    variance = max(float(means.var(ddof=1)) / S - luck, 0.0)
    return Part(generator.normal(0.0, np.sqrt(variance), draws), variance, S - 1)


def combined(mean: float, parts: Sequence[Part], level: float = 0.95) -> Interval:
    """Percentile interval of a mean whose independent errors are `parts`.

    Few seeds know little of their own spread: the interval is widened as Student's t is over the normal, with the
    degrees of freedom of Welch and Satterthwaite.
    """
    total = sum(part.variance for part in parts)
    if not total:
        return Interval(mean, mean)
    freedom = total**2 / sum(part.variance**2 / part.freedom for part in parts)
    upper = (1 + level) / 2
    low, high = np.quantile(np.sum([part.draws for part in parts], axis=0), _ends(level))
    wider = float(stdtrit(freedom, upper) / ndtri(upper))
    return Interval(mean + float(low) * wider, mean + float(high) * wider)


def seeds_and_users(
    values: Floats, generator: np.random.Generator, draws: int = DRAWS, level: float = 0.95
) -> Interval:
    """Interval of the mean over seeds and users, by both of their errors. values (S, n); with one seed users alone."""
    if values.shape[1] < 2:
        return Interval(np.nan, np.nan)
    each = values.mean(axis=0)
    parts = [users_part(each, resampled_means(each[:, None], generator, draws)[:, 0])]
    if len(values) > 1:
        parts.append(seeds_part(values, generator, draws))
    return combined(float(each.mean()), parts, level)


def paired_t(differences: Floats) -> Outcome:
    """Student's t of differences (n,) against zero; p = 1 where all of them are zero."""
    mean, sd, n = spread(differences)
    return _t(mean, sd / np.sqrt(n), n - 1, n)


def welch(first: Floats, second: Floats) -> Outcome:
    """Welch's t of two independent samples, e.g. one value a seed; the deviations may differ."""
    n = len(first) + len(second)
    if min(len(first), len(second)) < 2:
        return Outcome(np.nan, np.nan, n)
    a, b = (float(values.var(ddof=1)) / len(values) for values in (first, second))
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1)) if a + b else n - 2
    return _t(float(first.mean() - second.mean()), np.sqrt(a + b), freedom, n)


def wilcoxon(differences: Floats) -> Outcome:
    """Wilcoxon's signed-rank test of differences (n,), by the normal approximation of its z; p = 1 if all are zero.

    Zeros by Pratt (1959): they are ranked with the others, then left out. Given the ranks, only the signs are random,
    so that the variance is the sum of the squared ranks, ties included.
    """
    signed = _signed_ranks(differences)
    scale = float(np.sqrt((signed**2).sum()))
    z = float(signed.sum()) / scale if scale else 0.0
    return Outcome(z, float(2 * ndtr(-abs(z))) if len(signed) else np.nan, len(signed))


def d_z(differences: Floats) -> float:
    """Cohen's d of paired values: mean difference in deviations of the differences; 0 where all are zero."""
    mean, sd, _ = spread(differences)
    return mean / sd if sd else 0.0 if mean == 0 else float(np.copysign(np.inf, mean))


def rank_biserial(differences: Floats) -> float:
    """Matched-pairs rank-biserial correlation (Kerby, 2014), of wilcoxon's ranks: -1 all against, 1 all in favour.

    >>> rank_biserial(np.array([0.0, 0.1, 0.2, -0.3]))
    0.1111111111111111
    """
    signed = _signed_ranks(differences)
    total = float(np.abs(signed).sum())
    return float(signed.sum()) / total if total else 0.0


def holm(ps: Sequence[float] | Floats) -> Floats:
    """p-values corrected for being many (Holm, 1979), in their order; nan is no test and stays nan.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    adjusted = np.array(ps, np.float64)
    tested = np.flatnonzero(~np.isnan(adjusted))
    order = tested[np.argsort(adjusted[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(adjusted[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def stars(p: float) -> str:
    """'*' for p < 0.05, as LLM-ESR marks its tables; none for nan.

    >>> stars(0.049), stars(0.05)
    ('*', '')
    """
    return "*" if p < 0.05 else ""


def _t(mean: float, error: float, freedom: float, n: int) -> Outcome:
    if freedom < 1:
        return Outcome(np.nan, np.nan, n)
    if error:
        t = mean / error
        return Outcome(t, float(2 * stdtr(freedom, -abs(t))), n)
    return Outcome(0.0, 1.0, n) if mean == 0 else Outcome(float(np.copysign(np.inf, mean)), 0.0, n)


def _signed_ranks(differences: Floats) -> Floats:
    """Ranks from 1 of the sizes, ties sharing their mean rank, with the differences' signs; 0 for zeros."""
    exact = np.round(differences, ROUNDING)
    _, places, counts = np.unique(np.abs(exact), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(np.sign(exact) * ranks[places])


def _ends(level: float) -> Floats:
    return np.array([(1 - level) / 2, (1 + level) / 2])
