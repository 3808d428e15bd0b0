"""One rank a user: full ranking with the history removed, and a fixed sample of candidates, from one scoring pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from longtail.config import Config
from longtail.data.histories import Histories, IntArray
from longtail.data.split import Split
from longtail.errors import DataError, RunError
from longtail.nn.negatives import Unseen

USERS = 8192  # users encoded at once
SCORES = 2**20  # scores held at once: 4 MB of float32, which stay in cache
ROWS = 64  # users scored at once, or a multiple: fewer cost as much, because every item vector is read for each block

Scorer = Callable[[IntArray, Histories], Iterator[tuple[slice, Tensor]]]
"""Users (n,) and their histories (users 1..n) to slices of 0..n and their scores (b, I + 1); column 0 is unused. The
caller may overwrite them, and the next slice may. `score_rows` tells how many rows to score at once."""


def score_rows(items: int) -> int:
    """How many users' scores of `items` items are held at once: SCORES in all, but ROWS users at least."""
    return max(SCORES // (items + 1) // ROWS, 1) * ROWS


class ProtocolConfig(Config):
    """How targets are ranked."""

    ks: tuple[PositiveInt, ...] = (5, 10, 20)
    """Cut-offs of HR, NDCG and MRR; 10, by which runs are compared, must be among them."""
    sampled: NonNegativeInt = 100
    """Candidates besides the target in the sampled protocol (LLM-ESR, sec. 4.1: 100); 0 leaves it out."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Draws the sampled candidates, together with the split and the user; not the seed of training."""

    @field_validator("ks")
    @classmethod
    def _compared_at_ten(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if 10 not in ks:
            raise ValueError("add 10, the cut-off by which runs are compared")
        return ks


def rank_targets(scorer: Scorer, split: Split, name: str, config: ProtocolConfig | None = None) -> pl.DataFrame:
    """Rank each evaluated user's target: columns user, target, full and, if asked for, sampled<N>; ranks from 0.

    full: among all items but the user's history; a target that is itself in the history (a repeat) stays a candidate.
    sampled<N>: among N items the user never touched, fixed by (seed, split, user), and the target. Ties count against
    the model: rank = #(score >= the target's) - 1. `name` is 'valid' or 'test'; without config, full ranking alone.
    """
    users = np.flatnonzero(split.targets(name))
    N = config.sampled if config else 0
    _check_enough(split, users, N)
    full, sampled = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
    for block in blocks(split.train.lengths[users], USERS):
        part = split.select(users[block])
        known, targets = part.history(name), torch.from_numpy(part.targets(name)[1:, None])
        drawn = torch.from_numpy(sampled_candidates(split, users[block], name, config)) if config and N else None
        for rows, scores in scorer(users[block], known):
            goal = mask_history(scores, known, rows, targets[rows].to(scores.device))
            if drawn is not None:
                others = scores.gather(1, drawn[rows].to(scores.device))
                sampled[block[rows]] = (others >= goal).sum(1).cpu().numpy()
            full[block[rows]] = _count(scores.ge_(goal)).cpu().numpy() - 1
    columns = {"user": users, "target": split.targets(name)[users], "full": full}
    return pl.DataFrame({**columns, f"sampled{N}": sampled} if N else columns)


def mask_history(scores: Tensor, known: Histories, rows: slice, target: Tensor | None = None) -> Tensor:
    """Set padding and the histories of users `rows` (from 0) to -inf in place; return the targets' scores (b, 1).

    scores (b, I + 1) of these users; `target` (b, 1) keeps its score even where it is in the history.
    """
    if bool(torch.isnan(scores.sum())):
        raise RunError("the model's scores are not numbers: training diverged; fit again with a lower train.lr")
    goal = scores.gather(1, target) if target is not None else scores[:, :0]
    offsets = known.offsets[rows.start + 1 : rows.stop + 2]
    owners = torch.from_numpy(np.repeat(np.arange(len(scores)), np.diff(offsets))).to(scores.device)
    items = torch.from_numpy(known.items[offsets[0] : offsets[-1]]).to(scores.device)
    scores[:, 0] = -torch.inf
    scores[owners, items] = -torch.inf
    if target is not None:
        scores.scatter_(1, target, goal)
    return goal


def _count(ones: Tensor) -> Tensor:
    """(b, n) zeros and ones as floats to (b,) int64 sums: far faster than summing booleans, and exact in parts."""
    return torch.stack([part.sum(1).long() for part in torch.split(ones, 2**23, dim=1)]).sum(0)


def blocks(lengths: IntArray, rows: int) -> Iterator[IntArray]:
    """Positions in blocks of `rows`, shortest histories first, so that a block pads little."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def sampled_candidates(split: Split, users: IntArray, name: str, config: ProtocolConfig) -> IntArray:
    """(n, N) distinct items that `users` (n,) never touched in train, valid or test; fixed by (seed, split, user)."""
    unseen, owners = Unseen(split.select(users).everything(), split.items), np.arange(1, len(users) + 1)[:, None]
    N = config.sampled
    seed = _mix(_mix(np.uint64(config.seed)) ^ np.uint64({"valid": 1, "test": 2}[name]))
    key = _mix(seed ^ users.astype(np.uint64))[:, None]  # (n, 1)
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


def _repeats(r: IntArray) -> npt.NDArray[np.bool_]:
    """Which entries of `r` (n, N) equal an earlier one of their row."""
    order = np.argsort(r, axis=1, kind="stable")
    ranked = np.take_along_axis(r, order, axis=1)
    twice = np.zeros(r.shape, dtype=bool)
    np.put_along_axis(twice, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    return twice


def _check_enough(split: Split, users: IntArray, N: int) -> None:
    """A DataError if any of `users` has fewer than N items that they never touched."""
    most = split.train.lengths + 2 if split.contexts is None else split.contexts.everything.lengths
    crowded = users[most[users] > split.items - N]
    free = Unseen(split.select(crowded).everything(), split.items).free[1:]
    if (free < N).any():
        raise DataError(
            f"{(free < N).sum():,} users have fewer than {N} items they never touched in a catalogue of "
            f"{split.items:,}; set protocol.sampled below {free.min()}, or to 0 for full ranking alone"
        )


def _mix(x: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser (Steele et al., 2014): a bijection of 64-bit integers that scrambles counters."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
