"""LLM-ESR (Liu et al., NeurIPS 2024, arXiv 2405.20646): a dual view of items, and similar users as teachers.

Item vectors are [e_co ; e_se], a trained collaborative half and a semantic half mapped from frozen LLM embeddings. The
two embedded sequences are fused by cross-attention, one shared backbone runs over both, and the user vector is the pair
of its states, so that a score is the sum of a collaborative and a semantic one. Users with similar LLM embeddings of
their histories teach by self-distillation. Where this departs from the authors' code, docs/fidelity.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from longtail.data.groups import head
from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, MethodConfig, Sizes, Step, Teachers, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch
from longtail.nn.contrast import contrastive_distillation, view_alignment
from longtail.nn.fuse import Fusion, Late, sequence_fusion
from longtail.nn.items import Adapter, CollaborativeView, ItemVectors, SemanticView, distinct, principal_components
from longtail.nn.layout import Layout
from longtail.nn.losses import RankLoss


class LLMESRConfig(MethodConfig):
    """LLM-ESR's settings; defaults as in the paper, sec. 4.1."""

    name: Literal["llmesr"] = "llmesr"
    alpha: NonNegativeFloat = 0.1
    """Weight of the self-distillation loss; 0 leaves it out (paper's grid: 1, .5, .1, .05, .01)."""
    teacher: Literal["exact", "bank"] = "exact"
    """Teachers under the current weights at every step, or as they were at the start of the epoch (much cheaper)."""
    distillation: Literal["squared_error", "contrastive"] = "squared_error"
    """How a user learns from her teacher: mean squared error (sec. 3.3), or InfoNCE against the batch's other ones."""
    students_below: float | None = Field(default=None, gt=0, lt=100)
    """Distil only into tail users, with training counts below this percentile (groups: 80); into all if not given."""
    views: Literal["both", "collaborative", "semantic"] = "both"
    """The views an item has; one alone is an ablation of sec. 4.3, and has nothing to fuse: set fusion = "none" too."""
    start: Literal["pca", "random"] = "pca"
    """Where e_co starts: at principal components of e_llm (sec. 3.2), or drawn as the backbone's weights (ablation)."""
    adapter: Adapter = "two_layers"
    """From e_llm to e_se: widths E -> E / 2 -> d (sec. 3.2), or one layer E -> d (ablation of sec. 4.3)."""
    view_adapters: Literal["joint", "each"] = "joint"
    """Of several semantic views, text.views: one adapter over all of them side by side, or one a view, added up."""
    embeddings: Literal["frozen", "trained"] = "frozen"
    """Whether e_llm stays as the LLM made it (sec. 3.2); "trained" takes four times its memory and saves all of it."""
    encoder: Literal["shared", "split"] = "shared"
    """One backbone for both views (sec. 3.2), or one a view, positions included (ablation of sec. 4.3)."""
    fusion: Fusion = "cross_attention"
    """Of the views' sequences: "cross_attention" (sec. 3.2), "none" (ablation of sec. 4.3), and beyond the paper
    "gated" and "residual" cross-attention; "late": none, but a trained weight a view on the scores."""
    fusion_causal: bool = True
    """Whether the fusion for next-item training sees only what came before; false as in the released code."""
    drop_last: bool = False
    """Student and teachers are encoded without their last training item, as in the released code; who has but one is
    encoded as padding alone."""
    alignment: NonNegativeFloat = 0.0
    """Weight of a contrastive loss that aligns e_co and e_se of a batch's items; 0 leaves it out (released: --beta)."""
    temperature: PositiveFloat = 0.2
    """tau of the contrastive distillation and of the alignment (as RLMRec's; LLM-ESR has none)."""

    @model_validator(mode="after")
    def _one_view_has_no_settings_of_two(self) -> Self:
        if self.views == "both":
            return self
        adapted = {"adapter": "two_layers", "view_adapters": "joint", "embeddings": "frozen"}
        missing = {"start": "pca"} if self.views == "semantic" else adapted
        needed = {"fusion": "none", "fusion_causal": True, "encoder": "shared", "alignment": 0.0, **missing}
        for field, value in needed.items():
            if (given := getattr(self, field)) != value:
                raise ValueError(
                    f"views = {self.views!r} leaves nothing for {field} = {given!r} to work on; "
                    f"set {field} = {value!r}, or views = 'both'"
                )
        return self

    @property
    def needs_embeddings(self) -> bool:
        """For the semantic view and the start of the collaborative one."""
        return self.views != "collaborative" or self.start == "pca"

    @property
    def needs_neighbors(self) -> bool:
        """Similar users only teach."""
        return self.alpha > 0


