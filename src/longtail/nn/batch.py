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

WINDOW = 64  # batches that are shuffled together before their users are sorted by length


class SequenceBatch(NamedTuple):
    """One step's sequences; L is the longest of this batch, 0 is padding.

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


def last(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, D) and (B,) lengths to the (B, D) states at each sequence's last real position."""
    return states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)]


def length_chunks(lengths: IntArray, tokens: int) -> Iterator[slice]:
    """Cut users, sorted by ascending length, into runs whose padded size stays within `tokens`."""
    start = 0
    while start < len(lengths):
        size = (np.arange(len(lengths) - start) + 1) * np.maximum(lengths[start:], 1)
        stop = start + max(int(np.searchsorted(size, tokens, side="right")), 1)
        yield slice(start, stop)
        start = stop


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


class TrainingBatches:
    """An epoch of next-item batches: every user once, in random order, with users of similar length together.

    The whole training history is encoded; position t predicts item t + 1, and the last position predicts nothing (it
    is the user vector that distillation uses). Users with a single item have no target.
    """

    def __init__(self, train: Histories, items: int, *, batch_size: int, max_len: int, negatives: int) -> None:
        self.items, self.offsets = torch.from_numpy(train.items), torch.from_numpy(train.offsets)
        self.lengths = np.minimum(train.lengths, max_len)
        self.users = np.flatnonzero(train.lengths)
        self.batch_size, self.max_len, self.negatives = batch_size, max_len, negatives
        self.unseen = Unseen(train, items)

    def __len__(self) -> int:
        return math.ceil(len(self.users) / self.batch_size)

    def epoch(self, generator: np.random.Generator) -> Iterator[SequenceBatch]:
        """Batches of one epoch; the order, the company and the negatives are new every time."""
        for users in self.order(generator):
            yield self.batch(users, generator)

    def order(self, generator: np.random.Generator) -> list[IntArray]:
        """Users of each batch: shuffled, sorted by length within windows of batches, the batches shuffled again."""
        users = generator.permutation(self.users)
        window = self.batch_size * WINDOW
        parts = [users[start : start + window] for start in range(0, len(users), window)]
        sorted_users = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        batches = [sorted_users[at : at + self.batch_size] for at in range(0, len(users), self.batch_size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def batch(self, users: IntArray, generator: np.random.Generator) -> SequenceBatch:
        """The batch of these users (B,), with fresh negatives."""
        ids = torch.from_numpy(users)
        items, lengths = gather(self.items, self.offsets, ids, self.max_len)
        targets = torch.zeros_like(items)
        targets[:, :-1] = items[:, 1:]
        owners = np.broadcast_to(users[:, None, None], (*items.shape, self.negatives))
        negatives = torch.from_numpy(self.unseen.draw(owners, generator)) * (targets > 0)[:, :, None]
        return SequenceBatch(ids, items, lengths, targets, negatives)
