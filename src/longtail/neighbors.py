"""Similar users: the nearest other users, exact by blocks, by cells or by an index; a U x U matrix never exists.

All ways keep the best k of every user as keys (`longtail.keys`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement, product
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from longtail import cells, hnsw
from longtail.cells import Cells
from longtail.data.histories import BoolArray, IntArray
from longtail.errors import ConfigError
from longtail.keys import NOBODY, keys, nothing, offer, steps
from longtail.similarity import ROWS, Measure, Points, Rows, points
from longtail.terminal import watched

BLOCK = 1024  # users on either side of a tile of similarities: 4 MB, which stay in the processor's cache
MANY = 200_000  # users above which "auto" takes cells: the exact search takes two minutes there, on two cores
GOOD = 0.95  # of the nearest users, that cells must have
CANDIDATES = 32  # users an index gives for each, at least, for exact similarities to choose from
GATHERED = 2**24  # numbers of candidates' vectors held at a time, 64 MB
SAMPLE = 1000  # users whose neighbors from the index are compared with the exact ones
log = logging.getLogger(__name__)

Search: TypeAlias = Literal["auto", "exact", "cells", "index"]
Each: TypeAlias = Callable[[Cells, Points, int, int], Iterator[tuple[slice, Tensor]]]
"""From cells, points, k and P to blocks of all points, and the keys (b, k) of the nearest to each in P cells."""


class Approximate(NamedTuple):
    """Neighbors (U + 1, k) that were found, and the share of the true ones among them, on a sample of users."""

    neighbors: IntArray
    recall: float


def similar_users(
    vectors: Rows,
    k: int = 10,
    search: Search = "auto",
    measure: Measure = "cosine",
    teaching: BoolArray | None = None,
) -> IntArray:
    """The `k` users nearest to each, by cosine unless told otherwise, best first, ties by lower id (LLM-ESR, sec. 3.4).

    vectors: (U + 1, E), finite; row 0 is padding. Returns (U + 1, k) internal ids, 0 where there is nobody left.
    A user is never her own neighbor, though an identical one may be. Users whose vector is zero have nothing to
    say: they get no neighbors and are nobody's. teaching: (U + 1,) who may be a neighbor, everybody if not given.
    search: "exact"; "cells" or "index", which are faster and miss some; "auto" takes cells for more than 200,000 users.
    """
    if search == "index":
        return approximate_users(vectors, k, measure=measure, teaching=teaching).neighbors
    if search == "cells" or (search == "auto" and len(vectors) - 1 > MANY):
        return users_by_cells(vectors, k, measure=measure, teaching=teaching).neighbors
    return exact_users(vectors, k, measure=measure, teaching=teaching)


def exact_users(
    vectors: Rows,
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
            offer(theirs, speaking.teachers_only(tile, 0, rows), 0, _range(rows), n)
        offer(mine, speaking.teachers_only(tile, 1, others), 1, _range(others), n)
        advance(1)
    return of_left, of_right


def users_by_cells(
    vectors: Rows,
    k: int = 10,
    sample: int = SAMPLE,
    *,
    measure: Measure = "cosine",
    teaching: BoolArray | None = None,
    each: Each | None = None,
) -> Approximate:
    """`similar_users` by cells of users whose vectors are alike (`longtail.cells`).

    So many cells are looked into that GOOD of the nearest are found, on `sample` users; that recall is logged.
    Memory beside the vectors, which may be read from a file as they are needed: those of who may be a neighbor, in half
    precision if they take more than 4 GB; and 16 k bytes a user. each: what searches, this process if not given.
    """
    speaking = points(vectors, measure, teaching)
    n, teachers = len(speaking.users), np.flatnonzero(speaking.teachers)
    best = nothing(n, k)
    if n < 2 or not k or not len(teachers):
        return Approximate(named(best, speaking), 1.0)
    asked = np.sort(np.random.default_rng(0).choice(n, min(sample, n), replace=False))
    with watched("similar users by cells", 2 * len(teachers) + n) as advance:
        made = cells.build(speaking.of, teachers, n, speaking.compared, spherical=measure == "cosine", tell=advance)
        P, recall = made.probes(speaking.of(asked), min(k + 1, len(teachers)), GOOD)
        told = "%d cells of %d have %.1f%% of the %d most similar users (of %d users)"
        log.info(told, P, len(made.centres), 100 * recall, k, len(asked))
        for block, found in (each or in_turn)(made, speaking, k + 1, P):  # maybe herself among them
            found[-found % n == _range(block)[:, None]] = NOBODY
            best[block] = found.topk(k).values
            advance(len(found))
    return Approximate(named(best, speaking), recall)


def in_turn(made: Cells, speaking: Points, k: int, P: int) -> Iterator[tuple[slice, Tensor]]:
    """One block after the other."""
    for block in queries(len(speaking.users), cells.QUERIES):
        yield block, made.search(speaking.of(block), k, P)


def queries(n: int, size: int) -> list[slice]:
    """Blocks of n users whose neighbors are sought at a time."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def approximate_users(
    vectors: Rows,
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
            found_keys = keys(near, members, len(speaking.users)).masked_fill_(members < 0, NOBODY)
            best[rows] = torch.cat([best[rows], found_keys.flatten(1)], 1).topk(size).values
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
        offer(exact, speaking.teachers_only(tile, 1, block), 1, torch.arange(start, min(start + ROWS, n)), n)
    near = steps(best[rows, :k], n) >= steps(exact[:, k - 1 : k], n) - 1
    return float(near.double().mean())


def _range(rows: slice) -> Tensor:
    return torch.arange(rows.start, rows.stop)


def named(best: Tensor, speaking: Points) -> IntArray:
    """Keys (n, k), best first, to internal ids (U + 1, k)."""
    found = np.zeros((len(speaking.vectors), best.shape[1]), dtype=np.int64)
    if len(best):
        keys = best.numpy()
        found[speaking.users] = np.where(keys == NOBODY, 0, speaking.users[-keys % len(best)])
    return found
