"""The best k of each, among those offered tile by tile: a neighbor's similarity and row as one whole number, her key.

A key is the similarity in steps of 10^-6 times the number of users, minus the neighbor's row. So keys are all
different, the largest is the nearest, ties go to the lower row, and the row is the key's remainder.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DIGITS = 1e6  # similarities equal to six digits are ties, and the lower id wins
NOBODY = -(2**62)  # below every key


def nothing(rows: int, k: int) -> Tensor:
    """(rows, k) where there is nobody yet."""
    return torch.full((rows, k), NOBODY)


def keys(tile: Tensor, rows: Tensor, n: int) -> Tensor:
    """The keys of similarities `tile` to those at `rows` of n; the two shapes are broadcast."""
    return tile.double().mul_(DIGITS).round_().long().mul_(n) - rows


def steps(best: Tensor, n: int) -> Tensor:
    """The similarities of keys in steps of 10^-6; of nobody's, less than any."""
    return -(-best // n)


def offer(best: Tensor, tile: Tensor, dim: int, rows: Tensor, n: int) -> None:
    """Put the keys of a tile of similarities among the `best` (b, k), where they belong there.

    dim: the side of the tile (0 rows, 1 columns) on which those stand that are offered, who are `rows` of n; those they
    are offered to stand on the other. A tie with the k-th best has lost: who are offered in ascending order, one tile
    after another, are ranked as if all had been offered at once.
    """
    k = best.shape[1]
    bound = ((steps(best[:, -1], n) + 0.4) / DIGITS).float()  # the next step begins at 0.5
    if not (best > NOBODY).any():  # the first who are offered
        bound = torch.maximum(bound, _below_kth(tile, dim, k))
    found = np.flatnonzero((tile > bound.unsqueeze(dim)).numpy())
    if not len(found):
        return
    sides = [torch.from_numpy(side) for side in np.divmod(found, tile.shape[1])]
    offered = keys(tile.flatten()[torch.from_numpy(found)], rows[sides[dim]], n)
    to, order = sides[1 - dim].sort(stable=True)
    counts = torch.bincount(to, minlength=len(best))
    places = torch.arange(len(to)) - (counts.cumsum(0) - counts)[to]  # among those offered to the same one
    table = nothing(len(best), int(counts.max()))
    table[to, places] = offered[order]
    best.copy_(torch.cat([best, table], 1).topk(k).values)


def _below_kth(tile: Tensor, dim: int, k: int) -> Tensor:
    """A bound from below of the k-th best along `dim`: of the maxima of 3k groups the k-th, less two steps."""
    size = tile.shape[dim] // (3 * k)
    if not size:
        return torch.full((tile.shape[1 - dim],), -torch.inf)
    grouped = list(tile.shape)
    grouped[dim : dim + 1] = 3 * k, size
    maxima = tile.narrow(dim, 0, 3 * k * size).reshape(grouped).amax(dim + 1)
    return maxima.topk(k, dim=dim).values.select(dim, -1) - 2 / DIGITS
