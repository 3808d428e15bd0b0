"""longtail: a trained method for whole histories, and a graph of items for what texts and successions say, added up.

    score(u, i) = v_i . f(u) + sum over the last items j of u of decay^age(j) w(j, i) - tail log(1 + n_i)
    w(j, i)     = gamma_text max(cos(e_j, e_i) - floor_j, 0) + gamma_order s(j, i)
    floor_j     = cosine of the text that comes after the `text_neighbors` nearest to j's
    s(j, i)     = c(j, i) / (sqrt(n_j n_i) + shrinkage), c(j, i) = sum of fading^(g - 1) over the times that i came g
                  places after j in training, g <= recent; s(j, j), where people come back, as in `followers`
    L           = that of the method, whose cross-entropy is of v_i . f(u) + the text term

v_i . f(u) is the score of `inner`, LLMInit on SASRec unless told otherwise; e are the LLM embeddings and n the training
counts. The graph is sparse: an item has `text_neighbors` + `order_neighbors` edges, so that a history adds to a few
hundred scores. The text term is there in training, so that the method learns what it leaves; the order term comes
afterwards, because it holds the very successions that training asks for. gamma_text, gamma_order and then tail are
chosen on validation when training ends.

Where each term is from, and the NDCG@10 on Amazon Beauty (validation; tail items of test) that is left without it, of
.0839; .0476 with the dial at 0 (docs/beyond.md):

    text        nearest neighbors by text, cosines above a local floor as in CSLS (Conneau et al., 2018)  .0805; .0366
      offset    the same, but after training only                                                         .0829; .0502
    order       item-kNN with recency and shrinkage (Bell and Koren, 2007), made directed                 .0770; .0430
    both        LLMInit (Harte et al., 2023) under softmax, which is left                                 .0733; .0362
    tail        logit adjustment (Menon et al., 2021): at its knee .0833; .0536, where 0 has .0840
    cold items  vectors by ridge regression of the trained ones on texts, when training ends: HR@10 of items that nobody
                had .120 where softmax leaves them at .004
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from longtail.config import Value
from longtail.data.cooccurrence import followers
from longtail.data.histories import Histories, IntArray
from longtail.methods.around import Around, AroundConfig
from longtail.methods.base import Knowledge, Scores, Sizes, Step, Validation, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch
from longtail.nn.dial import DIAL, best_weights, knee
from longtail.nn.graph import Edges, Offsets, joined, nearest_by_text
from longtail.nn.items import CollaborativeView, FloatArray, ItemVectors
from longtail.nn.losses import RankLoss
from longtail.nn.negatives import Negatives
from longtail.nn.served import Graphs


class LongtailConfig(AroundConfig):
    """Settings of longtail; defaults were chosen on validation (docs/beyond.md)."""

    training: ClassVar[Mapping[str, Value]] = {"loss": "softmax", "lr": 2e-3, "epochs": 40, "patience": 4}

    name: Literal["longtail"] = "longtail"
    text_weight: NonNegativeFloat = 14.0
    """gamma_text, in training and to begin the choice with; 0 leaves the term out."""
    order_weight: NonNegativeFloat = 24.0
    """gamma_order, to begin the choice with; 0 leaves the term out."""
    choose: bool = True
    """Whether the two weights are chosen on validation when training ends, or stay."""
    offset: bool = True
    """Whether training knows of the text term, where its loss is a softmax of next items, or it comes afterwards."""
    text_neighbors: NonNegativeInt = 50
    """Nearest texts of each item that have an edge."""
    order_neighbors: NonNegativeInt = 100
    """Items that most came after each that have an edge."""
    decay: float = Field(default=0.6, gt=0, le=1)
    """Weight of a history's edges for each item that came after."""
    recent: PositiveInt = 10
    """Items of a history, from the last one back, that have edges."""
    shrinkage: NonNegativeFloat = 4.0
    """Added to the denominator of s, so that what once came after a rare item makes no strong edge."""
    fading: float = Field(default=0.8, gt=0, le=1)
    """What each place further on takes off the count of what came after."""
    tail: float | None = Field(default=None, ge=0, le=1)
    """The dial from most accurate overall, 0, to most exposure for the tail, 1; its knee on validation if none, which
    pays one hundredth of the overall at most."""

    @property
    def needs_embeddings(self) -> bool:
        """For the edges by text, and what the method inside wants."""
        return self.text_weight > 0 or self.inner.needs_embeddings


class Inside(NamedTuple):
    """What the method inside wants of a step besides, and what the text term adds to its scores, if anything."""

    extra: tuple[object, ...] | None
    offsets: Offsets | None


