"""Most popular: the items that most training interactions are of, for everybody. The floor of every comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, Method, MethodConfig, Scores, Sizes, dot_products, methods


class PopularConfig(MethodConfig):
    """Popularity has no settings."""

    name: Literal["popular"] = "popular"


class Popular(Method):
    """score(u, i) = training interactions with i."""

    counts: Tensor

    def __init__(self, config: PopularConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.register_buffer("counts", torch.zeros(sizes.items + 1))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Count."""
        self.counts.copy_(torch.from_numpy(train.counts(self.sizes.items)))

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """The same scores for every user."""
        return lambda histories: dot_products(torch.ones(histories.users, 1), self.counts[:, None], rows)


methods.register("popular")((PopularConfig, Popular))
