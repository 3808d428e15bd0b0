"""Items that the same users touched, or touched next, counted sparsely: never a matrix of all pairs of items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array

from longtail.data.histories import Histories, IntArray

PRODUCTS = 2**22  # pairs of interactions of one user counted at once
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
    owners, shape = train.owners(), (items + 1, items + 1)
    counted = csr_array(shape)
    for gap in range(1, min(reach, int(train.lengths.max(initial=1)) - 1) + 1):
        together = owners[gap:] == owners[:-gap]
        j, i = train.items[:-gap][together], train.items[gap:][together]
        counted += csr_array((np.full(len(j), fading ** (gap - 1)), (j, i)), shape)
    n = train.counts(items)
    again = counted.diagonal()
    if again.any():
        counted += diags_array(np.where(n > 0, again.sum() / n.sum() * shrinkage, 0.0))
    found = counted.tocoo()
    j, i, norm = found.row.astype(np.int64), found.col.astype(np.int64), np.sqrt(n)
    return _best([(j, i, found.data / (norm[j] * norm[i] + shrinkage))], items, k)


def _best(
    pairs: Iterable[tuple[IntArray, IntArray, Doubles]], items: int, k: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The k best i of each j, of pairs j, i, s(j, i) in blocks of whole items j."""
    ids, similarities = np.zeros((items + 1, k), np.int32), np.zeros((items + 1, k), np.float32)
    for j, i, s in pairs:
        order = np.lexsort((i, -s, j))
        place = np.arange(len(j)) - np.searchsorted(j[order], j[order])
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
        common = (users_of[rows] @ weighted).tocoo()  # (b, I + 1)
        j, i = rows[common.row], common.col.astype(np.int64)
        other = i != j
        j, i = j[other], i[other]
        yield j, i, common.data[other] / (norm[j] * norm[i] + shrinkage)
