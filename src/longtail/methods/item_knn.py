"""Item-kNN: items that the same users touched, the more the fresher the history's item is. Hard to beat, and fast.

Co-occurrence is counted in sparse blocks and each item keeps its nearest ones alone, so that no matrix of all pairs of
items is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from longtail.data.histories import Histories, IntArray
from longtail.methods.base import Knowledge, Method, MethodConfig, Scores, Sizes, methods, parts

PRODUCTS = 2**22  # pairs of interactions of one user counted at once
Doubles = npt.NDArray[np.float64]


class ItemKNNConfig(MethodConfig):
    """Settings of item-kNN; the defaults were chosen on validation (docs/results.md)."""

    name: Literal["item_knn"] = "item_knn"
    neighbors: PositiveInt = 100
    """Similar items kept for each item."""
    shrinkage: NonNegativeFloat = 2.0
    """Added to the denominator of the cosine, so that few common users make no close neighbors; 0 is the cosine."""
    activity: NonNegativeFloat = 0.5
    """A user of n items counts n^-activity: who touched much says little of each; 0 counts all users alike."""
    decay: float = Field(default=0.6, gt=0, le=1)
    """Weight of a history's item for each item that came after it; 1 weighs all alike."""


class ItemKNN(Method):
    """score(u, i) = sum over u's items j of decay^age(j) s(j, i), for those i that are among the nearest of a j.

    s(j, i) = c(j, i) / (sqrt(c(j, j) c(i, i)) + shrinkage), c(j, i) = sum of n_v^-activity over the users v who touched
    both in training. An item without a link to the history has no score.
    """

    ids: Tensor
    similarities: Tensor

    def __init__(self, config: ItemKNNConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.settings, self.decay = config, config.decay
        shape = sizes.items + 1, min(config.neighbors, sizes.items)
        self.register_buffer("ids", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarities", torch.zeros(shape))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Find the nearest items of each, best first, ties by lower id; 0 where there are no more."""
        ids, similarities = self.ids.numpy(), self.similarities.numpy()  # the buffers themselves
        for j, i, s in similar_items(train, self.sizes.items, self.settings):
            order = np.lexsort((i, -s, j))
            place = np.arange(len(j)) - np.searchsorted(j[order], j[order])
            order, place = order[place < ids.shape[1]], place[place < ids.shape[1]]
            ids[j[order], place], similarities[j[order], place] = i[order], s[order]

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """Sparse products of the histories' weights and the nearest items."""
        similarities, width = self.similarities.numpy(), len(self.ids)
        there = similarities > 0
        starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        nearest = csr_array((similarities[there], self.ids.numpy()[there], starts), (width, width))

        def score(histories: Histories) -> Scores:
            weights = (self.decay ** histories.ages()).astype(np.float32)
            known = csr_array((weights, histories.items, histories.offsets[1:]), (histories.users, width))
            for part in parts(histories.users, rows):
                scores = torch.from_numpy((known[part] @ nearest).toarray())  # (b, I + 1)
                yield part, scores.masked_fill_(scores == 0, -torch.inf)

        return score


def similar_items(train: Histories, items: int, config: ItemKNNConfig) -> Iterator[tuple[IntArray, IntArray, Doubles]]:
    """Pairs of items j, i that a user touched both, and s(j, i), in blocks of whole items j in ascending order."""
    shape = len(train.lengths), items + 1
    touched = csr_array((np.ones(len(train.items)), train.items, train.offsets), shape, copy=True)  # sorted in place
    touched.sum_duplicates()
    touched.data[:] = 1.0  # once or often: a user touched it
    n = np.diff(touched.indptr)
    weighted = diags_array(np.maximum(n, 1.0) ** -config.activity) @ touched  # (U + 1, I + 1)
    norm = np.sqrt(weighted.sum(axis=0)).ravel()  # (I + 1,)
    users_of = touched.T.tocsr()  # (I + 1, U + 1)
    block = np.cumsum(users_of @ n) // PRODUCTS
    for rows in np.split(np.arange(items + 1), np.flatnonzero(np.diff(block)) + 1):
        common = (users_of[rows] @ weighted).tocoo()  # (b, I + 1)
        j, i = rows[common.row], common.col.astype(np.int64)
        other = i != j
        j, i = j[other], i[other]
        yield j, i, common.data[other] / (norm[j] * norm[i] + config.shrinkage)


methods.register("item_knn")((ItemKNNConfig, ItemKNN))
