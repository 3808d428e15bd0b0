"""Batches of sequences: gathered flat from histories, without padding and without a loop over users."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longtail.data.histories import Histories, IntArray
from longtail.nn.layout import Layout, lay_out, length_bounds
from longtail.nn.negatives import Negatives, Sampler


class Sequences(NamedTuple):
    """Sequences one after another: items (T,), oldest first, and where each begins and ends."""

    items: Tensor
    layout: Layout


class SequenceBatch(NamedTuple):
    """The users of a step.

    users (B,) and their sequences, those without one first; at (n,) the tokens that have a target; targets (n,) the
    items that follow them; negatives, drawn for these targets.
    """

    users: Tensor
    sequences: Sequences
    at: Tensor
    targets: Tensor
    negatives: Negatives


def gather(histories: Histories, users: IntArray, max_len: int, bounds: IntArray | None = None) -> Sequences:
    """The last `max_len` items of each of `users` (B,), each of whom must have some, one after another.

    With `bounds` (`length_bounds`), attention sees them in boxes of similar length; their lengths must ascend then.
    """
    ends = histories.offsets[users + 1]
    lengths = np.minimum(ends - histories.offsets[users], max_len)
    places = np.arange(lengths.sum()) + np.repeat(ends - np.cumsum(lengths), lengths)
    return Sequences(torch.from_numpy(histories.items[places]), lay_out(lengths, bounds))


def by_length(histories: Histories, users: IntArray, max_len: int, tokens: int) -> Iterator[tuple[IntArray, Sequences]]:
    """Positions in `users` (n,) of those who have a history, and their sequences, in runs of similar length.

    A run holds `tokens` tokens at most, or one user.
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
        yield run, gather(histories, users[run], max_len, length_bounds(lengths[run], 1))
        start = stop


class TrainingBatches:
    """An epoch of next-item batches: every user once, in random company.

    Random company matters: batches of users of one length trained a plain SASRec on Amazon Beauty to a lower validation
    NDCG@10 (docs/fidelity.md). So a batch is drawn at random, and its layout lets attention pad little.

    The last max_len + 1 items of a training history are encoded; position t predicts item t + 1, and the last position
    predicts nothing (it is the user vector that distillation uses). The one item more than inference sees is there so
    that every position of inference has had targets. Users with a single item have no target. With `drop_last` the last
    item is only a target and not encoded: for backbones that see ahead, and users with a single item have no sequence.
    """

    def __init__(
        self, train: Histories, sampler: Sampler, *, batch_size: int, max_len: int, drop_last: bool = False
    ) -> None:
        self.histories, self.sampler, self.drop_last = train, sampler, drop_last
        self.lengths = np.minimum(train.lengths, max_len + 1)
        self.users = np.flatnonzero(train.lengths)
        self.batch_size, self.window = batch_size, max_len + 1
        self.bounds = length_bounds(self.lengths[self.users], len(self))

    def __len__(self) -> int:
        return math.ceil(len(self.users) / self.batch_size)

    def epoch(self, generator: np.random.Generator) -> Iterator[SequenceBatch]:
        """Batches of one epoch; the order, the company and the negatives are new every time."""
        users = generator.permutation(self.users)
        for start in range(0, len(users), self.batch_size):
            yield self.batch(users[start : start + self.batch_size], generator)

    def batch(self, users: IntArray, generator: np.random.Generator) -> SequenceBatch:
        """The sequences of these users (B,), shortest first, with fresh negatives."""
        users = users[np.argsort(self.lengths[users], kind="stable")]
        lengths = self.lengths[users]
        sequences = gather(self.histories, users, self.window, self.bounds)
        followed = np.ones(len(sequences.items), dtype=bool)
        followed[np.cumsum(lengths) - 1] = False
        at = np.flatnonzero(followed)
        negatives = self.sampler.draw(np.repeat(users, lengths - 1), generator)
        place = torch.from_numpy(at)
        targets = sequences.items[place + 1]
        if self.drop_last:
            left = lengths[lengths > 1] - 1
            sequences = Sequences(sequences.items[place], lay_out(left, self.bounds - 1))
            place = torch.arange(len(place))
        return SequenceBatch(torch.from_numpy(users), sequences, place, targets, negatives)
