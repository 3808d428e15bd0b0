"""Users and items in five groups by training count, and the mean of a metric in each: what figures are drawn from."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longtail.data.histories import IntArray

USER_EDGES = (5, 10, 15, 20)  # training interactions from which the next group begins (docs/method.md, sec. 5)
ITEM_EDGES = (10, 30, 60, 100)
FloatArray = npt.NDArray[np.float64]


class Binned(NamedTuple):
    """labels: the g = 5 groups, fewest interactions first. n (g,): sizes. means (g,): NaN for an empty group."""

    labels: tuple[str, ...]
    n: IntArray
    means: FloatArray


def labels(edges: tuple[int, ...]) -> tuple[str, ...]:
    """What groups are called.

    >>> labels((5, 10, 20))
    ('<5', '5-9', '10-19', '≥20')
    """
    middle = (f"{low}-{high - 1}" for low, high in pairwise(edges))
    return (f"<{edges[0]}", *middle, f"≥{edges[-1]}")


def binned(counts: IntArray, values: FloatArray, edges: tuple[int, ...]) -> Binned:
    """The mean of `values` (n,) by group of `counts` (n,), the training interactions of whatever each value is of.

    >>> binned(np.array([1, 2, 7]), np.array([0.0, 1.0, 1.0]), (2, 5, 9)).means
    array([ 0.,  1.,  1., nan])
    """
    group = np.searchsorted(np.array(edges), counts, side="right")
    n = np.bincount(group, minlength=len(edges) + 1)
    sums = np.bincount(group, weights=values, minlength=len(edges) + 1)
    with np.errstate(invalid="ignore"):
        return Binned(labels(edges), n.astype(np.int64), sums / n)
