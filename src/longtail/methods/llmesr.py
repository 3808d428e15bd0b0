"""LLM-ESR (Liu et al., NeurIPS 2024, arXiv 2405.20646): a dual view of items, and similar users as teachers.

Item vectors are [e_co ; e_se], a trained collaborative half and a semantic half mapped from frozen LLM embeddings. The
two embedded sequences are fused by cross-attention, one shared backbone runs over both, and the user vector is the pair
of its states, so that a score is the sum of a collaborative and a semantic one. Users with similar LLM embeddings of
their histories teach by self-distillation. Where this departs from the authors' code, docs/fidelity.md says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, MethodConfig, Sizes, Step, Teachers, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch
from longtail.nn.fuse import CrossAttention
from longtail.nn.items import CollaborativeView, ItemVectors, SemanticView, distinct, principal_components
from longtail.nn.layout import Layout
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
    fusion_causal: bool = True
    """Whether the fusion for next-item training sees only what came before; false as in the released code."""
    drop_last: bool = False
    """Student and teachers are encoded without their last training item, as in the released code; who has but one is
    encoded as padding alone."""

    @property
    def needs_embeddings(self) -> bool:
        """For the semantic view and the start of the collaborative one."""
        return True

    @property
    def needs_neighbors(self) -> bool:
        """Similar users only teach."""
        return self.alpha > 0


class LLMESR(TrainedMethod):
    """score(u, i) = [e_co_i ; e_se_i] . [f(S'_co) ; f(S'_se)]; L = L_rank + alpha L_SD."""

    def __init__(self, config: LLMESRConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.alpha, self.teacher = config.alpha, config.teacher
        self.bank: Tensor | None = None
        self.collaborative = CollaborativeView(sizes.items, sizes.d)
        masked = backbone.objective == "cloze"
        self.semantic = SemanticView(sizes.items, sizes.embedding_width, sizes.d, masked=masked)
        self.fusion = CrossAttention(sizes.d) if config.fusion == "cross_attention" else None
        self.fusion_causal, self.drop_last = config.fusion_causal, config.drop_last
        self.drops_last |= self.drop_last or (self.fusion is not None and not self.fusion_causal)
        if self.alpha and self.drops_last:
            self.check_released()

    def check_released(self) -> None:
        """A ConfigError if only the student would lack her last item, or the backbone knows no padding."""
        if not self.drop_last:
            raise ConfigError(
                "backbone.causal or method.fusion_causal is false: training sees ahead, so the last item is only a "
                "target and the student is encoded without it; set method.drop_last = true, or method.alpha = 0"
            )
        self.backbone.padding_state()

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """e_co starts at the first d principal components of e_llm, so that no view starts ahead (sec. 3.2)."""
        assert knowledge.item_embeddings is not None
        self.semantic.attach(knowledge.item_embeddings)
        self.collaborative.start_from(principal_components(knowledge.item_embeddings, self.sizes.d))
        none = np.zeros((len(train.lengths), 0), np.int64)
        self.histories = train.keep(train.ages() > 0) if self.drop_last else train
        self.teaches = train.lengths > 0  # (U + 1,); user 0, "none", does not
        self.neighbors = none if knowledge.neighbors is None else knowledge.neighbors  # (U + 1, M)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[e_co ; e_se], (n, 2d): logit-level fusion is the dot product with the user vector (sec. 3.2)."""
        return torch.cat([self.collaborative(ids), self.semantic(ids)], dim=-1)

    def states(self, vectors: Tensor, layout: Layout) -> Tensor:
        """u = [f(S'_co) ; f(S'_se)] after each item, (T, 2d), with one shared f (sec. 3.2)."""
        states: Tensor = self.backbone(self.fused(vectors, layout), layout)  # (T, 2, d)
        return states.flatten(1)

    def final(self, vectors: Tensor, layout: Layout) -> Tensor:
        """The same after each whole sequence, (B, 2d)."""
        return self.backbone.final(self.fused(vectors, layout), layout).flatten(1)

    def fused(self, vectors: Tensor, layout: Layout) -> Tensor:
        """Item vectors (T, 2d) to the views [S'_co, S'_se], (T, 2, d)."""
        embedded = self.backbone.embed(vectors.view(len(vectors), 2, -1), layout)  # [S_co, S_se]
        if self.fusion is None:
            return embedded
        causal = self.fusion_causal and self.backbone.objective == "next_item"
        fused: Tensor = self.fusion(embedded, layout, causal=causal)
        return fused

    def plan(self, batch: SequenceBatch) -> Step:
        """The step with its teachers: each distinct neighbor once, and the items of their histories."""
        step = super().plan(batch)
        if not self.alpha:
            return step
        neighbors = self.neighbors[batch.users.numpy()]  # (B, M)
        known = torch.from_numpy(self.teaches[neighbors])
        if self.teacher == "bank":
            return step._replace(teachers=Teachers(torch.from_numpy(neighbors), known, None, None))
        users, places = np.unique(neighbors, return_inverse=True)
        runs = list(self.runs(self.histories, users))
        encoded = np.concatenate([run for run, _ in runs]) if runs else np.zeros(0, np.int64)
        row = np.full(len(users), len(encoded))  # of each distinct neighbor among those encoded; after them, of nothing
        row[encoded] = np.arange(len(encoded))
        sequences = tuple(sequences for _, sequences in runs)
        ids = distinct([one.items for one in sequences], self.sizes.items) if runs else None
        return step._replace(teachers=Teachers(torch.from_numpy(row[places]), known, sequences, ids))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """L = L_rank + alpha L_SD (sec. 3.4)."""
        vectors = ItemVectors(self.item_vectors(step.ids), step.ids)
        states = self.batch_states(step.batch, vectors)  # (T, 2d)
        losses = {"rank": self.ranking(states, step.batch, vectors)}
        if step.teachers is not None:
            u = self.batch_users(states, step.batch, vectors)  # (B, 2d)
            t, taught = self.teach(step.teachers)
            losses["distillation"] = self.alpha * self_distillation(u, t, taught)
        return losses

    forward = loss

    def batch_users(self, states: Tensor, batch: SequenceBatch, vectors: ItemVectors) -> Tensor:
        """u (B, 2d); users without a sequence come first."""
        u = super().batch_users(states, batch, vectors)
        missing = len(batch.users) - len(u)
        return torch.cat([self.nothing().expand(missing, -1), u]) if missing else u

    def nothing(self) -> Tensor:
        """The user vector (1, 2d) of nobody's history: that of padding alone with `drop_last`, zero otherwise."""
        if self.drop_last:
            return self.backbone.padding_state().repeat(1, 2)
        return self.collaborative.table.new_zeros(1, 2 * self.sizes.d)

    def teach(self, teachers: Teachers) -> tuple[Tensor, Tensor]:
        """t_u = mean of the neighbors' user vectors, (B, D), and which users have a neighbor to learn from, (B,).

        The neighbors' full training histories are encoded under the current weights, without gradient or dropout, each
        distinct neighbor once; "bank" takes the vectors made at the start of the epoch instead (sec. 3.3).
        """
        with torch.no_grad():
            table = self.bank if teachers.sequences is None else self.teacher_vectors(teachers)
            assert table is not None
            count = teachers.known.sum(1)
            rows = F.embedding(teachers.rows, table) * teachers.known[:, :, None]  # (B, M, D)
            return rows.sum(1) / count.clamp(min=1)[:, None], count > 0

    def teacher_vectors(self, teachers: Teachers) -> Tensor:
        """User vectors (n, D) of the step's distinct neighbors under the current weights."""
        vectors = ItemVectors(self.item_vectors(teachers.ids), teachers.ids)
        with without_dropout(self.backbone):
            runs = [self.final(vectors.of(items), layout) for items, layout in teachers.sequences or ()]
        return torch.cat([*runs, self.nothing()])

    def start_epoch(self) -> None:
        """Refresh the bank of teacher vectors, (U + 1, D), if there is one."""
        if self.teacher == "bank" and self.alpha:
            with without_dropout(self.backbone), torch.no_grad():
                self.bank = self.user_vectors(self.histories, np.arange(len(self.neighbors)))
                self.bank[torch.from_numpy(self.histories.lengths == 0).to(self.bank.device)] = self.nothing()


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode inside the block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def self_distillation(u: Tensor, t: Tensor, taught: Tensor) -> Tensor:
    """L_SD = MSE(u, t), mean over the taught users and D (sec. 3.3); 0 if none is. u, t (B, D); taught (B,)."""
    squares = (u - t).square().mean(1) * taught
    return squares.sum() / taught.sum().clamp(min=1)


methods.register("llmesr")((LLMESRConfig, LLMESR))
