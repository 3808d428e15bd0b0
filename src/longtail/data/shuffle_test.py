"""Does the order of a data set mean anything? What recurs in it, before and after shuffling inside users.

After Klenitskiy et al., "Does It Look Sequential? An Analysis of Datasets for Evaluation of Sequential
Recommendations", RecSys 2024: runs of consecutive items that users share grow rare when each user's interactions are
shuffled, if their order means anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longtail.data.histories import IntArray

BoolArray = npt.NDArray[np.bool_]
CHANCE = 0.01  # the share of all runs that may be frequent ones after shuffling: it sets the support
SEEDS = 5
LIMIT = 400_000  # interactions that are looked at; of more, those of users drawn at random
CUTOFF = 10


class Runs(NamedTuple):
    """How many distinct runs of `n` consecutive items are frequent: seen at least `support` times.

    found: in the order of time, interactions of one moment in random order. shuffled, spread: mean and standard
    deviation after shuffling. as_read: in the order of the source, which also orders what has one and the same time.
    recurring: seen twice or more, in the order of time.
    """

    n: int
    support: int
    found: float
    shuffled: float
    spread: float
    as_read: int
    recurring: float

    @property
    def ratio(self) -> float:
        """Before over after; one is added to both, so that a few over none is not infinity."""
        return (self.found + 1) / (self.shuffled + 1)

    @property
    def beyond_chance(self) -> bool:
        """Whether there are more than the shuffles vary (three sigma; a count varies by its root at least)."""
        return bool(self.found - self.shuffled > 3 * max(self.spread, (self.shuffled + 1) ** 0.5))


class Structure(NamedTuple):
    """Before and after.

    interactions: how many were looked at. pairs, triples: frequent runs of two and of three.

    markov, markov_shuffled: HR@10 of `markov_hits` before, and after shuffling all but each user's last item.
    """

    interactions: int
    pairs: Runs
    triples: Runs
    markov: float
    markov_shuffled: float


class _Order(NamedTuple):
    """Of one order: how many distinct pairs and triples are seen 0, 1, 2, … times, and HR@10 of the last items."""

    pairs: IntArray
    triples: IntArray
    markov: float


def shuffle_test(users: IntArray, items: IntArray, times: IntArray, seeds: int = SEEDS) -> Structure:
    """Of interactions (n,) sorted by user, then time, then order of the source; ids from 1."""
    generator = np.random.default_rng(0)
    drawn = some_users(users, LIMIT, generator)
    users, items, times = users[drawn], items[drawn], times[drawn]
    moments, owners = _numbered(users, times), _numbered(users)
    bound_last = owners * 2 + ends(users)  # shuffles all of a user's items but the last, which stays the target

    def order(mixed: IntArray, to_last: IntArray) -> _Order:
        return _Order(recurring(users, mixed, 2), recurring(users, mixed, 3), markov_hits(users, to_last))

    def mix(groups: IntArray) -> IntArray:
        return items[shuffled(groups, generator)]

    source = order(items, items)
    tied = len(items) > 0 and moments[-1] + 1 < len(items)
    real = [order(one, one) for one in (mix(moments) for _ in range(seeds))] if tied else [source]
    mixed = [order(mix(owners), mix(bound_last)) for _ in range(seeds)]
    return Structure(
        len(items),
        _runs(2, source, real, mixed, lambda one: one.pairs),
        _runs(3, source, real, mixed, lambda one: one.triples),
        float(np.mean([one.markov for one in real])),
        float(np.mean([one.markov for one in mixed])),
    )


def some_users(users: IntArray, limit: int, generator: np.random.Generator) -> BoolArray:
    """(n,) whether an interaction is of the users drawn, whose interactions are at most about `limit`."""
    if len(users) <= limit:
        return np.ones(len(users), dtype=np.bool_)
    lengths = np.bincount(users)
    order = generator.permutation(len(lengths))
    chosen = np.zeros(len(lengths), dtype=np.bool_)
    chosen[order[np.cumsum(lengths[order]) <= limit]] = True
    return np.take(chosen, users)


def shuffled(groups: IntArray, generator: np.random.Generator) -> IntArray:
    """(n,) places in random order inside each group; `groups` (n,) ascends."""
    return np.argsort(groups + generator.random(len(groups)))


def recurring(users: IntArray, items: IntArray, n: int) -> IntArray:
    """[c] distinct runs of `n` consecutive items of one user that are seen c times in all.

    >>> recurring(np.array([1, 1, 1, 2, 2]), np.array([5, 6, 7, 5, 6]), 2)  # (5, 6) twice, (6, 7) once
    array([0, 1, 1])
    """
    codes, width = items, int(items.max(initial=0)) + 1
    for step in range(1, n):
        if int(codes.max(initial=0)) > (2**63 - 1) // width - 1:  # number the codes anew, so that they fit 64 bits
            codes = np.unique(codes, return_inverse=True)[1]
        codes = codes[:-1] * width + items[step:]
    whole = users[: len(codes)] == users[len(users) - len(codes) :]
    return np.bincount(np.unique(codes[whole], return_counts=True)[1], minlength=1)


def ends(users: IntArray) -> BoolArray:
    """(n,) whether an entry is its user's last; `users` (n,) ascends."""
    return np.append(users[1:] != users[:-1], True)[: len(users)]


def markov_hits(users: IntArray, items: IntArray, k: int = CUTOFF) -> float:
    """HR@k of each user's last item among what followed the item before it, in all users' earlier interactions.

    Ties count against the target. Users with one interaction have no item before.
    """
    width = int(items.max(initial=0)) + 1
    one = users[:-1] == users[1:]
    codes, targets = items[:-1] * width + items[1:], ends(users)[1:]
    asked = codes[one & targets]
    known, counts = np.unique(codes[one & ~targets], return_counts=True)
    if not len(asked) or not len(known):
        return 0.0
    most = int(counts.max()) + 1
    ranked = np.sort(known // width * most - counts)  # by item, then what followed it most often first
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    before = known[place] // width * most
    as_often = np.searchsorted(ranked, before - counts[place], side="right")
    rank = as_often - np.searchsorted(ranked, before - most) - 1  # #(count >= the target's) - 1
    return float(((known[place] == asked) & (rank < k)).mean())


def _numbered(*columns: IntArray) -> IntArray:
    """(n,) 0, 1, … for each new combination of values in columns that are sorted together."""
    new = np.zeros(len(columns[0]), dtype=np.bool_)
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.cumsum(new)


def _runs(
    n: int, source: _Order, real: Sequence[_Order], mixed: Sequence[_Order], of: Callable[[_Order], IntArray]
) -> Runs:
    """Counts under the smallest support, 2 at least, by which chance makes few runs frequent."""
    by_chance = [of(one) for one in mixed]
    longest = max(len(counts) for counts in by_chance)
    mean = np.mean([np.pad(counts, (0, longest - len(counts))) for counts in by_chance], axis=0)
    occurrences = np.cumsum((mean * np.arange(longest))[::-1])[::-1]  # of runs seen so often or more
    rare = np.append(occurrences <= CHANCE * max(occurrences[0], 1), True)
    support = max(int(rare.argmax()), 2)
    after = [int(counts[support:].sum()) for counts in by_chance]
    before = [int(of(one)[support:].sum()) for one in real]
    as_read = int(of(source)[support:].sum())
    twice = float(np.mean([of(one)[2:].sum() for one in real]))
    return Runs(n, support, float(np.mean(before)), float(np.mean(after)), float(np.std(after)), as_read, twice)
