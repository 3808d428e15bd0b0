"""Text-kNN: the items whose texts are nearest to those of the last items of a history. No interaction trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, Method, MethodConfig, Scores, Sizes, dot_products, methods


class TextKNNConfig(MethodConfig):
    """Settings of text-kNN; the default was chosen on validation (docs/results.md)."""

    name: Literal["text_knn"] = "text_knn"
    history: PositiveInt = 1
    """Items of the history, from the last one back, whose mean vector is compared: 1, or e.g. 10."""

    @property
    def needs_embeddings(self) -> bool:
        """They are all it has."""
        return True


class TextKNN(Method):
    """score(u, i) = cos(mean of e_j / |e_j| over the last items j of u, e_i), e the LLM embeddings."""

    vectors: Tensor

    def __init__(self, config: TextKNNConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.history = config.history
        self.register_buffer("vectors", torch.zeros(sizes.items + 1, sizes.embedding_width))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Keep the embeddings as unit vectors; a zero vector, padding for one, stays zero."""
        assert knowledge.item_embeddings is not None
        F.normalize(torch.from_numpy(knowledge.item_embeddings), dim=1, out=self.vectors)

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """Dot products of unit vectors."""

        def score(histories: Histories) -> Scores:
            recent = histories.last(self.history)
            items, starts = torch.from_numpy(recent.items), torch.from_numpy(recent.offsets[1:-1])
            u = F.normalize(F.embedding_bag(items, self.vectors, starts, mode="mean"), dim=1)  # (n, E)
            return dot_products(u, self.vectors, rows)

        return score


methods.register("text_knn")((TextKNNConfig, TextKNN))
