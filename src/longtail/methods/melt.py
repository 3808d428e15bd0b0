"""MELT (Kim et al., SIGIR 2023, arXiv 2304.08382): two branches learn, on head users and items, what long histories and
popular items have over short and rare ones, and lend it to the tail.

Two stages: the plain backbone is trained, then backbone and branches together, from its best weights.

    user branch  L_U = mean over head users of w_u (W_U f(last R items) - f(all items))^2,  R uniform in 1 .. t_U - 1
                 w_u = |sin(pi/2 epoch / e_max + pi/2 (n_u - t_U - 1) / (L - t_U - 1))|
    item branch  L_I = mean over head items of w_i (W_I c_i - e_i)^2,  c_i = mean of z + W_U z over K contexts,
                 z = f(context),  w_i = |sin(pi/2 epoch / e_max + pi/100 (min(n_i, t_I + 50) - t_I - 1))|
    contexts     of an item: training sequences up to an occurrence of it, and from one on, reversed; both end in it;
                 K uniform in 1 .. min(t_I, as many as there are)
    each epoch   begins with e_i = W_I c_i over all contexts of i, for tail items i
    training     L = L_rank + lambda_U L_U + lambda_I L_I
    serving      u + W_U u for tail users

n_u: the length of a training history, at most L; n_i: the training count of an item; a user or an item is tail up to
t_U or t_I, percentiles of both; epochs are the second stage's, from 0. From the authors' released code (rlqja1107/MELT,
on SASRec), with these differences. There the weight of an item is squared, here it weighs the squared error, as in
L_U. There c_i is the mean of z alone where tail rows are overwritten, although W_I was trained on z + W_U z; here it is
the same in both. There head users and items are dealt out once an epoch; here the users are those of the batch, and as
many items are drawn with each batch as make one draw each an epoch. There L is the cut of sequences at 50, here the
longest that is encoded. There a tail user is one of a short training history, here of a short history as it is served,
so that new users are treated alike. There and here the item branch trains W_U too, which can spoil it for users
(docs/fidelity.md). Not confirmed from a source: which of the first two the paper itself states.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from longtail.data.histories import Histories, IntArray
from longtail.data.occurrences import ends, occurrences, passages, some_of_each
from longtail.methods.base import (
    Knowledge,
    MethodConfig,
    Sizes,
    Step,
    TrainedMethod,
    generator,
    methods,
    parts,
)
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch, Sequences
from longtail.nn.items import CollaborativeView, ItemVectors
from longtail.nn.layout import take
from longtail.nn.losses import RankLoss

ITEMS = 512  # tail items whose contexts are encoded at once
SPAN = 50  # training interactions above t_I over which the weight of an item changes, as in the released code


class MELTConfig(MethodConfig):
    """MELT's settings; defaults as in its released code for Amazon Beauty."""

    name: Literal["melt"] = "melt"
    lambda_user: NonNegativeFloat = 0.1
    """Weight of the user branch; 0 leaves it out, in serving too (released: .1 to .4)."""
    lambda_item: NonNegativeFloat = 0.4
    """Weight of the item branch; 0 leaves it out, and no row is overwritten (released: .2 to .4)."""
    e_max: PositiveInt = 180
    """Epochs of the second stage in which the weights turn by a quarter (released: 180 or 200)."""
    user_percentile: float = Field(default=80.0, ge=0, lt=100)
    """A user is tail whose training history is at most this percentile of all lengths (released: 80 or 50)."""
    item_percentile: float = Field(default=78.0, ge=0, lt=100)
    """An item is tail whose training count is at most this percentile of all counts above 0 (released: 78 or 48)."""


class Packed(NamedTuple):
    """n sequences in runs of similar length, and where each of them is among these, (n,)."""

    runs: tuple[Sequences, ...]
    places: Tensor


class Users(NamedTuple):
    """b head users: their short histories and then their full ones."""

    histories: Packed  # 2b
    weights: Tensor  # (b,)


