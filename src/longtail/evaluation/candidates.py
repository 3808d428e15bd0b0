"""The few items a target is ranked among: drawn uniformly or by popularity, fixed by (seed, split, user), or a list."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from longtail.data.columns import choose
from longtail.data.histories import Histories, IntArray, offsets_of
from longtail.data.ids import IdMap
from longtail.data.split import Split
from longtail.data.tables import open_table
from longtail.errors import DataError, some
from longtail.nn.negatives import Unseen

ROUNDS = 8  # of draws by popularity, before the whole catalogue is gone through for the users who still lack some
KEYS = 2**22  # random numbers held at once for them
HashArray = npt.NDArray[np.uint64]


class Draw(NamedTuple):
    """How many candidates a user gets, and what fixes them."""

    N: int
    seed: int
    split: str

    def keys(self, users: IntArray) -> HashArray:
        """(n, 1) where the stream of random numbers of each of `users` (n,) begins."""
        seed = _mix(_mix(np.uint64(self.seed)) ^ np.uint64({"valid": 1, "test": 2}[self.split]))
        return _mix(seed ^ users.astype(np.uint64))[:, None]


class Candidates(Protocol):
    """Which items the target of each user is ranked among, besides itself."""

    def __call__(self, users: IntArray) -> Histories:
        """The distinct candidates of `users` (n,), who are users 1..n of what is returned."""


def uniform(split: Split, draw: Draw) -> Candidates:
    """N items that a user never touched in train, valid or test, each as likely as another."""

    def of(users: IntArray) -> Histories:
        return _rows(sampled_candidates(split, users, draw))

    return of


def by_popularity(split: Split, draw: Draw) -> Candidates:
    """N items that a user never touched, one after the other, each with probability ~ training count of those left."""
    counts = split.train.counts(split.items)

    def of(users: IntArray) -> Histories:
        return _rows(popular_candidates(split, users, draw, counts))

    return of


def listed(lists: Histories, targets: IntArray, ids: IdMap) -> Candidates:
    """The items listed for users 1..U, less their targets (U + 1,); a DataError names users who have none."""
    owners, others = lists.owners(), lists.items != targets[lists.owners()]
    lengths = np.bincount(owners[others], minlength=len(targets))
    lists = Histories(lists.items[others], offsets_of(lengths[1:]))

    def of(users: IntArray) -> Histories:
        lacking = users[lists.lengths[users] == 0]
        if len(lacking):
            raise DataError(
                f"protocol.candidates_file has no candidates besides the target for {len(lacking):,} users who are "
                f"evaluated: {some(ids.external(np.sort(lacking)))}; add rows for them"
            )
        return lists.select(users)

    return of


def read_candidates(path: str, users: IdMap, items: IdMap) -> Histories:
    """A table of user and item (external ids, a row a candidate) as lists of users 1..U; repeated rows count once."""
    table = open_table(path)
    found = {}
    for role, ids in (("user", users), ("item", items)):
        column = table.column(choose(table.columns, role, None, table.name))
        found[role] = ids.find(column)
        unknown = column.filter(found[role] == 0)
        if len(unknown):
            raise DataError(
                f"{path}: unknown {role} {unknown[0]!r}, and {unknown.n_unique() - 1:,} others, in {len(unknown):,} of "
                f"{len(column):,} rows; use the ids of the data set, such as {some(ids.ids.head(3))}"
            )
    keys = np.unique(found["user"] * (len(items) + 1) + found["item"])
    lengths = np.bincount(keys // (len(items) + 1), minlength=len(users) + 1)
    return Histories(keys % (len(items) + 1), offsets_of(lengths[1:]))


def sampled_candidates(split: Split, users: IntArray, draw: Draw) -> IntArray:
    """(n, N) distinct items that `users` (n,) never touched in train, valid or test; fixed by (seed, split, user)."""
    unseen, owners = Unseen(split.select(users).everything(), split.items), np.arange(1, len(users) + 1)[:, None]
    N, key = draw.N, draw.keys(users)
    free = unseen.free[owners].astype(np.uint64)  # (n, 1)
    assert not len(users) or free.min() >= N
    r = (_mix(key ^ np.arange(N, dtype=np.uint64)) % free).astype(np.int64)
    again = np.arange(len(users))
    for step in count(1):  # redraw what a user drew twice
        ordered = np.sort(r[again], axis=1)
        again = again[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
        if not len(again):
            break
        fresh = _mix(key[again] ^ np.arange(step * N, (step + 1) * N, dtype=np.uint64)) % free[again]
        r[again] = np.where(_repeats(r[again]), fresh.astype(np.int64), r[again])
    return unseen.nth(np.broadcast_to(owners, r.shape), r)


def popular_candidates(split: Split, users: IntArray, draw: Draw, counts: IntArray) -> IntArray:
    """(n, N) distinct items that `users` (n,) never touched, drawn without replacement with weights `counts` (I + 1,).

    Draws with replacement of which only new items are kept are draws without replacement; whoever lacks some after
    ROUNDS rounds gets the rest by exponential keys, -log(uniform) / weight, smallest first (Efraimidis and Spirakis,
    2006), which goes on from any state. Items that never occur in training are never drawn.
    """
    touched = _Touched(split.select(users).everything(), split.items)
    edges, total = np.cumsum(counts), int(counts.sum())
    taken = np.zeros((len(users), draw.N), np.int64)
    for step in range(ROUNDS):
        lacking = np.flatnonzero(taken[:, -1] == 0)
        numbers = np.arange(step * 2 * draw.N, (step + 1) * 2 * draw.N, dtype=np.uint64)
        place = (_mix(draw.keys(users[lacking]) ^ numbers) % np.uint64(total)).astype(np.int64)
        fresh = np.searchsorted(edges, place, side="right")
        pool = np.concatenate([taken[lacking], np.where(touched.by(lacking + 1, fresh), 0, fresh)], axis=1)
        pool[_repeats(pool)] = 0
        first = np.argsort(pool == 0, axis=1, kind="stable")[:, : draw.N]
        taken[lacking] = np.take_along_axis(pool, first, axis=1)
    lacking = np.flatnonzero(taken[:, -1] == 0)
    rows = max(KEYS // len(counts), 1)
    for part in (lacking[at : at + rows] for at in range(0, len(lacking), rows)):
        taken[part] = _filled(taken[part], draw.keys(users[part]), counts, touched, part + 1)
    return taken


def _filled(taken: IntArray, keys: HashArray, counts: IntArray, touched: _Touched, owners: IntArray) -> IntArray:
    """`taken` (n, N) with its zeros, at the end of rows, filled by the smallest exponential keys of what is left."""
    N = taken.shape[1]
    numbers = np.uint64(2 * ROUNDS * N) + np.arange(len(counts), dtype=np.uint64)
    u = (_mix(keys ^ numbers).astype(np.float64) + 1.0) / 2.0**64  # (n, I + 1) in (0, 1]
    with np.errstate(divide="ignore"):
        times = -np.log(u) / counts
    every = np.broadcast_to(np.arange(len(counts)), times.shape)
    times[touched.by(owners, every) | (counts == 0)] = np.inf
    np.put_along_axis(times, taken, -1.0, axis=1)  # those taken come first, column 0 for what is lacking
    times[:, 0] = np.inf
    best = np.argsort(times, axis=1, kind="stable")[:, :N]
    assert np.isfinite(np.take_along_axis(times, best, axis=1)).all()
    return np.where(taken > 0, taken, best)


class _Touched:
    """Which items users of `histories` have touched."""

    def __init__(self, histories: Histories, items: int) -> None:
        self.width = items + 1
        self.keys = np.unique(histories.owners() * self.width + histories.items)

    def by(self, users: IntArray, items: IntArray) -> npt.NDArray[np.bool_]:
        """Whether each of `users` (n,) touched each of their `items` (n, m)."""
        wanted = users[:, None] * self.width + items
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return self.keys[at] == wanted  # type: ignore[no-any-return]


def check_enough(split: Split, users: IntArray, N: int, popular: bool = False) -> None:
    """A DataError if any of `users` has fewer than N items they never touched; popular: that occur in training."""
    drawn = np.flatnonzero(split.train.counts(split.items)) if popular else np.arange(1, split.items + 1)
    crowded = users[split.everything().lengths[users] > len(drawn) - N]
    everything = split.select(crowded).everything()
    keys = np.unique(everything.owners() * (split.items + 1) + everything.items)
    keys = keys[np.isin(keys % (split.items + 1), drawn)]
    free = len(drawn) - np.bincount(keys // (split.items + 1), minlength=len(crowded) + 1)[1:]
    if (free < N).any():
        name, among = ("popular", "with training interactions") if popular else ("sampled", "in the catalogue")
        raise DataError(
            f"{(free < N).sum():,} users have fewer than {N} items they never touched among the {len(drawn):,} "
            f"{among}; set protocol.{name} below {free.min()}, or to 0 to leave these candidates out"
        )


def content_hash(users: IntArray, candidates: Histories) -> int:
    """A number for who is ranked among what, whatever the order; those of blocks of users add up, modulo 2^64."""
    owners = _mix(users.astype(np.uint64))[candidates.owners() - 1]
    with np.errstate(over="ignore"):
        return int(_mix(owners ^ candidates.items.astype(np.uint64)).sum(dtype=np.uint64))


def _rows(items: IntArray) -> Histories:
    """(n, N) items as lists of users 1..n."""
    return Histories(items.ravel(), offsets_of(np.full(len(items), items.shape[1])))


def _repeats(r: IntArray) -> npt.NDArray[np.bool_]:
    """Which entries of `r` (n, N) equal an earlier one of their row."""
    order = np.argsort(r, axis=1, kind="stable")
    ranked = np.take_along_axis(r, order, axis=1)
    twice = np.zeros(r.shape, dtype=bool)
    np.put_along_axis(twice, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    return twice


def _mix(x: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser (Steele et al., 2014): a bijection of 64-bit integers that scrambles counters."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