class Aligned(NamedTuple):
    """The distinct items (n,) of a step's sequences, whose views are aligned."""

    items: Tensor


class LLMESR(TrainedMethod):
    """score(u, i) = [e_co_i ; e_se_i] . [f(S'_co) ; f(S'_se)]; L = L_rank + alpha L_SD.

    V views of an item, 2 unless an ablation leaves one out; vectors are V d wide.
    """

    def __init__(self, config: LLMESRConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.alpha, self.teacher, self.alignment = config.alpha, config.teacher, config.alignment
        self.temperature, self.students_below = config.temperature, config.students_below
        contrastive = partial(contrastive_distillation, temperature=config.temperature)
        self.distil: Callable[[Tensor, Tensor, Tensor], Tensor]
        self.distil = contrastive if config.distillation == "contrastive" else self_distillation
        self.bank: Tensor | None = None
        self.views = 2 if config.views == "both" else 1
        self.collaborative: CollaborativeView | None = None
        self.semantic: SemanticView | None = None
        if config.views != "semantic":
            self.collaborative = CollaborativeView(sizes.items, sizes.d, backbone.start)
        if config.views != "collaborative":
            masked, trained = backbone.objective == "cloze", config.embeddings == "trained"
            self.semantic = SemanticView(
                sizes.items, sizes.embedding_width, sizes.d, adapter=config.adapter, trained=trained, masked=masked,
                views=sizes.views, each=config.view_adapters == "each",
            )  # fmt: skip
        self.pca = config.start == "pca"
        self.fusion = sequence_fusion(config.fusion, sizes.d)
        self.late = Late() if config.fusion == "late" else None
        self.twin = type(backbone)(backbone.config) if config.encoder == "split" else None
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
        embeddings = knowledge.item_embeddings
        if self.semantic is not None:
            assert embeddings is not None
            self.semantic.attach(embeddings, knowledge.lacking)
        if self.collaborative is not None and self.pca:
            assert embeddings is not None
            self.collaborative.start_from(principal_components(embeddings, self.sizes.d))
        none = np.zeros((len(train.lengths), 0), np.int64)
        self.histories = train.keep(train.ages() > 0) if self.drop_last else train
        self.teaches = train.lengths > 0  # (U + 1,); user 0, "none", does not
        self.neighbors = none if knowledge.neighbors is None else knowledge.neighbors  # (U + 1, M)
        if self.students_below is not None:
            self.neighbors = np.where(head(train.lengths, self.students_below)[:, None], 0, self.neighbors)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[e_co ; e_se], (n, V d): logit-level fusion is the dot product with the user vector (sec. 3.2)."""
        return torch.cat([view(ids) for view in (self.collaborative, self.semantic) if view is not None], dim=-1)

    def semantic_view(self) -> tuple[SemanticView, int] | None:
        """e_se, which comes last."""
        return None if self.semantic is None else (self.semantic, (self.views - 1) * self.sizes.d)

    def states(self, vectors: Tensor, layout: Layout) -> Tensor:
        """u = [f(S'_co) ; f(S'_se)] after each item, (T, V d), with one shared f (sec. 3.2)."""
        return self.joined(self.by_view(self.fused(vectors, layout), lambda f, sequence: f(sequence, layout)))

    def final(self, vectors: Tensor, layout: Layout) -> Tensor:
        """The same after each whole sequence, (B, V d)."""
        return self.joined(self.by_view(self.fused(vectors, layout), lambda f, sequence: f.final(sequence, layout)))

    def by_view(self, x: Tensor, run: Callable[[Backbone, Tensor], Tensor]) -> Tensor:
        """`run` with the shared backbone on all views of x (n, V, d), or with split encoders each with its own."""
        encoders = self.encoders()
        ran = [run(f, part) for f, part in zip(encoders, x.chunk(len(encoders), 1), strict=True)]
        return ran[0] if len(ran) == 1 else torch.cat(ran, 1)

    def encoders(self) -> list[Backbone]:
        """The one backbone of all views, or that of each."""
        return [self.backbone] if self.twin is None else [self.backbone, self.twin]

    def joined(self, states: Tensor) -> Tensor:
        """The views' states (n, V, d) as one user vector (n, V d)."""
        return (states if self.late is None else self.late(states)).flatten(1)

    def fused(self, vectors: Tensor, layout: Layout) -> Tensor:
        """Item vectors (T, V d) to the views [S'_co, S'_se], (T, V, d)."""
        by_view = torch.unflatten(vectors, 1, (-1, self.sizes.d))
        embedded = self.by_view(by_view, lambda f, sequence: f.embed(sequence, layout))  # [S_co, S_se]
        if self.fusion is None:
            return embedded
        causal = self.fusion_causal and self.backbone.objective == "next_item"
        fused: Tensor = self.fusion(embedded, layout, causal=causal)
        return fused

    def plan(self, batch: SequenceBatch) -> Step:
        """The step with its teachers: each distinct neighbor once, and the items of their histories."""
        step = super().plan(batch)
        if self.alignment:
            items = batch.sequences.items
            step = step._replace(extra=Aligned(torch.unique(items[items > 0])))
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
        """L = L_rank + alpha L_SD (sec. 3.4), + the alignment of the views if it is wanted."""
        vectors = ItemVectors(self.item_vectors(step.ids), step.ids)
        states = self.batch_states(step.batch, vectors)  # (T, V d)
        losses = {"rank": self.ranking(states, step.batch, vectors)}
        if step.teachers is not None:
            u = self.batch_users(states, step.batch, vectors)  # (B, V d)
            t, taught = self.teach(step.teachers)
            losses["distillation"] = self.alpha * self.distil(u, t, taught)
        if isinstance(step.extra, Aligned):
            co, se = vectors.of(step.extra.items).chunk(2, -1)  # (n, d) each
            losses["alignment"] = self.alignment * view_alignment(co, se, self.temperature)
        return losses

    forward = loss

    def batch_users(self, states: Tensor, batch: SequenceBatch, vectors: ItemVectors) -> Tensor:
        """u (B, V d); users without a sequence come first."""
        u = super().batch_users(states, batch, vectors)
        missing = len(batch.users) - len(u)
        return torch.cat([self.nothing().expand(missing, -1), u]) if missing else u

    def nothing(self) -> Tensor:
        """The user vector (1, V d) of nobody's history: that of padding alone with `drop_last`, zero otherwise."""
        if not self.drop_last:
            return next(self.parameters()).new_zeros(1, self.views * self.sizes.d)
        alone = torch.stack([f.padding_state() for f in self.encoders()])  # (V, d), or (1, d) if shared
        return self.joined(alone.expand(1, self.views, -1))

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
        with without_dropout(*self.encoders()):
            runs = [self.final(vectors.of(items), layout) for items, layout in teachers.sequences or ()]
        return torch.cat([*runs, self.nothing()])

    def start_epoch(self) -> None:
        """Refresh the bank of teacher vectors, (U + 1, D), if there is one."""
        if self.teacher == "bank" and self.alpha:
            with without_dropout(*self.encoders()), torch.no_grad():
                self.bank = self.user_vectors(self.histories, np.arange(len(self.neighbors)))
                self.bank[torch.from_numpy(self.histories.lengths == 0).to(self.bank.device)] = self.nothing()


@contextmanager
def without_dropout(*modules: nn.Module) -> Iterator[None]:
    """`modules` in evaluation mode inside the block."""
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, before in zip(modules, training, strict=True):
            module.train(before)


def self_distillation(u: Tensor, t: Tensor, taught: Tensor) -> Tensor:
    """L_SD = MSE(u, t), mean over the taught users and D (sec. 3.3); 0 if none is. u, t (B, D); taught (B,)."""
    squares = (u - t).square().mean(1) * taught
    return squares.sum() / taught.sum().clamp(min=1)


methods.register("llmesr")((LLMESRConfig, LLMESR))
