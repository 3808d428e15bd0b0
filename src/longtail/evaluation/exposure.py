"""What lists of recommendations expose: coverage, Gini, popularity, tail share, novelty and diversity; no targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from longtail.data.histories import IntArray
from longtail.evaluation.metrics import Figure, Values, means

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
LISTS = 8192  # lists whose vectors are summed at once


def coverage(lists: IntArray, items: int) -> float:
    """Share of the catalogue that is in any of the lists (n, k); 0 in a list is no item.

    >>> coverage(np.array([[1, 2], [2, 0]]), items=4)
    0.5
    """
    return len(np.setdiff1d(lists, [0])) / items


def gini(lists: IntArray, items: int) -> float:
    """Gini coefficient of how often each of `items` is listed: 0 if all equally, near 1 if one item takes all.

    G = sum_i (2 i - I - 1) x_i / (I sum x), x ascending, i from 1: half the mean absolute difference over the mean.

    >>> gini(np.array([[1, 2], [3, 4]]), items=4), gini(np.array([[1], [1]]), items=4)
    (0.0, 0.75)
    """
    x = np.sort(np.bincount(lists.ravel(), minlength=items + 1)[1:]).astype(np.float64)
    return float((2 * np.arange(1, items + 1) - items - 1) @ x / (items * x.sum())) if x.any() else 0.0


def popularity(lists: IntArray, counts: IntArray) -> Values:
    """(n,) the mean training count of the items of each list; counts (I + 1,)."""
    return _mean(lists, counts.astype(np.float64))


def tail_share(lists: IntArray, head_items: BoolArray) -> Values:
    """(n,) the share of each list that is tail items; head_items (I + 1,)."""
    return _mean(lists, (~head_items).astype(np.float64))


def novelty(lists: IntArray, counts: IntArray) -> Values:
    """(n,) the mean of -log2 p over each list, in bits, p = (training count + 1) / (training interactions + I).

    The + 1 (Laplace's smoothing) gives an item that was never bought a finite novelty.
    """
    return _mean(lists, -np.log2((counts + 1.0) / (counts.sum() + len(counts) - 1.0)))


def diversity(lists: IntArray, vectors: FloatArray) -> Values:
    """(n,) the mean of 1 - cosine over the pairs of each list; 0 for a list of one item. vectors (I + 1, E).

    The sum over pairs of unit vectors is (|sum v|^2 - sum |v|^2) / 2, which no pair is looked at for.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    squares = np.square(unit, dtype=np.float64).sum(axis=1)
    found = np.zeros(len(lists))
    for start in range(0, len(lists), LISTS):
        part = lists[start : start + LISTS]
        real = part > 0
        k = real.sum(axis=1)
        ends = np.concatenate([[0], np.cumsum(k)])
        sums = csr_array((np.ones(ends[-1], np.float32), part[real], ends), shape=(len(part), len(unit))) @ unit
        own = np.where(real, squares[part], 0.0).sum(axis=1)
        similarity = (np.square(sums, dtype=np.float64).sum(axis=1) - own) / np.maximum(k * (k - 1), 1)
        found[start : start + LISTS] = np.where(k > 1, 1.0 - similarity, 0.0)
    return found


def list_figures(
    lists: IntArray,
    counts: IntArray,
    head_items: BoolArray,
    vectors: FloatArray | None,
    users: Mapping[str, BoolArray],
    ks: Iterable[int],
) -> list[Figure]:
    """All of these at every k: coverage and Gini of all lists (n, K) together, the others by groups of `users` too.

    They are figures of the full ranking. Without vectors (I + 1, E) there is no diversity.
    """
    found, groups = [], {"all": np.ones(len(lists), np.bool_), **users}
    for k in ks:
        top, items = lists[:, :k], len(counts) - 1
        whole = {f"coverage@{k}": coverage(top, items), f"gini@{k}": gini(top, items)}
        found += [Figure("full", "all", metric, len(lists), value) for metric, value in whole.items()]
        each = {
            f"popularity@{k}": popularity(top, counts),
            f"tail_share@{k}": tail_share(top, head_items),
            f"novelty@{k}": novelty(top, counts),
        }
        if vectors is not None:
            each[f"diversity@{k}"] = diversity(top, vectors)
        found += means("full", each, groups)
    return found


def _mean(lists: IntArray, values: Values) -> Values:
    """(n,) the mean of `values` (I + 1,) over the items of each list (n, k); 0 for an empty list."""
    real = lists > 0
    found: Values = np.where(real, values[lists], 0.0).sum(axis=1) / np.maximum(real.sum(axis=1), 1)
    return found
