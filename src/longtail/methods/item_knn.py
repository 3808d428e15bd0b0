"""Item-kNN: items that the same users touched, the more the fresher the history's item is. Hard to beat, and fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from longtail.data.cooccurrence import nearest_items
from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, Method, MethodConfig, Scores, Sizes, methods, parts
from longtail.nn.graph import ItemGraph


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
        k, shrinkage, activity = self.ids.shape[1], self.settings.shrinkage, self.settings.activity
        found = nearest_items(train, self.sizes.items, k, shrinkage=shrinkage, activity=activity)
        self.ids, self.similarities = (torch.from_numpy(each) for each in found)

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """The edges of what a history holds, added up."""
        graph = ItemGraph(self.ids, self.similarities)

        def score(histories: Histories) -> Scores:
            add = graph.adder(histories, self.decay)
            for part in parts(histories.users, rows):
                scores = graph.weights.new_zeros(part.stop - part.start, len(graph.ids))  # (b, I + 1)
                add(scores, part)
                yield part, scores.masked_fill_(scores == 0, -torch.inf)

        return score


methods.register("item_knn")((ItemKNNConfig, ItemKNN))
