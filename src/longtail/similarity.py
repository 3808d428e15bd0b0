"""How near two users are: cosine, dot product or Euclidean distance, each made of dot products of scaled vectors."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longtail.data.histories import BoolArray, IntArray

ROWS = 8192  # users whose vectors are looked at together

Floats: TypeAlias = npt.NDArray[np.float32]
Measure: TypeAlias = Literal["cosine", "dot", "euclidean"]


class Rows(Protocol):
    """Vectors (n, E), of which some rows are taken at a time: an array, a file, or what makes them when it is asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | IntArray, /) -> Floats: ...


class Points(NamedTuple):
    """The users whose vector is not zero, as they are compared: point = (vector - centre) / scale, of length 1 at most.

    vectors (U + 1, E); users (n,) their ids, ascending; teachers (n,) whether each may be a neighbor; scale (n,);
    centre (E,) for Euclidean distances, else None.
    """

    vectors: Rows
    users: IntArray
    teachers: BoolArray
    scale: Floats
    centre: Floats | None

    def of(self, rows: slice | IntArray) -> Tensor:
        """Points (..., E) of `rows` (...), a copy."""
        taken = torch.from_numpy(self.vectors[self.users[rows]])
        if self.centre is not None:
            taken.sub_(torch.from_numpy(self.centre))
        return taken.div_(torch.from_numpy(self.scale[rows])[..., None])

    def compared(self, left: Tensor, right: Tensor) -> Tensor:
        """Similarities (..., b, c) of points (..., b, E) and (..., c, E), between -2 and 1.

        x . y; for Euclidean distances x . y - |x|^2 / 2 - |y|^2 / 2 = -|x - y|^2 / 2, which has the same order.
        """
        products = left @ right.mT
        if self.centre is not None:
            products.sub_(left.square().sum(-1)[..., None] / 2).sub_(right.square().sum(-1)[..., None, :] / 2)
        return products

    def teachers_only(self, tile: Tensor, dim: int, rows: slice) -> Tensor:
        """A tile of similarities with -inf for those, `rows` along `dim` of it, who may not be a neighbor."""
        teachers = self.teachers[rows]
        return tile if teachers.all() else tile.masked_fill(~torch.from_numpy(teachers).unsqueeze(1 - dim), -torch.inf)


def points(vectors: Rows, measure: Measure = "cosine", teaching: BoolArray | None = None) -> Points:
    """The points of vectors (U + 1, E) under a measure; row 0 is padding. teaching: (U + 1,) who may be a neighbor.

    cosine: each vector over its length. dot: over the greatest length, which changes no order. euclidean: the same,
    after the mean is taken away, which changes no distance and keeps digits where all vectors point alike.
    """
    norms = _norms(vectors)
    users = np.flatnonzero(norms > 0)
    teachers = np.ones(len(users), bool) if teaching is None else teaching[users]
    if measure == "cosine":
        return Points(vectors, users, teachers, norms[users], None)
    centre = None
    if measure == "euclidean":
        parts = (vectors[users[start : start + ROWS]] for start in range(0, len(users), ROWS))
        total = sum((part.sum(0, dtype=np.float64) for part in parts), np.zeros(vectors.shape[1]))
        centre = (total / max(len(users), 1)).astype(np.float32)
        norms = _norms(vectors, centre)
    greatest = norms[users].max(initial=0.0) or 1.0
    return Points(vectors, users, teachers, np.full(len(users), greatest, np.float32), centre)


def _norms(vectors: Rows, centre: Floats | None = None) -> Floats:
    """(U + 1,) distances from the centre, or from zero; that of row 0 is 0."""
    blocks = (vectors[start : start + ROWS] for start in range(0, len(vectors), ROWS))
    norms = [np.linalg.norm(block if centre is None else block - centre, axis=1) for block in blocks]
    found: Floats = np.concatenate(norms).astype(np.float32, copy=False)
    found[0] = 0.0
    return found
