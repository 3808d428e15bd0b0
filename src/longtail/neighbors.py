"""Similar users: the nearest other users, exact by blocks or by an index; a U x U matrix never exists.

Both ways keep the best k of every user as one whole number a neighbor, her key: the similarity in steps of 10^-6 times
the number of users, minus the neighbor's row. So keys are all different, the largest is the nearest, ties go to the
lower id, and the row is the key's remainder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import combinations_with_replacement, product
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from longtail import hnsw
from longtail.data.histories import BoolArray, IntArray
from longtail.errors import ConfigError
from longtail.similarity import ROWS, Floats, Measure, Points, points

DIGITS = 1e6  # similarities equal to six digits are ties, and the lower id wins
NOBODY = -(2**62)  # below every key
BLOCK = 1024  # users on either side of a tile of similarities: 4 MB, which stay in the processor's cache
MANY = 200_000  # users above which "auto" takes an index: the exact search takes two minutes there, on two cores
CANDIDATES = 32  # users an index gives for each, at least, for exact similarities to choose from
GATHERED = 2**24  # numbers of candidates' vectors held at a time, 64 MB
SAMPLE = 1000  # users whose neighbors from the index are compared with the exact ones
SILENT = 2.0  # seconds before a bar is shown
log = logging.getLogger(__name__)

Search: TypeAlias = Literal["auto", "exact", "index"]


class Approximate(NamedTuple):
    """Neighbors (U + 1, k) that an index found, and the share of the true ones among them, on a sample of users."""

    neighbors: IntArray
    recall: float


def similar_users(
    vectors: Floats,
    k: int = 10,
    search: Search = "auto",
    measure: Measure = "cosine",
    teaching: BoolArray | None = None,
) -> IntArray:
    """The `k` users nearest to each, by cosine unless told otherwise, best first, ties by lower id (LLM-ESR, sec. 3.4).

    vectors: (U + 1, E), finite; row 0 is padding. Returns (U + 1, k) internal ids, 0 where there is nobody left.
    A user is never her own neighbor, though an identical one may be. Users whose vector is zero have nothing to
    say: they get no neighbors and are nobody's. teaching: (U + 1,) who may be a neighbor, everybody if not given.
    search: "exact"; "index", which is faster and misses some; "auto" takes the index for more than 200,000 users.
    """
    indexed = search == "index" or (search == "auto" and _wants_index(len(vectors) - 1))
    if indexed:
        return approximate_users(vectors, k, measure=measure, teaching=teaching).neighbors
    return exact_users(vectors, k, measure=measure, teaching=teaching)


def _wants_index(users: int) -> bool:
    if users > MANY and find_spec("usearch") is None:
        told = "comparing all %s users with each other will take long; an index is faster: %s"
        log.warning(told, users, hnsw.INSTALL)
        return False
    return users > MANY


def exact_users(
    vectors: Floats,
    k: int = 10,
    block: int = BLOCK,
    *,
    measure: Measure = "cosine",
    teaching: BoolArray | None = None,
) -> IntArray:
    """`similar_users` by the similarities of all pairs: a tile of block x block is made once and serves both its sides.

    Memory beside the vectors: their copy as points.
    """
    speaking = points(vectors, measure, teaching)
    n = len(speaking.users)
    units = speaking.of(slice(None))  # (n, E)
    whole = range(0, n if k else 0, block)
    with watched("similar users", len(whole) * (len(whole) + 1) // 2) as advance:
        best, _ = best_between(units, speaking, k, whole, whole, advance)
    return named(best, speaking)


def best_between(
    units: Tensor, speaking: Points, k: int, left: range, right: range, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """The best keys that users of two parts of the points (n, E) have in each other's: (l, k) and (r, k).

    left, right: the rows of each, in steps of a block; the same twice for those within one part, else left comes first.
    """
    n, same = len(units), left == right
    of_left = nothing(left.stop - left.start, k)
    of_right = of_left if same else nothing(right.stop - right.start, k)
    for i, j in combinations_with_replacement(left, 2) if same else product(left, right):
        rows, others = slice(i, min(i + left.step, left.stop)), slice(j, min(j + right.step, right.stop))
        tile = speaking.compared(units[rows], units[others])  # (block, block)
        mine, theirs = of_left[i - left.start :][: left.step], of_right[j - right.start :][: right.step]
        if i == j:
            tile.fill_diagonal_(-torch.inf)
        else:
            _offer(theirs, speaking.teachers_only(tile, 0, rows), 0, i, n)
        _offer(mine, speaking.teachers_only(tile, 1, others), 1, j, n)
        advance(1)
    return of_left, of_right


def _offer(best: Tensor, tile: Tensor, dim: int, first: int, n: int) -> None:
    """Put the keys of a tile of similarities among the `best` (b, k), where they belong there.

    dim: the side of the tile (0 rows, 1 columns) on which the users stand that are offered, `first` and on; those they
    are offered to stand on the other. Users must be offered in ascending order: a tie with the k-th best has lost.
    """
    k = best.shape[1]
    bound = ((_steps(best[:, -1], n) + 0.4) / DIGITS).float()  # the next step begins at 0.5
    if not (best > NOBODY).any():  # the first who are offered
        bound = torch.maximum(bound, _below_kth(tile, dim, k))
    found = np.flatnonzero((tile > bound.unsqueeze(dim)).numpy())
    if not len(found):
        return
    sides = [torch.from_numpy(side) for side in np.divmod(found, tile.shape[1])]
    keys = _keys(tile.flatten()[torch.from_numpy(found)], sides[dim] + first, n)
    rows, order = sides[1 - dim].sort(stable=True)
    counts = torch.bincount(rows, minlength=len(best))
    places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]  # among those offered to the same user
    offered = nothing(len(best), int(counts.max()))
    offered[rows, places] = keys[order]
    best.copy_(torch.cat([best, offered], 1).topk(k).values)


def _below_kth(tile: Tensor, dim: int, k: int) -> Tensor:
    """A bound from below of the k-th best along `dim`: of the maxima of 3k groups the k-th, less two steps."""
    size = tile.shape[dim] // (3 * k)
    if not size:
        return torch.full((tile.shape[1 - dim],), -torch.inf)
    maxima = torch.stack([tile.narrow(dim, start, size).amax(dim) for start in range(0, 3 * k * size, size)])
    return maxima.topk(k, dim=0).values[-1] - 2 / DIGITS


def approximate_users(
    vectors: Floats,
    k: int = 10,
    sample: int = SAMPLE,
    *,
    measure: Measure = "cosine",
    teaching: BoolArray | None = None,
) -> Approximate:
    """`similar_users` by an HNSW index of bfloat16 vectors, whose candidates are ranked by their exact similarities.

    The index holds each distinct vector once: users who did the same would crowd out the links between the others.
    Whom it misses is chance and differs from run to run, unless torch has but one thread: then one builds the index,
    and it is the same every time. Recall is measured on `sample` users and logged.
    Memory beside the vectors, which are not copied: the index, about 2 E + 560 bytes a user, and 30 k bytes for keys.
    """
    speaking = points(vectors, measure, teaching)
    n = len(speaking.users)
    if n < 2 or not k or not speaking.teachers.any():
        return Approximate(named(nothing(n, k), speaking), 1.0)
    first, group, alike = _groups(speaking, k + 1)
    found = _found_by_index(speaking, first, alike)[torch.from_numpy(group)]  # (n, k + 1), maybe herself among them
    found[-found % n == torch.arange(n)[:, None]] = NOBODY
    best = found.topk(k).values
    recall = _recall(best, speaking, sample)
    log.info("the index found %.1f%% of the %d most similar users (of %d users)", 100 * recall, k, min(sample, n))
    return Approximate(named(best, speaking), recall)


def _groups(speaking: Points, size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Users with equal vectors: the first row of each group (g,), each row's group (n,), and `alike` (g + 1, size).

    alike: the first teachers of each group, then -1; its last line is of -1 alone. Vectors are taken for equal if their
    hashes are: two of 32 bits, multilinear and so nearly universal: among a million users the chance of a mistake
    is about 10^-7.
    """
    vectors, users = speaking.vectors, speaking.users
    factors = np.random.default_rng(0).integers(2**64, size=(vectors.shape[1], 2), dtype=np.uint64)
    bits = (vectors[users[start : start + ROWS]].view(np.uint32) for start in range(0, len(users), ROWS))
    hashes = np.concatenate([block.astype(np.uint64) @ factors >> np.uint64(32) for block in bits])  # (n, 2)
    _, first, group = np.unique(hashes @ np.array([1, 2**32], np.uint64), return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    order = order[speaking.teachers[order]]
    place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    alike = np.full((len(first) + 1, size), -1)
    kept = place < size
    alike[group[order][kept], place[kept]] = order[kept]
    return first, group, alike


def _found_by_index(speaking: Points, first: IntArray, alike: IntArray) -> Tensor:
    """The best keys (g, k + 1) of each group of equal users, themselves among them."""
    g, size, width = len(first), alike.shape[1], speaking.vectors.shape[1]
    findable = np.flatnonzero(alike[:-1, 0] >= 0)  # groups with a teacher among them
    count, threads = min(max(CANDIDATES, 2 * size), len(findable)), torch.get_num_threads()
    try:
        index = hnsw.empty(width, "ip" if speaking.centre is None else "l2sq", max(hnsw.EXPANSION, 2 * count))
    except ImportError as error:
        needs = f"neighbors.search 'index' needs usearch ({error}); {hnsw.INSTALL}, or set 'exact'"
        raise ConfigError(needs) from error
    best = nothing(g, size)
    step = max(2, GATHERED // (count * width))
    blocks = np.array_split(np.arange(g), max(1, g // step))  # of one row only if there is but one
    with watched("similar users by an index", g + len(findable)) as advance:
        for rows in np.array_split(findable, min(len(blocks), len(findable))):
            index.add(rows, speaking.of(first[rows]).numpy(), threads=threads)
            advance(len(rows))
        for rows in blocks:
            units = speaking.of(first[rows])  # (b, E)
            found = hnsw.nearest(index, units.numpy(), count, threads)
            own = rows[:, None]  # which it may have missed, and stands last
            columns = np.concatenate([np.where(found == own, -1, found), own], axis=1)  # (b, count + 1) groups
            near = speaking.compared(speaking.of(first[columns]), units[:, None])  # (b, count + 1, 1)
            members = torch.from_numpy(alike[columns])  # (b, count + 1, k + 1)
            keys = _keys(near, members, len(speaking.users)).masked_fill_(members < 0, NOBODY)
            best[rows] = torch.cat([best[rows], keys.flatten(1)], 1).topk(size).values
            advance(len(rows))
    return best


def _recall(best: Tensor, speaking: Points, sample: int) -> float:
    """The share of `best` (n, k), for a sample of users, that are as near as the k-th of all users, to six digits."""
    n, k = len(best), max(min(best.shape[1], int(speaking.teachers.sum()) - 1), 1)
    rows = np.sort(np.random.default_rng(0).choice(n, min(sample, n), replace=False))
    exact, asked = nothing(len(rows), best.shape[1]), speaking.of(rows)
    for start in range(0, n, ROWS):
        block = slice(start, start + ROWS)
        tile = speaking.compared(asked, speaking.of(block))  # (sample, ROWS)
        inside = np.flatnonzero((rows >= start) & (rows < start + ROWS))
        tile[inside, rows[inside] - start] = -torch.inf
        _offer(exact, speaking.teachers_only(tile, 1, block), 1, start, n)
    near = _steps(best[rows, :k], n) >= _steps(exact[:, k - 1 : k], n) - 1
    return float(near.double().mean())


def nothing(rows: int, k: int) -> Tensor:
    return torch.full((rows, k), NOBODY)


def _keys(tile: Tensor, columns: Tensor, n: int) -> Tensor:
    return tile.double().mul_(DIGITS).round_().long().mul_(n) - columns


def _steps(keys: Tensor, n: int) -> Tensor:
    """The similarities of keys in steps of 10^-6; of nobody's, less than any."""
    return -(-keys // n)


def named(best: Tensor, speaking: Points) -> IntArray:
    """Keys (n, k), best first, to internal ids (U + 1, k)."""
    found = np.zeros((len(speaking.vectors), best.shape[1]), dtype=np.int64)
    if len(best):
        keys = best.numpy()
        found[speaking.users] = np.where(keys == NOBODY, 0, speaking.users[-keys % len(best)])
    return found


@contextmanager
def watched(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, shown once the work has taken two seconds, and gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, begin = bar.add_task(title, total=total), time.monotonic()

    def advance(steps: int) -> None:
        if time.monotonic() - begin > SILENT:
            bar.start()
        bar.advance(task, steps)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