class Longtail(Around):
    """score(u, i) = v_i . f(u) + sum over recent j of decay^age(j) w(j, i) - tail log(1 + n_i)."""

    gamma: Tensor
    dial: Tensor
    log_counts: Tensor

    def __init__(self, config: LongtailConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss._replace(compute=self.compute), sizes)
        self.settings, self.plain_loss = config, rank_loss
        self.offsets: Offsets | None = None  # of the step whose loss is computed
        self.told: tuple[FloatArray, IntArray] | None = None  # embeddings and training counts, until training ends
        self.text = Edges(sizes.items, config.text_neighbors if config.text_weight else 0)
        self.order = Edges(sizes.items, config.order_neighbors if config.order_weight else 0)
        can = rank_loss.offset is not None and backbone.objective == "next_item"
        self.offset = config.offset and config.text_weight > 0 and can
        self.register_buffer("gamma", torch.tensor([config.text_weight, config.order_weight]))
        self.register_buffer("dial", torch.tensor(config.tail or 0.0))
        self.register_buffer("log_counts", torch.zeros(sizes.items + 1))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Prepare the method inside, and find the edges."""
        self.inner.prepare(train, knowledge)
        settings, items = self.settings, self.sizes.items
        counts = train.counts(items)
        self.log_counts = torch.from_numpy(np.log1p(counts)).float()
        if knowledge.item_embeddings is not None:
            self.told = knowledge.item_embeddings, counts
        if self.text.M:
            assert knowledge.item_embeddings is not None
            self.text.set(*nearest_by_text(knowledge.item_embeddings, self.text.M))
        if self.order.M:
            fading, reach = settings.fading, settings.recent
            found = followers(train, items, self.order.M, shrinkage=settings.shrinkage, fading=fading, reach=reach)
            self.order.set(*found)

    def graphs(self) -> Graphs:
        """Both graphs, with the weights that were chosen."""
        by_text, by_order = self.gamma.tolist()
        return Graphs(
            self.text.graph(), self.order.graph(), (by_text, by_order), self.settings.decay, self.settings.recent
        )

    def plan(self, batch: SequenceBatch) -> Step:
        """The step of the method inside, with what the text term adds to its scores."""
        step = self.inner.plan(batch)
        if not self.offset:
            return step._replace(extra=Inside(step.extra, None))
        items, steps, at = batch.sequences.items.numpy(), batch.sequences.layout.steps.numpy(), batch.at.numpy()
        rows, ages = np.nonzero(np.arange(self.settings.recent) <= steps[at, None])  # ages of the items rows have
        recency = (self.settings.text_weight * self.settings.decay**ages).astype(np.float32)
        offsets = self.text.graph().offsets(items[at[rows] - ages], rows, recency)
        return step._replace(extra=Inside(step.extra, offsets))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """The losses of the method inside, the ranking loss over the sums."""
        assert isinstance(step.extra, Inside)
        self.offsets = step.extra.offsets
        return self.inner.loss(step._replace(extra=step.extra.extra))

    forward = loss

    def compute(self, states: Tensor, targets: Tensor, negatives: Negatives, vectors: ItemVectors) -> Tensor:
        """The ranking loss of the step, with its offsets."""
        if self.offsets is None:
            return self.plain_loss.compute(states, targets, negatives, vectors)
        assert self.plain_loss.offset is not None
        return self.plain_loss.offset(states, targets, negatives, vectors, self.offsets)

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """The scores of the method inside, the edges of each history's recent items, and the dial."""
        scored = self.inner.scorer(rows)
        by_text, by_order = self.gamma.tolist()
        graph = joined(self.text.graph(by_text), self.order.graph(by_order))
        handicap = self.dial * self.log_counts if self.dial else None

        def score(histories: Histories) -> Scores:
            add = graph.adder(histories.last(self.settings.recent), self.settings.decay)
            for part, scores in scored(histories):
                add(scores, part)
                yield part, scores if handicap is None else scores.sub_(handicap)

        return score

    def choose(self, validate: Callable[[], Validation]) -> None:
        """Vectors of items that nobody has had yet; the two weights that are best overall on validation; the dial."""
        if self.told is not None:
            for view in self.inner.modules():
                if isinstance(view, CollaborativeView):
                    view.fill(*self.told)
            self.told = None
        if self.settings.choose:
            best_weights(self.gamma, lambda: validate().overall)
        if self.settings.tail is None:
            curve = {}
            for value in DIAL:
                self.dial.fill_(value)
                curve[value] = validate()
            self.dial.fill_(knee(curve))


methods.register("longtail")((LongtailConfig, Longtail))
