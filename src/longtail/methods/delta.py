"""Text and a delta: an item's vector is a map of its LLM embedding, and what its own interactions add to that.

    v_i         = W e_i + b + delta_i,  W and b start at the first d principal components of the LLM embeddings e, as
                  LLMInit's whole table does, and delta_i at zero
    |delta_i|  <= bound n_i / (n_i + ripe), n_i the training count, if there is a bound
    score(u, i) = v_i . f(v_1 ... v_n),  L = L_rank

What interactions teach of one item's text W carries to all, so that a rare item is not left where it started, and an
item of no interaction at all has a vector like others. A share `hide` of the items has no delta in a step, so that W
learns to do without. The bound is after "Let It Go? Not Quite" (arXiv 2507.19473), which bounds all items alike.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import SemanticView, principal_axes
from longtail.nn.losses import RankLoss


class DeltaConfig(MethodConfig):
    """Settings of text and a delta."""

    name: Literal["delta"] = "delta"
    bound: PositiveFloat | None = None
    """Largest length of the delta of an item of very many interactions; none if not given."""
    ripe: PositiveFloat = 8.0
    """Training interactions at which an item has half of the bound."""
    hide: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items that have no delta in a step of training."""

    @property
    def needs_embeddings(self) -> bool:
        """They are most of an item's vector."""
        return True


class Delta(TrainedMethod):
    """score(u, i) = v_i . f(v_1 ... v_n), v_i = W e_i + b + delta_i."""

    radius: Tensor

    def __init__(self, config: DeltaConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.settings = config
        masked = backbone.objective == "cloze"
        width, views = sizes.embedding_width, sizes.views
        self.semantic = SemanticView(sizes.items, width, sizes.d, adapter="one_layer", masked=masked, views=views)
        self.delta = nn.Parameter(torch.zeros(sizes.items + 1, sizes.d))
        self.register_buffer("radius", torch.zeros(sizes.items + 1, 1))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Start the map at the principal components, and know each delta's bound."""
        embeddings = knowledge.item_embeddings
        assert embeddings is not None
        mean, axes = principal_axes(embeddings, self.sizes.d)
        with torch.no_grad():
            self.semantic.first.weight.copy_(torch.from_numpy(axes.T))
            self.semantic.first.bias.copy_(torch.from_numpy(-mean @ axes))
        self.semantic.attach(embeddings, knowledge.lacking)
        counts = torch.from_numpy(train.counts(self.sizes.items)).float()
        self.radius = ((self.settings.bound or 0.0) * counts / (counts + self.settings.ripe))[:, None]

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """v_i, (n, d)."""
        delta, radius = (self.delta, self.radius) if ids is None else (self.delta[ids], self.radius[ids])
        if self.settings.bound is not None:
            length = delta.norm(dim=1, keepdim=True)  # 0 at the start, where a root has no slope
            delta = delta * (radius / length.clamp(min=1e-9)).clamp(max=1)
        if self.training and self.settings.hide:
            delta = delta * (torch.rand(len(delta), 1, device=delta.device) >= self.settings.hide)
        vectors: Tensor = self.semantic(ids) + delta
        return vectors

    def semantic_view(self) -> tuple[SemanticView, int]:
        """W e_i + b, in all columns."""
        return self.semantic, 0


methods.register("delta")((DeltaConfig, Delta))
