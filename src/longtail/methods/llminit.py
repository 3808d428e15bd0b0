"""LLMInit: the plain backbone, with item vectors that start at principal components of LLM embeddings.

Harte et al., "Leveraging Large Language Models for Sequential Recommendation", RecSys 2023 (there LLM2BERT4Rec), which
LLM-ESR's table calls LLMInit. Equations:

    e_i starts at the first d principal components of e_llm_i, centred and not whitened; then all is trained
    score(u, i) = e_i . f(e_1 ... e_n),  L = L_rank

Settings: none; loss, optimiser and stopping are those of every other method here, where the authors' code
(dh-r/LLM-Sequential-Recommendation) has cross-entropy, AdamW and patience 2. Not confirmed from a source: whether
LLM-ESR's authors scale the components for this baseline; nothing is scaled here, as in their own collaborative view.
Another paper of that name (Zhang et al., 2025, arXiv 2503.01814) takes coordinates of the embeddings; not this one.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import CollaborativeView, principal_components
from longtail.nn.losses import RankLoss


class LLMInitConfig(MethodConfig):
    """LLMInit has no settings of its own."""

    name: Literal["llminit"] = "llminit"

    @property
    def needs_embeddings(self) -> bool:
        """Training starts from them."""
        return True


class LLMInit(TrainedMethod):
    """score(u, i) = e_i . f(e_1 ... e_n), with e_i started at PCA(e_llm_i)."""

    def __init__(self, config: LLMInitConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.view = CollaborativeView(sizes.items, sizes.d, backbone.start)

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Start the table at the principal components."""
        assert knowledge.item_embeddings is not None
        self.view.start_from(principal_components(knowledge.item_embeddings, self.sizes.d))

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d): the trained table."""
        vectors: Tensor = self.view(ids)
        return vectors


methods.register("llminit")((LLMInitConfig, LLMInit))
