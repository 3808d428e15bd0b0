"""Vectors of any width as points of a plane: t-SNE where scikit-learn is installed, else principal components."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PERPLEXITY = 30.0  # t-SNE's neighbors of a point, less for few points


class Points(NamedTuple):
    """places: (n, 2). how: what made them, for captions."""

    places: npt.NDArray[np.float64]
    how: str


def project(vectors: npt.NDArray[np.float32], seed: int = 0) -> Points:
    """(n, D) vectors in the plane; the same on every call."""
    rows = vectors.astype(np.float64)
    flat = principal_plane(rows)
    if find_spec("sklearn") is None or len(rows) < 4:
        return Points(flat, "principal components")
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    made = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(rows)
    return Points(made.astype(np.float64), "t-SNE")


def principal_plane(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, D) to (n, 2): the two directions in which the rows differ most, each with its largest loading positive."""
    centred = rows - rows.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    two = directions[:2]
    two = two * np.sign(two[np.arange(len(two)), np.abs(two).argmax(1)])[:, None]
    flat = centred @ two.T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
