"""Cells: each point with the nearest of a few centres, so that nearest points are sought in a few cells alone (IVF).

An inverted file (Sivic and Zisserman, ICCV 2003; Jégou et al., PAMI 2011) whose lists are searched by matrix products:
of a block of queries, those that look into a cell are compared with all of its points at once. Finding cells takes
C comparisons a query and looking into P of them P n / C, which are least together near C = sqrt(P n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.data.histories import IntArray
from longtail.keys import nothing, offer, steps

SPREAD = 2  # cells for a square root of points
SAMPLE, ROUNDS = 48, 6  # points a cell whose centres are sought, and how often they are moved
LARGEST = 4  # times the points of a mean cell: larger ones are several cells with one centre
PROBES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # cells a query looks into
BLOCK = 8192  # points looked at together
QUERIES = 2**20  # queries whose best are sought at a time: with fewer, tiles are small and slow
TILE = 1024  # queries compared with a cell at once
HALF = 2**32  # bytes of the points above which they are kept in half precision: their cosines differ by about 10^-5
Of: TypeAlias = Callable[[slice | IntArray], Tensor]
Compare: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Cells(NamedTuple):
    """m points of n rows, cell after cell.

    centres (C, E); starts (C + 1,): cell c has points[starts[c] : starts[c + 1]], (m, E), whose `rows` (m,) ascend
    within a cell. compare: similarities (b, c) of vectors (b, E) and (c, E). rough: whether a product of bfloat16 is
    enough to tell which centres are near.
    """

    centres: Tensor
    starts: IntArray
    rows: Tensor
    points: Tensor
    n: int
    compare: Compare
    rough: bool

    def search(self, queries: Tensor, k: int, P: int, best: Tensor | None = None) -> Tensor:
        """Keys (b, k) of the nearest points to queries (b, E) in the P cells whose centres are nearest to each."""
        best = nothing(len(queries), k) if best is None else best
        P = min(P, len(self.centres))
        compare, centres = (_roughly, self.centres.bfloat16()) if self.rough else (self.compare, self.centres)
        probes = torch.cat([compare(part, centres).topk(P, dim=1).indices for part in torch.split(queries, BLOCK)])
        self._look(queries, probes[:, :1], best)  # the nearest cell first: few elsewhere are nearer then
        self._look(queries, probes[:, 1:], best)
        return best

    def _look(self, queries: Tensor, probes: Tensor, best: Tensor) -> None:
        """Offer each query (b, E) the points of her cells (b, p)."""
        cells, order = probes.flatten().short().sort() if len(self.centres) < 2**15 else probes.flatten().sort()
        asking = order // max(probes.shape[1], 1)
        ends = torch.bincount(cells.long(), minlength=len(self.centres)).cumsum(0).tolist()
        for cell, (first, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            start, end = self.starts[cell : cell + 2].tolist()
            if first == stop or start == end:
                continue
            inside, rows = self.points[start:end].float(), self.rows[start:end]
            for who in torch.split(asking[first:stop], TILE):
                found = best[who]
                offer(found, self.compare(queries[who], inside), 1, rows, self.n)
                best[who] = found

    def exact(self, queries: Tensor, k: int) -> Tensor:
        """Keys (b, k) of the nearest of all points."""
        best = nothing(len(queries), k)
        for start in range(0, len(self.points), BLOCK):
            block = slice(start, start + BLOCK)
            offer(best, self.compare(queries, self.points[block].float()), 1, self.rows[block], self.n)
        return best

    def probes(self, queries: Tensor, k: int, wanted: float) -> tuple[int, float]:
        """The fewest cells of PROBES with `wanted` of the k nearest points to queries (b, E), and the share they have.

        A point counts that is as near, to six digits, as the k-th.
        """
        kth = steps(self.exact(queries, k)[:, -1:], self.n)
        for P in PROBES:
            share = float((steps(self.search(queries, k, P), self.n) >= kth - 1).double().mean())
            if share >= wanted or len(self.centres) <= P:
                break
        return P, share


def build(of: Of, rows: IntArray, n: int, compare: Compare, *, spherical: bool, tell: Callable[[int], None]) -> Cells:
    """The cells of the points `of` rows (m,) of n, about SPREAD sqrt(m) of them.

    spherical: all points have the length 1, and so have the centres; then bfloat16 finds cells, where it is fast. tell:
    how many more points are dealt with, of 2 m.
    """
    rough = spherical and len(rows) > BLOCK and bfloat16_is_fast()
    m, chance = len(rows), np.random.default_rng(0)
    C = max(int(SPREAD * m**0.5), 1)
    drawn = np.sort(chance.choice(m, min(m, SAMPLE * C), replace=False))
    centres = _centres(of(rows[drawn]), C, spherical, rough)
    cell = np.empty(m, np.int32)
    for start in range(0, m, BLOCK):
        block = slice(start, start + BLOCK)
        cell[block] = _nearest(of(rows[block]), centres, rough).numpy()
        tell(len(cell[block]))
    order = np.argsort(cell, kind="stable")
    which, starts = _split(np.bincount(cell, minlength=len(centres)), LARGEST * max(m // C, 1))
    del cell
    width = centres.shape[1]
    points = torch.empty(m, width, dtype=torch.float16 if 4 * m * width > HALF else torch.float32)
    for start in range(0, m, BLOCK):
        block = slice(start, start + BLOCK)
        points[block] = of(rows[order[block]])
        tell(len(order[block]))
    return Cells(centres[which], starts, torch.from_numpy(rows[order]), points, n, compare, rough)


def _centres(sample: Tensor, C: int, spherical: bool, rough: bool) -> Tensor:
    """(C, E) by k-means (Lloyd, 1982) of a sample (s, E)."""
    C = min(C, len(sample))
    centres = sample[torch.from_numpy(np.random.default_rng(1).choice(len(sample), C, replace=False))]
    for _ in range(ROUNDS):
        nearest = torch.cat([_nearest(part, centres, rough) for part in torch.split(sample, BLOCK)])
        counts = torch.bincount(nearest, minlength=C)[:, None]
        means = torch.zeros_like(centres).index_add_(0, nearest, sample) / counts.clamp(min=1)
        centres = torch.where(counts > 0, F.normalize(means) if spherical else means, centres)
    return centres


def _nearest(points: Tensor, centres: Tensor, rough: bool) -> Tensor:
    """(b,) the centre with the least distance to each point: that with the greatest x . c - |c|^2 / 2.

    rough: by bfloat16, of centres that are all of length 1.
    """
    if rough:
        return _roughly(points, centres.bfloat16()).max(1).indices  # argmax takes four times as long
    return (points @ centres.T).sub_(centres.square().sum(1) / 2).max(1).indices


def _roughly(points: Tensor, centres: Tensor) -> Tensor:
    """(b, C) products, to two or three digits, of points (b, E) and centres (C, E), which are of bfloat16."""
    return points.bfloat16() @ centres.T


def bfloat16_is_fast() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and bool(supported())


def _split(sizes: IntArray, most: int) -> tuple[Tensor, IntArray]:
    """Cells of so many points, those of more than `most` cut into parts: which centre each has, and where it starts."""
    pieces = np.maximum(-(-sizes // most), 1)
    which = np.repeat(np.arange(len(sizes)), pieces)
    place = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    edges = (sizes[which] * (place + 1)) // pieces[which] - (sizes[which] * place) // pieces[which]
    return torch.from_numpy(which), np.concatenate([[0], np.cumsum(edges)]).astype(np.int64)
