"""CITIES (Jang et al., ICDM 2020, arXiv 2105.10868): the vector of a rare item is inferred from what stands around it.

Three stages: the plain backbone is trained; a function F learns, on head items, to find an item's trained vector from
its contexts, while the backbone and the vectors are frozen; tail items take F's vectors, and all but F is trained on.

    context     the items at most 24 places before or after an occurrence of i in a training sequence, without it
    F           h = Encoder(p_t e_t + s_t) over the items of a context, t counting their places around i
                z = mean of h;  F(i) = W (mean of Aggregator(z) over K contexts) + b
                both of two layers x = LN(x + Attn(x)), x = LN(x + FFN(x)), in which all sees all; p_t learned, from 1;
                s_t sinusoids / sqrt(d); FFN d -> 2d -> d with ReLU
    stage 2     L = mean over head items of (F(i) - e_i)^2,  K uniform in 1 .. 10, a step's, if there are as many
    stage 3     begins with e_i = F(i) over all contexts of i, for tail items i; L = L_rank

A tail item has at most 5 training interactions. From the code that an author released (swonj90/CITIES), with these
differences. There head items are dealt out once an epoch, 128 a step; here as many are drawn with each batch of users
as make one draw each an epoch. There a [MASK] stands in the place of the item, whose vector the backbone has to have;
here nothing does. There F has its own Adam (1e-4, warmed up, decayed) for one epoch, and is chosen by the error on 5 %
of the head items; here it has the run's, and the epoch is chosen as everywhere, by validation NDCG@10, with F's vectors
for tail items. There these vectors are put in and that is all; here training goes on, and may stop after an epoch.
There the sinusoids' exponent leaves all but the first nearly constant; here they are the usual ones. Not confirmed from
a source: what the paper itself says of training on, of the threshold and of sizes.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from longtail.data.histories import Histories, IntArray
from longtail.data.occurrences import ends, occurrences, some_of_each, windows
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, MethodConfig, Sizes, Step, TrainedMethod, generator, methods, parts
from longtail.nn.attention import Attention
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch, Sequences, gather
from longtail.nn.dropout import Dropout
from longtail.nn.items import CollaborativeView
from longtail.nn.layout import Layout, lay_out, length_bounds, moved, take
from longtail.nn.losses import RankLoss

HEADS, LAYERS, DROPOUT = 4, 2, 0.2  # of F, as in the released code, which drops attention weights more
ITEMS = 128  # tail items whose vectors are inferred at once


class CITIESConfig(MethodConfig):
    """CITIES' settings; defaults as in its released code."""

    name: Literal["cities"] = "cities"
    tail_count: PositiveInt = 5
    """An item is tail with at most so many training interactions; F learns from the others."""
    window: PositiveInt = 24
    """Items before and after an occurrence that are its context."""
    contexts: PositiveInt = 10
    """Contexts of a head item at most in a step: F is to do with few."""


class Contexts(NamedTuple):
    """m contexts of b items.

    sequences: the contexts, shortest first; away (T,): how far each of their items is from the item they are of, from 0
    for the farthest before; places (m,): where each context is among the sequences, by item; groups: the contexts of an
    item as a sequence.
    """

    sequences: Sequences
    away: Tensor
    places: Tensor
    groups: Layout
    items: Tensor  # (b,)


