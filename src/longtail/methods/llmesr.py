"""LLM-ESR (Liu et al., NeurIPS 2024, arXiv 2405.20646): a dual view of items, and similar users as teachers.

Item vectors are [e_co ; e_se], a trained collaborative half and a semantic half mapped from frozen LLM embeddings. The
two embedded sequences are fused by cross-attention, one shared backbone runs over both, and the user vector is the pair
of its states, so that a score is the sum of a collaborative and a semantic one. Users with similar LLM embeddings of
their histories teach by self-distillation. Where this departs from the authors' code, docs/fidelity.md says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from longtail.data.histories import Histories
from longtail.methods.base import Flat, Knowledge, Method, MethodConfig, Sizes, methods
from longtail.nn.backbones.base import Backbone, last
from longtail.nn.batch import SequenceBatch
from longtail.nn.fuse import CrossAttention
from longtail.nn.items import CollaborativeView, ItemVectors, SemanticView, principal_components
from longtail.nn.losses import RankLoss


class LLMESRConfig(MethodConfig):
    """LLM-ESR's settings; defaults as in the paper, sec. 4.1."""

    name: Literal["llmesr"] = "llmesr"
    alpha: NonNegativeFloat = 0.1
    """Weight of the self-distillation loss; 0 leaves it out (paper's grid: 1, .5, .1, .05, .01)."""
    teacher: Literal["exact", "bank"] = "exact"
    """Teachers under the current weights at every step, or as they were at the start of the epoch (much cheaper)."""
    fusion: Literal["cross_attention", "none"] = "cross_attention"
    """Sequence-level fusion of the two views; "none" is the paper's ablation without cross-attention."""

    @property
    def needs_embeddings(self) -> bool:
        """For the semantic view and the start of the collaborative one."""
        return True

    @property
    def needs_neighbors(self) -> bool:
        """Similar users only teach."""
        return self.alpha > 0


class LLMESR(Method):
    """score(u, i) = [e_co_i ; e_se_i] . [f(S'_co) ; f(S'_se)]; L = L_rank + alpha L_SD."""

    neighbors: Tensor

    def __init__(self, config: LLMESRConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.alpha, self.teacher = config.alpha, config.teacher
        self.bank: Tensor | None = None
        self.collaborative = CollaborativeView(sizes.items, sizes.d)
        self.semantic = SemanticView(sizes.items, sizes.embedding_width, sizes.d)
        self.fusion = CrossAttention(sizes.d) if config.fusion == "cross_attention" else None

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """e_co starts at the first d principal components of e_llm, so that no view starts ahead (sec. 3.2)."""
        assert knowledge.item_embeddings is not None
        self.semantic.attach(knowledge.item_embeddings)
        self.collaborative.start_from(principal_components(knowledge.item_embeddings, self.sizes.d))
        self.histories = Flat(train)
        none = np.zeros((len(train.lengths), 0), np.int64)
        neighbors = none if knowledge.neighbors is None else knowledge.neighbors
        self.register_buffer("neighbors", torch.from_numpy(neighbors), persistent=False)  # (U + 1, M)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[e_co ; e_se], (n, 2d): logit-level fusion is the dot product with the user vector (sec. 3.2)."""
        return torch.cat([self.collaborative(ids), self.semantic(ids)], dim=-1)

    def states(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """u = [f(S'_co) ; f(S'_se)] at every position, (B, L, 2d), with one shared f (sec. 3.2)."""
        both = self.backbone(self.fused(vectors), torch.cat([mask, mask]))  # (2B, L, d)
        return torch.cat(both.chunk(2), dim=-1)

    def final(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """The same at the last real position alone, (B, 2d)."""
        both = self.backbone.final(self.fused(vectors), torch.cat([lengths, lengths]))  # (2B, d)
        return torch.cat(both.chunk(2), dim=-1)

    def fused(self, vectors: Tensor) -> Tensor:
        """Item vectors (B, L, 2d) to S'_co over S'_se, (2B, L, d)."""
        co, se = (self.backbone.embed(view) for view in vectors.chunk(2, dim=-1))  # S_co, S_se: (B, L, d)
        if self.fusion is not None:
            co, se = self.fusion(co, se, causal=self.backbone.objective == "next_item")
        return torch.cat([co, se])

    def loss(self, blocks: Sequence[SequenceBatch]) -> dict[str, Tensor]:
        """L = L_rank + alpha L_SD (sec. 3.4)."""
        teachers = self.neighbors[torch.cat([block.users for block in blocks])]  # (B, M)
        vectors = self.step_vectors(blocks, *self.teacher_items(teachers))
        states = self.block_states(blocks, vectors)
        losses = {"rank": self.ranking(states, blocks, vectors)}
        if self.alpha:
            u = torch.cat([last(state, block.lengths) for state, block in zip(states, blocks, strict=True)])  # (B, 2d)
            t, taught = self.teach(teachers, vectors.detach())
            losses["distillation"] = self.alpha * self_distillation(u, t, taught)
        return losses

    forward = loss

    def teach(self, teachers: Tensor, vectors: ItemVectors) -> tuple[Tensor, Tensor]:
        """t_u = mean of the neighbors' user vectors, (B, D), and which users have a neighbor to learn from, (B,).

        The neighbors' full training histories are encoded under the current weights, without gradient or dropout, each
        distinct neighbor once; "bank" takes the vectors made at the start of the epoch instead (sec. 3.3).
        """
        if self.bank is not None:
            rows = self.bank[teachers]  # (B, M, D)
        else:
            users, inverse = torch.unique(teachers, return_inverse=True)
            rows = self.encode_users(users, vectors)[inverse]
        known = self.histories.lengths[teachers] > 0  # (B, M); user 0, "none", has no history
        count = known.sum(1)
        return rows.sum(1) / count.clamp(min=1)[:, None], count > 0

    def encode_users(self, users: Tensor, vectors: ItemVectors) -> Tensor:
        """Teacher vectors (n, D) of `users` (n,): zeros for a user without history."""
        training = self.backbone.training
        self.backbone.eval()
        rows = self.user_vectors(self.histories.items, self.histories.offsets, users, vectors)
        self.backbone.train(training)
        return rows

    def teacher_items(self, teachers: Tensor) -> list[Tensor]:
        """The items whose vectors the teachers of this step need."""
        if not self.alpha or self.bank is not None:
            return []
        return [self.histories.of(torch.unique(teachers), self.sizes.max_len)]

    def start_epoch(self) -> None:
        """Refresh the bank of teacher vectors, (U + 1, D), if there is one."""
        if self.teacher == "bank" and self.alpha:
            with torch.no_grad():
                vectors = ItemVectors(self.item_vectors(), None)
                users = torch.arange(len(self.histories.lengths), device=vectors.vectors.device)
                self.bank = self.encode_users(users, vectors)


def self_distillation(u: Tensor, t: Tensor, taught: Tensor) -> Tensor:
    """L_SD = MSE(u, t), mean over the taught users and D (sec. 3.3). u, t (B, D); taught (B,)."""
    return F.mse_loss(u[taught], t[taught]) if bool(taught.any()) else u.sum() * 0.0


methods.register("llmesr")((LLMESRConfig, LLMESR))
