"""What a method is: scores of the catalogue for histories; a trained one has an encoder and named losses for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.config import Config, Value
from longtail.data.histories import Histories, IntArray
from longtail.errors import ConfigError
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch, Sequences, TrainingBatches, by_length
from longtail.nn.items import FloatArray, ItemVectors, distinct
from longtail.nn.layout import Layout, lay_out, moved, take
from longtail.nn.losses import RankLoss
from longtail.nn.negatives import Sampler
from longtail.nn.served import Served
from longtail.registry import Registry
from longtail.text.embeddings import Views

TOKENS = 16384  # items encoded at once where no gradient is kept
Scores: TypeAlias = Iterator[tuple[slice, Tensor]]


class MethodConfig(Config):
    """Settings every method has."""

    training: ClassVar[Mapping[str, Value]] = {}
    """What of [train] the method wants otherwise than `TrainConfig` has it, where nothing is said."""

    name: str

    @property
    def needs_embeddings(self) -> bool:
        """Whether `prepare` wants item embeddings."""
        return False

    @property
    def needs_neighbors(self) -> bool:
        """Whether `prepare` wants similar users."""
        return False

    @property
    def needs_user_embeddings(self) -> bool:
        """Whether embeddings of users are needed: to find the similar ones, or by `prepare` itself."""
        return self.needs_neighbors


class Validation(NamedTuple):
    """NDCG@10 of the validation targets under full ranking, all of them, and those that are tail items."""

    overall: float
    tail_items: float


class Sizes(NamedTuple):
    """What a method must know to be built: I items, E the width of the LLM embeddings, d, and the longest sequence.

    max_len: the most recent items that are encoded when a user vector is wanted. d and max_len are the backbone's, and
    0 for a method without one. views: widths of the views that the embeddings are joined of, none if it is one.
    """

    items: int
    embedding_width: int
    d: int
    max_len: int
    views: Sequence[int] = ()


class Knowledge(NamedTuple):
    """What a method may be prepared with, besides the training histories.

    item_embeddings (I + 1, E), row 0 zero, or None; neighbors (U + 1, M) similar users, 0 = none, or None;
    user_embeddings (U + 1, E), zero for row 0 and users without text, or None. views: what item_embeddings are joined
    of, `lacking` (I + 1, V), or None if that is one view.
    """

    item_embeddings: FloatArray | None = None
    neighbors: IntArray | None = None
    user_embeddings: FloatArray | None = None
    views: Views | None = None

    @property
    def lacking(self) -> FloatArray | None:
        """(I + 1, V) 1 where an item lacks a view; None if there is one view."""
        return self.views and self.views.lacking


class Teachers(NamedTuple):
    """Similar users of a step's users.

    rows (B, M): the place of each among `sequences`, or its user id where those are None; known (B, M): whether there
    is such a user, with a history. sequences: runs of TOKENS items at most; ids: their distinct items, or None for all.
    """

    rows: Tensor
    known: Tensor
    sequences: tuple[Sequences, ...] | None
    ids: Tensor | None


class Step(NamedTuple):
    """All that a step computes with, made ahead of it on the CPU.

    ids: the distinct items that its batch touches, or None where the whole catalogue is needed, or cheaper.
    teachers: for a method that has some. extra: what else a method's own losses need, as a NamedTuple of its own.
    """

    batch: SequenceBatch
    ids: Tensor | None
    teachers: Teachers | None = None
    extra: tuple[object, ...] | None = None


class Method(nn.Module, ABC):
    """Histories to scores. Built from sizes, prepared from data, so that it loads without either."""

    dial: Tensor | None
    """The tail dial's value, for a method that has one: from 0, most accurate overall, to 1, most for the tail."""

    def __init__(self, config: MethodConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.register_buffer("dial", None)

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Take what is needed of the data. Not called when a saved method is loaded."""

    @abstractmethod
    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """What scores users 1..n of histories, `rows` users at a time: slices of 0..n and their scores (b, I + 1).

        -inf: the method has nothing to say of that item, and never recommends it. Column 0 is unused; the caller may
        overwrite the scores, and so may the next slice.
        """


class TrainedMethod(Method, Served):
    """Ids to vectors and named losses: how a backbone is enhanced. A score is a dot product."""

    stages: ClassVar[int] = 1
    """Trainings one after another, each to its own early stop and from the best weights of the one before."""

    def __init__(self, config: MethodConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.backbone, self.rank_loss = backbone, rank_loss
        # Whether the last training item is only a target: what sees ahead would find it among its input.
        self.drops_last = not backbone.causal
        self.stage, self.epoch = self.stages, 0  # the loop sets both, from 1; a loaded method is past the last stage
        self.draws = np.random.default_rng(0)  # all that `plan` draws from, if it draws

    def start_stage(self) -> None:
        """Once, when a stage after the first begins: change weights, if there is something to carry over."""

    def batches(
        self, train: Histories, sampler: Sampler, batch_size: int, *, prefixes: bool = False
    ) -> TrainingBatches:
        """What it is trained on, from the training histories."""
        if prefixes and (self.backbone.masked is not None or self.backbone.last_only or self.drops_last):
            raise ConfigError("train.rows = 'prefixes' is for training that predicts every next item; leave it out")
        return TrainingBatches(
            train,
            sampler,
            batch_size=batch_size,
            max_len=self.sizes.max_len,
            masked=self.backbone.masked,
            last_only=self.backbone.last_only,
            drop_last=self.drops_last,
            prefixes=prefixes,
        )

    def start_epoch(self) -> None:
        """Refresh what is computed once an epoch; from weights and torch's generators (`generator`) alone."""

    def choose(self, validate: Callable[[], Validation]) -> None:
        """Once, when training ends: set what is chosen on validation."""

    @abstractmethod
    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, D) vectors of `ids` (n,), or of the whole catalogue (I + 1, D)."""

    def states(self, vectors: Tensor, layout: Layout) -> Tensor:
        """Item vectors of sequences (T, D) to states (T, D): user vectors after each item, if it predicts the next."""
        states: Tensor = self.backbone(self.backbone.embed(vectors, layout), layout)
        return states

    def final(self, vectors: Tensor, layout: Layout) -> Tensor:
        """Item vectors of sequences (T, D) to the states of their last tokens (B, D): user vectors of `runs`."""
        return self.backbone.final(self.backbone.embed(vectors, layout), layout)

    def encode(self, items: Tensor) -> Tensor:
        """Sequences (B, L), right-padded with 0, to the states of their items (B, L, D), zero at padding."""
        real = items > 0
        layout = lay_out(real.sum(1).cpu().numpy()).to(items.device)
        states = self.states(F.embedding(items[real], self.item_vectors()), layout)
        out = states.new_zeros(*items.shape, states.shape[-1])
        return out.masked_scatter(real[:, :, None], states)

    def plan(self, batch: SequenceBatch) -> Step:
        """What a step on `batch` needs besides. Reads no weights: it runs ahead, beside the step before."""
        whole = self.rank_loss.whole_catalogue
        more = () if batch.whole is None else (batch.whole.items,)
        touched = (batch.sequences.items, batch.targets, batch.negatives.items, *more)
        return Step(batch, None if whole else distinct(touched, self.sizes.items))

    def loss(self, step: Step) -> dict[str, Tensor]:
        """The named losses of a step, to be summed."""
        vectors, batch = ItemVectors(self.item_vectors(step.ids), step.ids), step.batch
        if batch.ends_only:  # no other state is wanted
            states = self.final(vectors.of(batch.sequences.items), batch.sequences.layout)
            return {"rank": self.rank_loss.compute(states, batch.targets, batch.negatives, vectors)}
        return {"rank": self.ranking(self.batch_states(batch, vectors), batch, vectors)}

    forward = loss

    def batch_states(self, batch: SequenceBatch, vectors: ItemVectors) -> Tensor:
        """The states of the batch, (T, D)."""
        if not len(batch.sequences.items):  # everybody's only item is a target
            return vectors.vectors[:0]
        return self.states(vectors.of(batch.sequences.items), batch.sequences.layout)

    def batch_users(self, states: Tensor, batch: SequenceBatch, vectors: ItemVectors) -> Tensor:
        """User vectors (B, D) of the batch's users, made as inference makes them, with gradient.

        states (T, D) are those of the batch, and vectors the step's.
        """
        if batch.whole is None:
            return batch.sequences.layout.last(states)
        return self.final(vectors.of(batch.whole.items), batch.whole.layout)

    def ranking(self, states: Tensor, batch: SequenceBatch, vectors: ItemVectors) -> Tensor:
        """The ranking loss over the tokens (T, D) of a batch that have a target; 0 if none has."""
        if not len(batch.at):
            return states.sum() * 0.0
        return self.rank_loss.compute(take(states, batch.at), batch.targets, batch.negatives, vectors)

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """Dot products of user and item vectors; those of items are computed once."""
        with torch.no_grad():
            vectors = ItemVectors(self.item_vectors(), None).detach()

        def score(histories: Histories) -> Scores:
            u = self.user_vectors(histories, np.arange(1, histories.users + 1), vectors)  # (n, D)
            with torch.no_grad():
                u = self.served(u, torch.from_numpy(histories.lengths[1:]).to(u.device))
            return dot_products(u, vectors.vectors, rows)

        return score

    def runs(self, histories: Histories, users: IntArray) -> Iterator[tuple[IntArray, Sequences]]:
        """Sequences that end in the user vectors of `users` (n,), TOKENS items at a time; see `by_length`."""
        asking = self.backbone.objective == "cloze"
        return by_length(histories, users, self.sizes.max_len, TOKENS, asking=asking)

    def user_vectors(self, histories: Histories, users: IntArray, vectors: ItemVectors | None = None) -> Tensor:
        """User vectors (n, D) of `users` (n,) after their whole history; zeros without one. Without gradient.

        Users of similar length are encoded together, TOKENS items at a time.
        """
        with torch.no_grad():
            vectors = vectors or ItemVectors(self.item_vectors(), None)
            out = vectors.vectors.new_zeros(len(users), vectors.vectors.shape[1])
            for run, sequences in self.runs(histories, users):
                items, layout = moved(sequences, out.device)
                out[torch.from_numpy(run).to(out.device)] = self.final(vectors.of(items), layout)
            return out


def generator() -> np.random.Generator:
    """For what `plan` draws: seeded by torch's own generator, which in `start_epoch` is the epoch's."""
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), device="cpu")))


def dot_products(users: Tensor, items: Tensor, rows: int) -> Scores:
    """Scores of user vectors (n, D) and item vectors (I + 1, D), `rows` users at a time."""
    rows = min(rows, len(users))
    room = items.new_empty(len(items) * rows)  # filled again and again: fresh memory is slow
    for part in parts(len(users), rows):
        u = users[part]
        scores = room[: len(items) * len(u)].view(-1, len(u))
        # Items by users: up to three times as fast as users by items, of which there are few.
        yield part, torch.mm(items, u.T, out=scores).T


def parts(users: int, rows: int) -> Iterator[slice]:
    """Slices of `rows` of the users 0..n.

    >>> list(parts(5, 3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return (slice(start, min(start + rows, users)) for start in range(0, users, max(rows, 1)))


methods: Registry[tuple[type[MethodConfig], type[Method]]] = Registry("method", __package__)