class CITIES(TrainedMethod):
    """score(u, i) = e_i . f(e_1 ... e_n), with e_i started at F(contexts of i) for tail items."""

    stages: ClassVar[int] = 3

    def __init__(self, config: CITIESConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.settings = config
        self.view = CollaborativeView(sizes.items, sizes.d, backbone.start)
        self.function = Inference(sizes.d, config.window)
        self.inferred: Tensor | None = None

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Which items are head, and where each item that has a context occurs."""
        found = occurrences(train, self.sizes.items)
        first, last = ends(train, found.items)
        self.histories, self.places = train, found.keep(last > first)
        counts, contexts, self.trained = found.lengths, self.places.lengths, np.count_nonzero(train.lengths)
        self.head_items = np.flatnonzero((counts > self.settings.tail_count) & (contexts > 0))
        self.tail_items = np.flatnonzero((counts <= self.settings.tail_count) & (contexts > 0))
        if not len(self.head_items):
            raise ConfigError(
                f"method.tail_count = {self.settings.tail_count}: no item has more training interactions, so that "
                f"there is nothing to learn from (the most is {counts.max()}); set a lower one"
            )

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d): the trained table, with what F makes of tail items while F is validated."""
        if self.inferred is None or self.training or self.stage != 2:
            vectors: Tensor = self.view(ids)
            return vectors
        table = self.view.table.index_copy(0, torch.from_numpy(self.tail_items).to(self.inferred.device), self.inferred)
        return table if ids is None else table[ids]

    def train(self, mode: bool = True) -> CITIES:
        """Entering evaluation in the second stage infers the vectors of tail items."""
        infers = self.training and not mode and self.stage == 2
        super().train(mode)
        if infers:
            self.inferred = self.infer()
        return self

    def infer(self) -> Tensor:
        """F over all contexts of each tail item, (t, d)."""
        self.function.eval()
        device = self.view.table.device
        with torch.no_grad():
            rows = [
                self.function(self.view.table, moved(self.contexts(self.tail_items[part]), device))
                for part in parts(len(self.tail_items), ITEMS)
            ]
        return torch.cat([self.view.table.new_zeros(0, self.sizes.d), *rows])

    def start_stage(self) -> None:
        """Tail items take the vectors that F finds, before the third stage."""
        if self.stage == 3:
            rows = self.infer()
            with torch.no_grad():
                self.view.table.index_copy_(0, torch.from_numpy(self.tail_items).to(rows.device), rows)

    def start_epoch(self) -> None:
        """Other draws."""
        self.draws = generator()

    def plan(self, batch: SequenceBatch) -> Step:
        """The step; in the second stage with head items, and a few contexts of each."""
        step = super().plan(batch)
        if self.stage != 2:
            return step
        n = math.ceil(len(self.head_items) * min(len(batch.users) / self.trained, 1))
        items = self.draws.choice(self.head_items, n, replace=False)
        return step._replace(extra=self.contexts(items, int(self.draws.integers(1, self.settings.contexts + 1))))

    def contexts(self, items: IntArray, K: int | None = None) -> Contexts:
        """Contexts of items (b,), all or at random K of each."""
        found = self.places.select(items)
        places, owners = found.items, found.owners() - 1
        if K is not None:
            chosen = some_of_each(owners, np.full(len(items), K), self.draws)
            places, owners = places[chosen], owners[chosen]
        around, away = windows(self.histories, places, self.settings.window)
        users, longest = np.argsort(around.lengths[1:], kind="stable") + 1, 2 * self.settings.window
        sequences = gather(around, users, longest, length_bounds(around.lengths[users], 1))
        distances = gather(Histories(away + self.settings.window, around.offsets), users, longest).items
        groups = lay_out(np.bincount(owners))
        return Contexts(sequences, distances, torch.from_numpy(np.argsort(users)), groups, torch.from_numpy(items))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """L_rank, or in the second stage the mean squared error of F, which alone learns then."""
        if step.extra is None:
            return super().loss(step)
        assert isinstance(step.extra, Contexts)
        table = self.view.table.detach()
        return {"inference": (self.function(table, step.extra) - table[step.extra.items]).square().mean()}

    forward = loss


class Inference(nn.Module):
    """F: contexts of items to their vectors (CITIES, released code)."""

    sinusoids: Tensor

    def __init__(self, d: int, window: int) -> None:
        super().__init__()
        if d % HEADS:
            raise ConfigError(f"backbone.d = {d} cannot be split into the {HEADS} heads of cities; choose a multiple")
        self.positions = nn.Parameter(torch.ones(2 * window + 1))
        angles = torch.arange(2.0 * window + 1)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, d, 2) / d)
        waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1) / d**0.5
        self.register_buffer("sinusoids", waves, persistent=False)  # (2 window + 1, d)
        self.dropout = Dropout(DROPOUT)
        self.encoder = nn.ModuleList(Layer(d) for _ in range(LAYERS))
        self.aggregator = nn.ModuleList(Layer(d) for _ in range(LAYERS))
        self.output = nn.Linear(d, d)

    def forward(self, table: Tensor, contexts: Contexts) -> Tensor:
        """Vectors (b, d) of the items, from the vectors (I + 1, d) of the items around them."""
        items, layout = contexts.sequences
        x = self.positions[contexts.away, None] * table[items] + self.sinusoids[contexts.away]  # (T, d)
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x, layout)
        z = take(mean(x, layout), contexts.places)  # (m, d)
        for layer in self.aggregator:
            z = layer(z, contexts.groups)
        vectors: Tensor = self.output(mean(z, contexts.groups))
        return vectors


class Layer(nn.Module):
    """x = LN(x + Attn(x)); LN(x + FFN(x)), every token seeing all of its sequence."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.attention = Attention(d, HEADS, bias=True, dropout=DROPOUT)
        self.feed_forward = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), Dropout(DROPOUT), nn.Linear(2 * d, d))
        self.attention_norm, self.forward_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = Dropout(DROPOUT)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(T, d) to (T, d)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, x, layout, causal=False)))
        out: Tensor = self.forward_norm(x + self.dropout(self.feed_forward(x)))
        return out


def mean(x: Tensor, layout: Layout) -> Tensor:
    """(T, d) to the mean of each sequence, (B, d)."""
    return torch.cat([box.sum(1) for box in layout.pad(x)]) / layout.lengths[:, None]


methods.register("cities")((CITIESConfig, CITIES))
