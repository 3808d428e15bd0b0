"""Item vectors in memory or in a file, float32 or int8, and the exact best of their products. No torch here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ROWS = 32_768  # int8 rows widened at once
CHUNK = 64  # scores of which only the best is looked at first
LEVELS = 127  # of a number in int8, either way


class Matrix(NamedTuple):
    """Vectors (n, D): float32, or int8 times a scale a row, (n,)."""

    values: npt.NDArray[np.float32] | npt.NDArray[np.int8]
    scales: Floats | None = None

    def rows(self, places: IntArray) -> Floats:
        """(m, D) float32."""
        found: Floats = self.values[places].astype(np.float32, copy=False)
        return found if self.scales is None else found * self.scales[places][..., None]

    def products(self, u: Floats, out: Floats) -> None:
        """Write the scores of user vectors (b, D) with all n to out (b, n)."""
        if self.scales is None:
            np.matmul(u, self.values.T, out=out)
            return
        for start in range(0, len(self.values), ROWS):
            part = slice(start, start + ROWS)
            out[:, part] = u @ self.values[part].astype(np.float32).T
            out[:, part] *= self.scales[part]


def quantized(vectors: Floats) -> Matrix:
    """The nearest int8 vectors with a scale a row."""
    scales = np.abs(vectors).max(axis=1) / LEVELS
    scaled = vectors / np.where(scales > 0, scales, 1)[:, None]
    return Matrix(np.rint(scaled).astype(np.int8), scales.astype(np.float32))


def width_for(n: int) -> int:
    """n rounded up to whole chunks, which `best` wants."""
    return -(-n // CHUNK) * CHUNK


def best(scores: Floats, k: int) -> IntArray:
    """Places of the k highest scores (w,), best first, ties by the lower place; w is of whole chunks.

    Exact: the k best stand in the k chunks whose own best are highest.

    >>> best(np.arange(128, dtype=np.float32), 2)
    array([127, 126])
    """
    k = min(k, len(scores))
    places = np.arange(len(scores))
    if k * CHUNK < len(scores):
        highest = scores.reshape(-1, CHUNK).max(axis=1)
        least = np.partition(highest, len(highest) - k)[len(highest) - k]
        chunks = np.flatnonzero(highest >= least)  # more than k where chunks tie
        places = (chunks[:, None] * CHUNK + np.arange(CHUNK)).ravel()
    among = scores[places]
    if k < len(among):
        least = np.partition(among, len(among) - k)[len(among) - k]
        kept = np.flatnonzero(among >= least)
        places, among = places[kept], among[kept]
    found: IntArray = places[np.lexsort((places, -among))[:k]]
    return found
