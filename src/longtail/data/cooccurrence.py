"""Items that the same users touched, or touched next, counted sparsely: never a matrix of all pairs of items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array

from longtail.data.histories import Histories, IntArray

PRODUCTS = 2**22  # pairs of interactions of one user counted at once
FOLLOWED = 2**25  # pairs of interactions, one after the other, counted at once
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def nearest_items(
    train: Histories, items: int, k: int, *, shrinkage: float, activity: float
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The k nearest items of each, (I + 1, k), best first, ties by lower id, and s(j, i), (I + 1, k).

    s(j, i) = c(j, i) / (sqrt(c(j, j) c(i, i)) + shrinkage), c(j, i) = sum of n_v^-activity over the users v who touched
    both in training, n_v the items they touched. 0 and 0.0 where there are no more.
    """
    return _best(_pairs(train, items, shrinkage, activity), items, k)


def followers(
    train: Histories, items: int, k: int, *, shrinkage: float, fading: float, reach: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The k items that most came after each, (I + 1, k), best first, ties by lower id, and s(j, i), (I + 1, k).

    s(j, i) = c(j, i) / (sqrt(n_j n_i) + shrinkage), c(j, i) = sum of fading^(g - 1) over the times that i came g places
    after j in a training history, g <= reach, n the training counts. 0 and 0.0 where there are no more.
    s(j, j) = (c(j, j) + r shrinkage) / (n_j + shrinkage), r = sum of c(j, j) / sum of n_j: where people come back, they
    may come back to what is too rare to show it.
    """
    return _best(_followed(train, items, shrinkage, fading, reach), items, k)


def _followed(
    train: Histories, items: int, shrinkage: float, fading: float, reach: int
) -> Iterator[tuple[IntArray, IntArray, Doubles]]:
    """Pairs of items j, i of which i came after j, and s(j, i), in blocks of whole items j in ascending order."""
    n, after = train.counts(items), train.ages()  # how many came after
    reach = min(reach, int(train.lengths.max(initial=1)) - 1)
    gaps = range(1, reach + 1)
    again = sum(
        fading ** (gap - 1) * np.count_nonzero((train.items[gap:] == train.items[:-gap]) & (after[:-gap] >= gap))
        for gap in gaps
    )
    whole, norm = again / max(n.sum(), 1) * shrinkage, np.sqrt(n)
    block = np.cumsum(n * max(reach, 1)) // FOLLOWED
    for rows in np.split(np.arange(items + 1), np.flatnonzero(np.diff(block)) + 1):
        first, shape = int(rows[0]), (len(rows), items + 1)
        inside = np.flatnonzero((train.items >= first) & (train.items <= rows[-1]))
        counted = csr_array(shape)
        for gap in gaps:
            at = inside[after[inside] >= gap]
            pairs = train.items[at] - first, train.items[at + gap]
            counted += csr_array((np.full(len(at), fading ** (gap - 1)), pairs), shape)
        if again:
            own = np.flatnonzero(n[rows] > 0)
            counted += csr_array((np.full(len(own), whole), (own, own + first)), shape)
        counted.sort_indices()
        found = counted.tocoo()
        j, i = rows[found.row], found.col.astype(np.int64)
        yield j, i, found.data / (norm[j] * norm[i] + shrinkage)


def _best(
    pairs: Iterable[tuple[IntArray, IntArray, Doubles]], items: int, k: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The k best i of each j, of pairs j, i, s(j, i), by j and then i, in blocks of whole items j."""
    ids, similarities = np.zeros((items + 1, k), np.int32), np.zeros((items + 1, k), np.float32)
    for j, i, s in pairs:
        order = np.argsort(-s, kind="stable")  # two stable sorts take less than half the time of one by all three
        order = order[np.argsort(j[order].astype(np.int32), kind="stable")]
        place = np.arange(len(j)) - np.searchsorted(j, np.arange(items + 1))[j]
        order, place = order[place < k], place[place < k]
        ids[j[order], place], similarities[j[order], place] = i[order], s[order]
    return ids, similarities


def _pairs(
    train: Histories, items: int, shrinkage: float, activity: float
) -> Iterator[tuple[IntArray, IntArray, Doubles]]:
    """Pairs of items j, i that a user touched both, and s(j, i), in blocks of whole items j in ascending order."""
    shape = len(train.lengths), items + 1
    touched = csr_array((np.ones(len(train.items)), train.items, train.offsets), shape, copy=True)  # sorted in place
    touched.sum_duplicates()
    touched.data[:] = 1.0  # once or often: a user touched it
    n = np.diff(touched.indptr)
    weighted = diags_array(np.maximum(n, 1.0) ** -activity) @ touched  # (U + 1, I + 1)
    norm = np.sqrt(weighted.sum(axis=0)).ravel()  # (I + 1,)
    users_of = touched.T.tocsr()  # (I + 1, U + 1)
    block = np.cumsum(users_of @ n) // PRODUCTS
    for rows in np.split(np.arange(items + 1), np.flatnonzero(np.diff(block)) + 1):
        product = users_of[rows] @ weighted  # (b, I + 1)
        product.sort_indices()
        common = product.tocoo()
        j, i = rows[common.row], common.col.astype(np.int64)
        other = i != j
        j, i = j[other], i[other]
        yield j, i, common.data[other] / (norm[j] * norm[i] + shrinkage)
