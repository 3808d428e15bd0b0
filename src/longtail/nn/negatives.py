"""Negatives: items a loss compares a target with, drawn without a loop and without rejection."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from longtail.data.histories import Histories, IntArray


class Negatives(NamedTuple):
    """Sampled items: (n, N), each target's own, 0 where there is none; or (M,), shared by all targets of a step.

    Shared ones are distinct and ascending. log_expected: (M,) how often each of them was expected among N draws of
    probability q, per time that it came, as a logarithm: log(N q / times) (logQ).
    """

    items: Tensor
    log_expected: Tensor | None = None


class Sampler(Protocol):
    """Draws the negatives of a step."""

    def draw(self, users: IntArray, generator: np.random.Generator) -> Negatives:
        """For targets that belong to `users` (n,)."""


class NoNegatives:
    """For losses that need none."""

    def draw(self, users: IntArray, generator: np.random.Generator) -> Negatives:
        """(n, 0)."""
        return Negatives(torch.zeros(len(users), 0, dtype=torch.int64))


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


class OwnNegatives:
    """N uniform items for each target, none of which its user ever touched."""

    def __init__(self, histories: Histories, items: int, N: int) -> None:
        self.unseen, self.N = Unseen(histories, items), N

    def draw(self, users: IntArray, generator: np.random.Generator) -> Negatives:
        """(n, N)."""
        owners = np.broadcast_to(users[:, None], (len(users), self.N))
        return Negatives(torch.from_numpy(self.unseen.draw(owners, generator)))


class SharedNegatives:
    """N items for all targets of a step, with replacement, each with probability q ~ max(training count, 1)^power.

    power 0 is uniform, 1 is by popularity. correction: of log(N q), as a share: 0 leaves out that some are drawn more.
    """

    def __init__(self, histories: Histories, items: int, N: int, power: float, correction: float = 1.0) -> None:
        weights = np.maximum(histories.counts(items)[1:], 1).astype(np.float64) ** power
        self.N, q = N, weights / weights.sum()
        self.edges = np.cumsum(q)
        self.log_expected = correction * torch.from_numpy(np.log(N * np.concatenate([[1.0], q]))).float()  # (I + 1,)

    def draw(self, users: IntArray, generator: np.random.Generator) -> Negatives:
        """At most N, whoever the users are."""
        drawn = np.searchsorted(self.edges, generator.random(self.N) * self.edges[-1], side="right")
        found, times = np.unique(np.minimum(drawn, len(self.edges) - 1) + 1, return_counts=True)
        items = torch.from_numpy(found)
        return Negatives(items, self.log_expected[items] - torch.from_numpy(times).log())


class AllOf:
    """All of some items, ascending, for every step: with them `sampled_softmax` is the softmax over just these."""

    def __init__(self, catalogue: IntArray) -> None:
        items = torch.from_numpy(catalogue)
        self.negatives = Negatives(items, torch.zeros(len(items)))

    def draw(self, users: IntArray, generator: np.random.Generator) -> Negatives:
        """The same whoever the users are."""
        return self.negatives


class Among:
    """Draws from some of the items alone: those that `inner` numbers 1..n are the `catalogue` (n,), ascending."""

    def __init__(self, catalogue: IntArray, inner: Sampler) -> None:
        self.ids, self.inner = torch.from_numpy(np.concatenate([[0], catalogue])), inner

    def draw(self, users: IntArray, generator: np.random.Generator) -> Negatives:
        """What `inner` draws."""
        drawn = self.inner.draw(users, generator)
        return drawn._replace(items=self.ids[drawn.items])
