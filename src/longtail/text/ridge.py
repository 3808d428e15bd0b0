"""Item vectors of items that nobody bought yet, from their texts: a ridge regression of vectors on LLM embeddings.

No torch here, so that what serves may use it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean variance of an embedding's numbers, to choose from
HELD = 10  # every tenth item with interactions chooses
RIPE = 4.0  # interactions at which an item's vector counts half
RARE = 0.1  # of the items that have interactions: those with the fewest
ROWS = 8192  # items looked at together


class Map(NamedTuple):
    """e (E,) to e W + b (D,): weight (E, D), bias (D,)."""

    weight: Floats
    bias: Floats


def fitted(embeddings: Floats, vectors: Floats, counts: npt.NDArray[np.integer], *, full_length: bool = False) -> Map:
    """The ridge regression from embeddings (n, E) to vectors (n, D), items weighted by n_i / (n_i + 4).

    Its strength is the best of RIDGES on every tenth item that has interactions, and then all items are fitted. With
    `full_length` what it makes is as long as `vectors` of rare items are on average, which new ones are like: a
    regression shrinks what it cannot tell, and a short vector is not recommended (docs/beyond.md).
    """
    weights = (counts / (counts + RIPE)).astype(np.float64)
    known = np.flatnonzero(weights)
    if not len(known) or not vectors[known].any():
        return Map(
            np.zeros((embeddings.shape[1], vectors.shape[1]), np.float32), np.zeros(vectors.shape[1], np.float32)
        )
    held = known[::HELD] if len(known) >= 2 * HELD else known
    rest = np.setdiff1d(known, held) if len(held) < len(known) else known
    seen, whole = (_moments(embeddings, vectors, weights, rows) for rows in (rest, known))

    def error(strength: float) -> float:
        made, total = _ridge(seen, strength), 0.0
        for rows in _blocks(held):
            residual = embeddings[rows] @ made.weight + made.bias - vectors[rows]
            total += float((weights[rows, None] * residual.astype(np.float64) ** 2).sum())
        return total

    weight, bias = _ridge(whole, min(RIDGES, key=error))
    if not full_length:
        return Map(weight, bias)
    rare = known[counts[known] <= np.quantile(counts[known], RARE)]
    made = sum(float(np.linalg.norm(embeddings[rows] @ weight + bias, axis=1).sum()) for rows in _blocks(rare))
    longer = np.float32(np.linalg.norm(vectors[rare], axis=1).sum() / max(made, 1e-12))
    return Map(weight * longer, bias * longer)


class _Moments(NamedTuple):
    """Weighted means x (E,), y (D,), and covariances xx (E, E), xy (E, D)."""

    x: Doubles
    y: Doubles
    xx: Doubles
    xy: Doubles


def _moments(x: Floats, y: Floats, weights: Doubles, rows: Ints) -> _Moments:
    """Of x (n, E) and y (n, D) at `rows`, read in blocks: they may be a file."""
    share = weights / weights[rows].sum()
    means = [sum(share[at] @ each[at] for at in _blocks(rows)) for each in (x, y)]
    xx, xy = np.zeros((x.shape[1], x.shape[1])), np.zeros((x.shape[1], y.shape[1]))
    for at in _blocks(rows):
        left, right = x[at] - means[0], y[at] - means[1]
        weighted = (left * share[at, None]).T
        xx += weighted @ left
        xy += weighted @ right
    return _Moments(np.asarray(means[0]), np.asarray(means[1]), xx, xy)


def _ridge(found: _Moments, strength: float) -> Map:
    scatter = found.xx.copy()
    scatter[np.diag_indices_from(scatter)] += strength * max(float(np.trace(scatter)) / len(scatter), 1e-12)
    weight = np.linalg.solve(scatter, found.xy)
    return Map(weight.astype(np.float32), (found.y - found.x @ weight).astype(np.float32))


def _blocks(rows: Ints) -> list[Ints]:
    return np.array_split(rows, max(len(rows) // ROWS, 1))


def units(embeddings: Floats) -> npt.NDArray[np.float16]:
    """(n, E) of length 1, in float16; a zero vector stays zero."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float16)


def floors(rows: npt.NDArray[np.float16], ids: npt.NDArray[np.int32], gaps: Floats) -> Floats:
    """(I + 1,) the cosine above which an item has an edge, from its nearest item and how far that is above it.

    2, which no cosine reaches, for an item without edges.
    """
    found = np.full(len(rows), 2.0, np.float32)
    if not ids.shape[1]:
        return found
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        nearest = rows[ids[part, 0]].astype(np.float32)
        cosines = np.einsum("je,je->j", rows[part].astype(np.float32), nearest)
        found[part] = np.where(gaps[part, 0] > 0, cosines - gaps[part, 0], found[part])
    return found
