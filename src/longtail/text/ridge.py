"""Item vectors of items that nobody bought yet, from their texts: a ridge regression of vectors on LLM embeddings.

No torch here, so that what serves may use it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean variance of an embedding's numbers, to choose from
HELD = 10  # every tenth item with interactions chooses
RIPE = 4.0  # interactions at which an item's vector counts half
RARE = 0.1  # of the items that have interactions: those with the fewest
ROWS = 8192  # items whose cosines are computed at once


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

    def error(strength: float) -> float:
        made = _ridge(embeddings[rest], vectors[rest], weights[rest], strength)
        residual = embeddings[held] @ made.weight + made.bias - vectors[held]
        return float((weights[held, None] * residual.astype(np.float64) ** 2).sum())

    weight, bias = _ridge(embeddings[known], vectors[known], weights[known], min(RIDGES, key=error))
    if not full_length:
        return Map(weight, bias)
    rare = known[counts[known] <= np.quantile(counts[known], RARE)]
    made = float(np.linalg.norm(embeddings[rare] @ weight + bias, axis=1).mean())
    longer = np.float32(np.linalg.norm(vectors[rare], axis=1).mean() / max(made, 1e-12))
    return Map(weight * longer, bias * longer)


def _ridge(x: Floats, y: Floats, weights: npt.NDArray[np.float64], strength: float) -> Map:
    share = weights / weights.sum()
    x_mean, y_mean = share @ x, share @ y
    centred = (x - x_mean) * np.sqrt(share)[:, None]
    scatter = centred.T @ centred
    scatter[np.diag_indices_from(scatter)] += strength * max(float(np.trace(scatter)) / len(scatter), 1e-12)
    weight = np.linalg.solve(scatter, centred.T @ ((y - y_mean) * np.sqrt(share)[:, None]))
    return Map(weight.astype(np.float32), (y_mean - x_mean @ weight).astype(np.float32))


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