class Items(NamedTuple):
    """b head items: m contexts, and which of 0..b each is of."""

    contexts: Packed
    owners: Tensor  # (m,)
    items: Tensor  # (b,)
    weights: Tensor  # (b,)


class Branches(NamedTuple):
    """What the two branches learn from in a step; None where there is nothing."""

    users: Users | None
    items: Items | None


class MELT(TrainedMethod):
    """score(u, i) = e_i . u, with u + W_U u for short histories, and e_i = W_I c_i for tail items as epochs begin."""

    stages: ClassVar[int] = 2
    user_threshold: Tensor

    def __init__(self, config: MELTConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.settings = config
        self.view = CollaborativeView(sizes.items, sizes.d, backbone.start)
        self.user_branch, self.item_branch = nn.Linear(sizes.d, sizes.d), nn.Linear(sizes.d, sizes.d)
        for branch in (self.user_branch, self.item_branch):
            nn.init.xavier_normal_(branch.weight)
        self.register_buffer("user_threshold", torch.zeros((), dtype=torch.int64))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Which users and items are head, and where each item occurs."""
        lengths, counts = train.lengths, train.counts(self.sizes.items)
        self.t_user = int(np.percentile(lengths[lengths > 0], self.settings.user_percentile))
        self.t_item = int(np.percentile(counts[counts > 0], self.settings.item_percentile))
        self.user_threshold.fill_(self.t_user)
        self.head_items = np.flatnonzero(counts > self.t_item)
        self.tail_items = np.flatnonzero((counts > 0) & (counts <= self.t_item))
        self.histories, self.counts = train, counts
        self.places, self.trained = occurrences(train, self.sizes.items), int((lengths > 0).sum())

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d): the trained table."""
        vectors: Tensor = self.view(ids)
        return vectors

    def served(self, u: Tensor, lengths: Tensor) -> Tensor:
        """u + W_U u after a history that is not longer than t_U."""
        if self.stage == 1 or not self.settings.lambda_user:
            return u
        tail = (lengths > 0) & (lengths <= self.user_threshold)
        served: Tensor = u + self.user_branch(u) * tail[:, None]
        return served

    def start_epoch(self) -> None:
        """Overwrite the rows of tail items, in the second stage."""
        self.draws = generator()
        if self.stage == 1 or not self.settings.lambda_item:
            return
        training = self.training
        self.eval()
        with torch.no_grad():
            for part in parts(len(self.tail_items), ITEMS):
                items = self.tail_items[part]
                contexts, owners = self.contexts(items)
                z = self.user_vectors(contexts, np.arange(1, contexts.users + 1))  # (m, d)
                c = self.context(z, torch.from_numpy(owners).to(z.device), len(items))
                self.view.table.index_copy_(0, torch.from_numpy(items).to(z.device), self.item_branch(c))
        self.train(training)

    def contexts(self, items: IntArray, few: bool = False) -> tuple[Histories, IntArray]:
        """Contexts of items (b,), all or a `few` of each, as users 1..m, and which of 0..b each is of, (m,)."""
        found = self.places.select(items)
        first, last = ends(self.histories, found.items)
        two = last > first  # a sequence of one item is the same both ways
        places = np.concatenate([found.items, found.items[two]])
        owners = np.concatenate([found.owners(), found.owners()[two]]) - 1
        backwards = np.arange(len(places)) >= len(found.items)
        if few:
            K = self.draws.integers(1, np.minimum(np.bincount(owners), self.t_item) + 1)
            chosen = some_of_each(owners, K, self.draws)
            places, owners, backwards = places[chosen], owners[chosen], backwards[chosen]
        return passages(self.histories, places, backwards, self.sizes.max_len), owners

    def context(self, z: Tensor, owners: Tensor, items: int) -> Tensor:
        """c_i: the mean of z + W_U z over the contexts (m, d) of each of b items, (b, d)."""
        if self.settings.lambda_user:
            z = z + self.user_branch(z)
        total = z.new_zeros(items, z.shape[1]).index_add_(0, owners, z)
        return total / z.new_zeros(items).index_add_(0, owners, z.new_ones(len(z)))[:, None]

    def plan(self, batch: SequenceBatch) -> Step:
        """The step with what the branches learn from, in the second stage."""
        step = super().plan(batch)
        if self.stage == 1:
            return step
        return step._replace(ids=None, extra=Branches(self.some_users(batch), self.some_items(len(batch.users))))

    def some_users(self, batch: SequenceBatch) -> Users | None:
        """The head users of the batch, with R recent items of each."""
        users = np.unique(batch.users.numpy())
        users = users[self.histories.lengths[users] > self.t_user]
        if not len(users) or not self.settings.lambda_user:
            return None
        L, R = self.sizes.max_len, self.draws.integers(1, max(self.t_user, 2), len(users))
        full = self.histories.select(np.tile(users, 2)).last(L)
        kept = np.concatenate([R, np.full(len(users), L)])
        weights = self.weights(full.lengths[1 : len(users) + 1] - self.t_user - 1, 2 * max(L - self.t_user - 1, 1))
        return Users(self.packed(full.keep(full.ages() < np.repeat(kept, full.lengths[1:]))), weights)

    def some_items(self, users: int) -> Items | None:
        """Head items for a step of so many users, with K contexts of each."""
        n = math.ceil(len(self.head_items) * min(users / self.trained, 1))
        if not n or not self.settings.lambda_item:
            return None
        items = self.draws.choice(self.head_items, n, replace=False)
        contexts, owners = self.contexts(items, few=True)
        weights = self.weights(np.minimum(self.counts[items], self.t_item + SPAN) - self.t_item - 1, 2 * SPAN)
        return Items(self.packed(contexts), torch.from_numpy(owners), torch.from_numpy(items), weights)

    def packed(self, histories: Histories) -> Packed:
        """The sequences of users 1..n, each of whom has a history."""
        found = list(self.runs(histories, np.arange(1, histories.users + 1)))
        order = np.concatenate([run for run, _ in found])
        return Packed(tuple(sequences for _, sequences in found), torch.from_numpy(np.argsort(order)))

    def weights(self, above: IntArray, turn: int) -> Tensor:
        """w = |sin(pi/2 epoch / e_max + pi above / turn)|, (b,)."""
        turned = max(self.epoch - 1, 0) / (2 * self.settings.e_max)
        return torch.from_numpy(np.abs(np.sin(np.pi * (turned + above / turn)))).float()

    def loss(self, step: Step) -> dict[str, Tensor]:
        """L = L_rank + lambda_U L_U + lambda_I L_I; L_rank alone in the first stage."""
        losses = super().loss(step)
        if step.extra is None:
            return losses
        assert isinstance(step.extra, Branches)
        vectors, (users, items) = ItemVectors(self.item_vectors(), None), step.extra
        nothing = losses["rank"].new_zeros(())
        L_U = nothing if users is None else self.user_loss(users, vectors)
        L_I = nothing if items is None else self.item_loss(items, vectors)
        return losses | {"users": self.settings.lambda_user * L_U, "items": self.settings.lambda_item * L_I}

    forward = loss

    def user_loss(self, users: Users, vectors: ItemVectors) -> Tensor:
        """L_U; both histories are learned from, as in the released code."""
        short, full = self.ends(users.histories, vectors).chunk(2)  # (b, d) each
        squares: Tensor = (self.user_branch(short) - full).square()
        return (users.weights[:, None] * squares).mean()

    def item_loss(self, items: Items, vectors: ItemVectors) -> Tensor:
        """L_I; the row e_i is learned as well, as in the released code."""
        z = self.ends(items.contexts, vectors)  # (m, d)
        c = self.context(z, items.owners, len(items.items))
        squares: Tensor = (self.item_branch(c) - vectors.of(items.items)).square()
        return (items.weights[:, None] * squares).mean()

    def ends(self, packed: Packed, vectors: ItemVectors) -> Tensor:
        """User vectors after whole sequences, (n, d), with gradient."""
        return take(torch.cat([self.final(vectors.of(items), layout) for items, layout in packed.runs]), packed.places)


methods.register("melt")((MELTConfig, MELT))
