"""Batches of sequences: gathered from flat histories, similar lengths together, negatives drawn without a loop.

Sequences are padded on the right, to the longest of their batch: with causal attention a pad then comes after every
real position and can touch none of them, so no result depends on padding and no mask is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longtail.data.histories import Histories, IntArray

OVERHEAD = 512  # padded positions that cost as much as encoding one block more


class SequenceBatch(NamedTuple):
    """Sequences of similar length; L is the longest of them, 0 is padding. A step takes several such blocks.

    users (B,); items (B, L) the history, oldest first; lengths (B,); targets (B, L) the item that follows, 0 = no loss
    here; negatives (B, L, N) items the user never touched, 0 where there is no target.
    """

    users: Tensor
    items: Tensor
    lengths: Tensor
    targets: Tensor
    negatives: Tensor

    def to(self, device: torch.device) -> SequenceBatch:
        """The same batch on another device."""
        return SequenceBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


def gather(items: Tensor, offsets: Tensor, users: Tensor, max_len: int) -> tuple[Tensor, Tensor]:
    """The last `max_len` items of each of `users` (B,) as (B, L), right-padded with 0, and their lengths (B,)."""
    ends = offsets[users + 1]
    lengths = (ends - offsets[users]).clamp(max=max_len)
    steps = torch.arange(int(lengths.max()) if len(users) else 0, device=items.device)
    index = (ends - lengths)[:, None] + steps  # (B, L)
    real = steps < lengths[:, None]
    return torch.where(real, items[index.clamp(max=max(len(items) - 1, 0))], 0), lengths


def length_chunks(lengths: IntArray, tokens: int) -> Iterator[slice]:
    """Cut users, sorted by ascending length, into runs that waste little on padding and pad to `tokens` at most."""
    ends = np.searchsorted(lengths, length_bounds(lengths, 1), side="right").tolist() if len(lengths) else []
    start = 0
    for end in ends:
        rows = max(tokens // int(lengths[end - 1]), 1)
        for at in range(start, int(end), rows):
            yield slice(at, min(at + rows, int(end)))
        start = int(end)


class Unseen:
    """Exactly uniform draws from the items a user never touched, for many users at once, without rejection.

    With a user's distinct items sorted as s_0 < s_1 < …, the r-th untouched item is 1 + r + #{j: s_j - 1 - j <= r}.
    """

    def __init__(self, histories: Histories, items: int) -> None:
        self.width = items + 1
        keys = np.unique(histories.owners() * self.width + histories.items)  # one sorted key a distinct (user, item)
        owners = keys // self.width
        self.starts = np.searchsorted(owners, np.arange(len(histories.lengths) + 1))
        self.ranks = owners * self.width + (keys % self.width - 1 - (np.arange(len(keys)) - self.starts[owners]))
        self.free = items - np.diff(self.starts)  # (U + 1,) how many items a user never touched

    def nth(self, users: IntArray, r: IntArray) -> IntArray:
        """The r-th (from 0) untouched item of each user; both of any one shape."""
        below = np.searchsorted(self.ranks, users * self.width + r, side="right") - self.starts[users]
        return 1 + r + below

    def draw(self, users: IntArray, generator: np.random.Generator) -> IntArray:
        """One untouched item a user, shape of `users`; 0 for a user who has touched everything."""
        free = self.free[users]
        drawn = self.nth(users, generator.integers(0, np.maximum(free, 1)))
        return np.where(free > 0, drawn, 0)


def length_bounds(lengths: IntArray, batches: int) -> IntArray:
    """Upper bounds of the lengths that share a block, ascending, so that blocks cost least when users (n,) of these
    `lengths` are dealt into `batches` at random: a block costs its padded positions, and OVERHEAD for being a block.

    >>> length_bounds(np.array([2] * 900 + [3] * 900 + [40] * 90), batches=3)
    array([ 3, 40])
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)]) / batches  # users of a batch up to each length
    best, origin = np.zeros(len(distinct) + 1), np.zeros(len(distinct) + 1, np.int64)
    for stop in range(1, len(distinct) + 1):
        costs = best[:stop] + (below[stop] - below[:stop]) * distinct[stop - 1] + OVERHEAD
        origin[stop] = costs.argmin()
        best[stop] = costs[origin[stop]]
    bounds = [len(distinct)]
    while origin[bounds[-1]]:
        bounds.append(int(origin[bounds[-1]]))
    ends: IntArray = distinct[np.array(bounds[::-1]) - 1]
    return ends


class TrainingBatches:
    """An epoch of next-item batches: every user once, in random company, each batch in blocks of similar length.

    Random company matters: batches of users of one length trained a plain SASRec on Amazon Beauty to a lower validation
    NDCG@10 (docs/fidelity.md). So a batch is drawn at random and cut into blocks, and nothing is padded to its longest.

    The last max_len + 1 items of a training history are encoded; position t predicts item t + 1, and the last position
    predicts nothing (it is the user vector that distillation uses). The one item more than inference sees is there so
    that every position of inference has had targets. Users with a single item have no target.
    """

    def __init__(self, train: Histories, items: int, *, batch_size: int, max_len: int, negatives: int) -> None:
        self.items, self.offsets = torch.from_numpy(train.items), torch.from_numpy(train.offsets)
        self.lengths = np.minimum(train.lengths, max_len + 1)
        self.users = np.flatnonzero(train.lengths)
        self.batch_size, self.window, self.negatives = batch_size, max_len + 1, negatives
        self.unseen = Unseen(train, items)
        self.bounds = length_bounds(self.lengths[self.users], len(self))

    def __len__(self) -> int:
        return math.ceil(len(self.users) / self.batch_size)

    def epoch(self, generator: np.random.Generator) -> Iterator[list[SequenceBatch]]:
        """Batches of one epoch, each as its blocks; the order, the company and the negatives are new every time."""
        users = generator.permutation(self.users)
        for start in range(0, len(users), self.batch_size):
            yield self.batch(users[start : start + self.batch_size], generator)

    def batch(self, users: IntArray, generator: np.random.Generator) -> list[SequenceBatch]:
        """The blocks of these users (B,), shortest first, with fresh negatives."""
        users = users[np.argsort(self.lengths[users], kind="stable")]
        cuts = np.searchsorted(self.lengths[users], self.bounds[:-1], side="right")
        return [self.block(part, generator) for part in np.split(users, cuts) if len(part)]

    def block(self, users: IntArray, generator: np.random.Generator) -> SequenceBatch:
        """The sequences of these users (b,) as one rectangle."""
        ids = torch.from_numpy(users)
        items, lengths = gather(self.items, self.offsets, ids, self.window)
        targets = torch.zeros_like(items)
        targets[:, :-1] = items[:, 1:]
        owners = np.broadcast_to(users[:, None, None], (*items.shape, self.negatives))
        negatives = torch.from_numpy(self.unseen.draw(owners, generator)) * (targets > 0)[:, :, None]
        return SequenceBatch(ids, items, lengths, targets, negatives)
