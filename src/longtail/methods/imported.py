"""Imported item vectors: the plain backbone over vectors that another system made, as SAID and LLMEmb need.

Both tune an LLM first, which this library does not do; what they hand to the recommender is a file of item vectors x,
named by `text.model = "file:PATH"`:

    SAID (Hu et al., WWW 2024)      x_i: what an LLM writes item i's text from; e_i starts at x_i and is trained, as
                                    LLMEmb's authors ran it: `table = "trained"`, x as wide as the backbone
    LLMEmb (Liu et al., AAAI 2025)  x_i: from an LLM tuned on attribute-dropped prompts, then PCA; x_i stays, and a
                                    linear adapter is trained: `table = "frozen"`, e_i = W2 (W1 x_i + b1) + b2

    score(u, i) = e_i . f(e_1 ... e_n),  L = L_rank

Where x is as wide as the backbone there is no adapter; where it is not, a trained table has a single linear layer. From
LLMEmb's released code (liuqidong07/LLMEmb), whose d is 128. Left out: LLMEmb's alignment of e_i with the item table of
a trained SASRec (weight .01). Not confirmed from a source: whether SAID's own recommender trains its vectors on.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import CollaborativeView, SemanticView
from longtail.nn.losses import RankLoss


class ImportedConfig(MethodConfig):
    """Settings of imported item vectors."""

    name: Literal["imported"] = "imported"
    table: Literal["frozen", "trained"] = "frozen"
    """Whether the vectors stay as they came (LLMEmb) or training starts from them (SAID)."""

    @property
    def needs_embeddings(self) -> bool:
        """They are what is imported."""
        return True


class Imported(TrainedMethod):
    """score(u, i) = e_i . f(e_1 ... e_n), e_i the imported vector or a linear map of it."""

    def __init__(self, config: ImportedConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        E, d = sizes.embedding_width, sizes.d
        self.view: CollaborativeView | SemanticView
        if config.table == "frozen" and d != E:
            self.view = SemanticView(sizes.items, E, d, views=sizes.views)
        else:
            self.view = CollaborativeView(sizes.items, E)
            self.view.requires_grad_(config.table == "trained")
        self.adapter = nn.Linear(E, d) if config.table == "trained" and d != E else None
        cloze = backbone.objective != "next_item"
        self.mask = nn.Parameter(torch.zeros(d)) if cloze and config.table == "frozen" else None

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Take the vectors."""
        assert knowledge.item_embeddings is not None
        if isinstance(self.view, SemanticView):
            self.view.attach(knowledge.item_embeddings, knowledge.lacking)
        else:
            self.view.start_from(knowledge.item_embeddings)

    def fixed(self) -> str:
        """x."""
        return "its item vectors, which another system made"

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d); row 0, which a masked item is shown as, has a trained part even where the rest is frozen."""
        vectors: Tensor = self.view(ids)
        if self.adapter is not None:
            vectors = self.adapter(vectors)
        if self.mask is None:
            return vectors
        rows = torch.arange(len(vectors), device=vectors.device) if ids is None else ids
        return vectors + (rows == 0)[:, None] * self.mask

    def semantic_view(self) -> tuple[SemanticView, int] | None:
        """The map of frozen vectors, if there is one."""
        return (self.view, 0) if isinstance(self.view, SemanticView) else None


methods.register("imported")((ImportedConfig, Imported))
