"""longtail: a backbone for whole histories, a graph of items for what texts and successions say, added up.

    v_i         = e_i, trained, from the principal components of the LLM embeddings on ("start"); or W e_llm_i + b + e_i
                  ("map"); or e_i alone ("none")
    score(u, i) = v_i . f(v_1 ... v_n) + sum over the last items j of u of decay^age(j) w(j, i)
    w(j, i)     = gamma_text max(cos(e_llm_j, e_llm_i) - floor_j, 0) + gamma_order s(j, i)
    floor_j     = the cosine of the next text after the `text_neighbors` nearest to j
    s(j, i)     = c(j, i) / (sqrt(n_j n_i) + shrinkage), c(j, i) = sum of fading^(g - 1) over the times that i came g
                  places after j in training, g <= recent; n the training counts
    L           = cross-entropy of the scores, with the text term among them, or without it

Both terms are sparse: a history's items have `text_neighbors` and `order_neighbors` edges each. gamma_text and
gamma_order are chosen on validation when training ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from longtail.data.cooccurrence import followers
from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, MethodConfig, Scores, Sizes, Step, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch
from longtail.nn.graph import ItemGraph, Offsets, nearest_by_text
from longtail.nn.items import CollaborativeView, ItemVectors, SemanticView, principal_components
from longtail.nn.layout import take
from longtail.nn.losses import RankLoss

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of gamma, to choose from on validation


class LongtailConfig(MethodConfig):
    """Settings of longtail; defaults were chosen on validation (docs/beyond.md)."""

    name: Literal["longtail"] = "longtail"
    text: Literal["start", "map", "none"] = "start"
    """What the LLM embeddings are to item vectors."""
    text_weight: NonNegativeFloat = 12.0
    """gamma_text, to begin with."""
    order_weight: NonNegativeFloat = 24.0
    """gamma_order, to begin with."""
    choose: bool = True
    """Whether the two weights are chosen on validation when training ends, or stay."""
    text_neighbors: NonNegativeInt = 50
    """Nearest texts of each item that have an edge."""
    order_neighbors: NonNegativeInt = 100
    """Items that most come after each that have an edge."""
    decay: float = Field(default=0.6, gt=0, le=1)
    """Weight of a history's edges for each item that came after."""
    recent: PositiveInt = 10
    """Items of a history, from the last one back, that have edges."""
    shrinkage: NonNegativeFloat = 4.0
    """Added to the denominator of s, so that what came after a rare item once makes no strong edge."""
    fading: float = Field(default=0.8, gt=0, le=1)
    """What each place further on takes off the count of what came after."""
    offset: bool = False
    """Whether training knows of the text term, so that the backbone learns what is left, or it comes afterwards."""

    @property
    def needs_embeddings(self) -> bool:
        """For the start or the map, and for the edges by text."""
        return self.text != "none" or self.text_weight > 0


class Longtail(TrainedMethod):
    """score(u, i) = v_i . f(v_1 ... v_n) + sum over recent j of decay^age(j) w(j, i)."""

    text_ids: Tensor
    text_edges: Tensor
    order_ids: Tensor
    order_edges: Tensor
    gamma: Tensor

    def __init__(self, config: LongtailConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.settings = config
        self.view = CollaborativeView(sizes.items, sizes.d, backbone.start)
        self.map = SemanticView(sizes.items, sizes.embedding_width, sizes.d) if config.text == "map" else None
        wanted = {"text": config.text_neighbors, "order": config.order_neighbors}
        for name, M in wanted.items():
            self.register_buffer(f"{name}_ids", torch.zeros(sizes.items + 1, min(M, sizes.items), dtype=torch.int32))
            self.register_buffer(f"{name}_edges", torch.zeros(sizes.items + 1, min(M, sizes.items)))
        self.register_buffer("gamma", torch.tensor([config.text_weight, config.order_weight]))
        if config.offset and (rank_loss.offset is None or backbone.objective != "next_item"):
            raise ConfigError(
                "method.offset = true needs train.loss = 'softmax', and a backbone that predicts next items"
            )

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Start the item vectors, and find the edges."""
        embeddings = knowledge.item_embeddings
        if embeddings is not None:
            if self.settings.text == "start":
                self.view.start_from(principal_components(embeddings, self.sizes.d))
            if self.map is not None:
                self.map.attach(embeddings)
            ids, gaps = nearest_by_text(embeddings, self.text_ids.shape[1])
            self.text_ids, self.text_edges = torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(gaps.copy())
        k, shrinkage, fading = self.order_ids.shape[1], self.settings.shrinkage, self.settings.fading
        reach = self.settings.recent
        found = followers(train, self.sizes.items, k, shrinkage=shrinkage, fading=fading, reach=reach)
        self.order_ids, self.order_edges = (torch.from_numpy(each) for each in found)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """v_i, (n, d)."""
        vectors: Tensor = self.view(ids)
        return vectors if self.map is None else vectors + self.map(ids)

    def plan(self, batch: SequenceBatch) -> Step:
        """The step with what the text term adds to its scores."""
        step = super().plan(batch)
        if not self.settings.offset:
            return step
        items, steps, at = batch.sequences.items.numpy(), batch.sequences.layout.steps.numpy(), batch.at.numpy()
        rows, ages = np.nonzero(np.arange(self.settings.recent) <= steps[at, None])  # ages of items that rows have
        graph = ItemGraph(self.text_ids, self.text_edges)
        recency = self.settings.text_weight * self.settings.decay**ages
        return step._replace(extra=graph.offsets(items[at[rows] - ages], rows, recency.astype(np.float32)))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """The ranking loss, with the text term in the scores or without."""
        if not isinstance(step.extra, Offsets) or not len(step.batch.at):
            return super().loss(step)
        assert self.rank_loss.offset is not None
        vectors, batch = ItemVectors(self.item_vectors(step.ids), step.ids), step.batch
        states = take(self.batch_states(batch, vectors), batch.at)
        return {"rank": self.rank_loss.offset(states, batch.targets, batch.negatives, vectors, step.extra)}

    forward = loss

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """Dot products, and the edges of each history's recent items."""
        dots = super().scorer(rows)
        by_text, by_order = self.gamma.tolist()
        weights = torch.cat([by_text * self.text_edges, by_order * self.order_edges], 1)  # (I + 1, M)
        graph = ItemGraph(torch.cat([self.text_ids, self.order_ids], 1), weights)

        def score(histories: Histories) -> Scores:
            recent = histories.last(self.settings.recent)
            for part, scores in dots(histories):
                graph.add_to(scores, recent, part, self.settings.decay)
                yield part, scores

        return score

    def choose(self, validate: Callable[[], float]) -> None:
        """The two weights, one after the other and once more, that are best on validation."""
        if not self.settings.choose:
            return
        begun = self.gamma.clone()
        best = validate()
        for which in (0, 1, 0, 1):
            kept = self.gamma[which].clone()
            for factor in FACTORS:
                self.gamma[which] = factor * begun[which]
                value = validate()
                if value > best:
                    best, kept = value, self.gamma[which].clone()
            self.gamma[which] = kept


methods.register("longtail")((LongtailConfig, Longtail))
