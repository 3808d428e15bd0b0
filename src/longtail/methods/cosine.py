"""Cosine: LLMInit whose item and user vectors have unit length, and whose scores are cosines over a temperature.

    score(u, i) = cos(e_i, f(e_1 / |e_1| ... e_n / |e_n|)) / temperature,  e_i starts as in LLMInit

An item's length, through which a dot product learns how popular it is, cannot tell here. After normalised softmax
losses (NormFace, Wang et al., MM 2017, sec. 3); ours in this place.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import CollaborativeView, principal_components
from longtail.nn.layout import Layout
from longtail.nn.losses import RankLoss


class CosineConfig(MethodConfig):
    """Settings of cosine."""

    name: Literal["cosine"] = "cosine"
    temperature: PositiveFloat = 0.1
    """What cosines are divided by."""

    @property
    def needs_embeddings(self) -> bool:
        """Training starts from them."""
        return True


class Cosine(TrainedMethod):
    """score(u, i) = cos(e_i, f) / temperature."""

    def __init__(self, config: CosineConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.view, self.temperature = CollaborativeView(sizes.items, sizes.d, backbone.start), config.temperature

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Start the table at the principal components, as LLMInit."""
        assert knowledge.item_embeddings is not None
        self.view.start_from(principal_components(knowledge.item_embeddings, self.sizes.d))

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """e_i / |e_i|, (n, d)."""
        return F.normalize(self.view(ids), dim=-1)

    def states(self, vectors: Tensor, layout: Layout) -> Tensor:
        """f / |f| / temperature after each item, (T, d)."""
        return F.normalize(super().states(vectors, layout), dim=-1) / self.temperature

    def final(self, vectors: Tensor, layout: Layout) -> Tensor:
        """The same after each whole sequence, (B, d)."""
        return F.normalize(super().final(vectors, layout), dim=-1) / self.temperature


methods.register("cosine")((CosineConfig, Cosine))
