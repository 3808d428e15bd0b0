"""Batches of sequences: gathered flat from histories, without padding and without a loop over users."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longtail.data.histories import Histories, IntArray
from longtail.errors import DataError
from longtail.nn.items import MASK
from longtail.nn.layout import Layout, lay_out, length_bounds
from longtail.nn.negatives import Negatives, Sampler


class Sequences(NamedTuple):
    """Sequences one after another: items (T,), oldest first, MASK for a hidden one, and where each begins and ends."""

    items: Tensor
    layout: Layout


class SequenceBatch(NamedTuple):
    """The users of a step.

    users (B,) and their sequences, those without one first; at (n,) the tokens that have a target; targets (n,) the
    items that follow them, or that they hide; negatives, drawn for these targets. whole: sequences that end in the user
    vectors (B, D), or None if the others do. ends_only: whether `at` are the last tokens of the sequences, in order.
    """

    users: Tensor
    sequences: Sequences
    at: Tensor
    targets: Tensor
    negatives: Negatives
    whole: Sequences | None = None
    ends_only: bool = False


def gather(
    histories: Histories, users: IntArray, max_len: int, bounds: IntArray | None = None, *, asking: bool = False
) -> Sequences:
    """The last `max_len` items of each of `users` (B,), each of whom must have some, one after another.

    With `bounds` (`length_bounds`), attention sees them in boxes of similar length; their lengths must ascend then.
    `asking` puts a MASK after each, which `max_len` does not count.
    """
    ends = histories.offsets[users + 1]
    lengths = np.minimum(ends - histories.offsets[users], max_len)
    items = before(histories, ends, lengths)
    if asking:
        items, lengths = np.insert(items, np.cumsum(lengths), MASK), lengths + 1
        bounds = None if bounds is None else bounds + 1
    return Sequences(torch.from_numpy(items), lay_out(lengths, bounds))


def before(histories: Histories, ends: IntArray, lengths: IntArray) -> IntArray:
    """The `lengths` (n,) items before each place of `ends` (n,), one run after another."""
    items: IntArray = histories.items[np.arange(lengths.sum()) + np.repeat(ends - np.cumsum(lengths), lengths)]
    return items


def by_length(
    histories: Histories, users: IntArray, max_len: int, tokens: int, *, asking: bool = False
) -> Iterator[tuple[IntArray, Sequences]]:
    """Positions in `users` (n,) of those who have a history, and their sequences (`gather`), in runs of similar length.

    A run holds `tokens` items at most, or one user.
    """
    lengths = np.minimum(histories.lengths[users], max_len)
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    total = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = total[start] - lengths[order[start]]
        stop = max(int(np.searchsorted(total, before + tokens, side="right")), start + 1)
        run = order[start:stop]
        yield run, gather(histories, users[run], max_len, length_bounds(lengths[run], 1), asking=asking)
        start = stop


class TrainingBatches:
    """An epoch of batches: every user once, in random company.

    Random company matters: batches of users of one length trained a plain SASRec on Amazon Beauty to a lower validation
    NDCG@10 (docs/fidelity.md). So a batch is drawn at random, and its layout lets attention pad little.

    The last max_len + 1 items of a training history are encoded; position t predicts item t + 1, and the last position
    predicts nothing (it is the user vector that distillation uses). The one item more than inference sees is there so
    that every position of inference has had targets. Users with a single item have no target. With `last_only` the
    last item alone is a target. With `drop_last` the last item is only a target and not encoded: for backbones that see
    ahead, and users with a single item have no sequence.

    With `prefixes` each target comes by itself, after the max_len items before it: as many rows as targets, in as many
    steps, whose company is more random still (`TrainConfig.rows`). Users of a step are those of its rows, then.

    With `masked` each user comes twice, and hidden items are predicted in their own places (BERT4Rec, sec. 3.6): a
    share `masked` of the first copy, shown as MASK (80 %), as any item of the training data (10 %) or as they are
    (10 %); and the last of the second copy, as MASK: what inference asks, max_len items and a MASK after them.
    """

    def __init__(
        self,
        train: Histories,
        sampler: Sampler,
        *,
        batch_size: int,
        max_len: int,
        masked: float | None = None,
        last_only: bool = False,
        drop_last: bool = False,
        prefixes: bool = False,
    ) -> None:
        self.histories, self.sampler = train, sampler
        self.masked, self.last_only, self.drop_last = masked, last_only, drop_last
        self.lengths = np.minimum(train.lengths, max_len + 1)
        self.users = np.flatnonzero(train.lengths)
        self.batch_size, self.window = batch_size, max_len + 1
        self.places = np.flatnonzero(np.arange(len(train.items)) > train.offsets[train.owners()]) if prefixes else None
        if self.places is not None and not len(self.places):
            raise DataError("train.rows = 'prefixes' finds no target: nobody has two training items; leave it out")
        copies = 1 if masked is None else 2
        lengths = np.tile(self.lengths[self.users], copies) if self.places is None else self.preceding(self.places)[1]
        self.bounds = length_bounds(lengths, len(self))
        self.known = np.unique(train.items)

    def __len__(self) -> int:
        steps = math.ceil(len(self.users) / self.batch_size)
        return steps if self.places is None else min(steps, len(self.places))  # none is empty

    def epoch(
        self, generator: np.random.Generator, done: int = 0, state: Mapping[str, object] | None = None
    ) -> Iterator[SequenceBatch]:
        """Batches of one epoch; the order, the company and the negatives are new every time.

        To go on with an epoch, `done` batches are left out, after which the generator was in that `state`.
        """
        made = self.batch if self.places is None else self.after_prefixes
        parts = self.dealt(generator)
        if state is not None:
            generator.bit_generator.state = state
        for part in parts[done:]:
            yield made(part, generator)

    def dealt(self, generator: np.random.Generator) -> list[IntArray]:
        """The users of each batch, or the places of its targets."""
        if self.places is not None:
            return np.array_split(generator.permutation(self.places), len(self))
        users = generator.permutation(self.users)
        return [users[start : start + self.batch_size] for start in range(0, len(users), self.batch_size)]

    def batch(self, users: IntArray, generator: np.random.Generator) -> SequenceBatch:
        """The sequences of these users (B,), shortest first, with fresh negatives."""
        users = users[np.argsort(self.lengths[users], kind="stable")]
        return self.following(users, generator) if self.masked is None else self.hidden(users, self.masked, generator)

    def following(self, users: IntArray, generator: np.random.Generator) -> SequenceBatch:
        """Every item but the first is a target, of the one before it, or the last alone is."""
        lengths = self.lengths[users]
        sequences = gather(self.histories, users, self.window, self.bounds)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(sequences.items)) - 1  # (T,) items that follow
        at = np.flatnonzero(left == 1 if self.last_only else left > 0)
        negatives = self.sampler.draw(np.repeat(users, lengths)[at], generator)
        place = torch.from_numpy(at)
        targets = sequences.items[place + 1]
        if self.drop_last:
            kept = np.flatnonzero(left > 0)
            sequences = Sequences(sequences.items[kept], lay_out(lengths[lengths > 1] - 1, self.bounds - 1))
            place = torch.from_numpy(np.searchsorted(kept, at))
        return SequenceBatch(torch.from_numpy(users), sequences, place, targets, negatives)

    def preceding(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """Whose history each of `places` (n,) is in, and how many items before it are encoded."""
        owners = np.searchsorted(self.histories.offsets, places, side="right") - 1
        return owners, np.minimum(places - self.histories.offsets[owners], self.window - 1)

    def after_prefixes(self, places: IntArray, generator: np.random.Generator) -> SequenceBatch:
        """The items at these places (n,) of `histories.items` are targets, each after what stands before it."""
        places = places[np.argsort(self.preceding(places)[1], kind="stable")]
        owners, lengths = self.preceding(places)
        items, layout = before(self.histories, places, lengths), lay_out(lengths, self.bounds)
        return SequenceBatch(
            torch.from_numpy(owners),
            Sequences(torch.from_numpy(items), layout),
            layout.ends,
            torch.from_numpy(self.histories.items[places]),
            self.sampler.draw(owners, generator),
            ends_only=True,
        )

    def hidden(self, users: IntArray, share: float, generator: np.random.Generator) -> SequenceBatch:
        """Hidden items are the targets."""
        owners = np.repeat(users, 2)
        sequences = gather(self.histories, owners, self.window, self.bounds)
        lengths = self.lengths[owners]
        second = np.repeat(np.arange(len(owners)) % 2 == 1, lengths)  # (T,) of the copy whose last item is hidden
        chosen = generator.random(len(second)) < share
        chosen[second] = False
        chosen[np.cumsum(lengths)[1::2] - 1] = True
        at = np.flatnonzero(chosen)
        targets = sequences.items.numpy()[at]
        fate = np.where(second[at], 0.0, generator.random(len(at)))
        others = self.known[generator.integers(0, len(self.known), len(at))]
        place = torch.from_numpy(at)
        shown = np.where(fate < 0.8, MASK, np.where(fate < 0.9, others, targets))
        items = sequences.items.index_copy(0, place, torch.from_numpy(shown))
        negatives = self.sampler.draw(np.repeat(owners, lengths)[at], generator)
        whole = gather(self.histories, users, self.window - 1, self.bounds, asking=True)
        return SequenceBatch(
            torch.from_numpy(users), sequences._replace(items=items), place, torch.from_numpy(targets), negatives, whole
        )
