"""Plain: the backbone alone, over one trained vector an item. It reads no text."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from longtail.methods.base import MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import CollaborativeView
from longtail.nn.losses import RankLoss


class PlainConfig(MethodConfig):
    """The plain backbone has no settings of its own."""

    name: Literal["plain"] = "plain"


class Plain(TrainedMethod):
    """score(u, i) = e_i . f(e_1 ... e_n)."""

    def __init__(self, config: PlainConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.view = CollaborativeView(sizes.items, sizes.d, backbone.start)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d): the trained table."""
        vectors: Tensor = self.view(ids)
        return vectors


methods.register("plain")((PlainConfig, Plain))
