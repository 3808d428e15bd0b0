"""Items that came after training: their vectors and edges, from their LLM vectors alone. No torch here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longtail.errors import BundleError
from longtail.serve.bundle import Bundle, Ints, Semantic
from longtail.serve.matrix import Floats, IntArray, Matrix

ROOM = 64  # added items that there is memory for at first; it doubles
SCALE = 1e-12  # a length that is none


class Reach(NamedTuple):
    """Edges of one item to others: their places (m,) and weights without gamma (m,)."""

    places: IntArray
    weights: Floats


NOWHERE = Reach(np.zeros(0, np.int64), np.zeros(0, np.float32))


class Additions:
    """The items I + 1, I + 2, … of a bundle.

    v_i = W e_i + b, W and b folded at export; an edge from j by text is as in training,
    max(cos(e_j, e_i) - floor_j, 0), floor_j the cosine of the text after the M nearest of j among those of training.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.first, self.semantic = bundle.manifest.items + 1, bundle.semantic
        self.graph = bundle.items.text if bundle.manifest.graphs else None
        self.count = 0
        self._vectors = np.zeros((ROOM, bundle.manifest.D), np.float32)
        width = self.semantic.weight.shape[0] if self.semantic else 0
        self._units = np.zeros((ROOM if self.graph else 0, width), np.float32)
        self.to_added: dict[int, list[tuple[int, float]]] = {}
        self.of_added: dict[int, Reach] = {}
        self._floors: list[float] = []

    @property
    def vectors(self) -> Matrix:
        """(n, D)."""
        return Matrix(self._vectors[: self.count])

    def prepared(self, vector: Floats) -> Floats:
        """The LLM vector (E,) that the encoder gave, as training had it; a BundleError if it cannot be."""
        semantic = self.need()
        done = vector if semantic.transform is None else semantic.transform.apply(vector[None])[0]
        if done.shape != (len(semantic.weight),):
            raise BundleError(f"a vector of {len(done)} numbers; this bundle's encoder gives {len(semantic.weight)}")
        if not np.isfinite(done).all():
            raise BundleError("the vector holds NaN or infinity; give finite numbers")
        return done

    def need(self) -> Semantic:
        """How new items are placed; a BundleError if the bundle does not know."""
        if self.semantic is None:
            raise BundleError("this bundle has no semantic path for new items; export the run with its embeddings")
        return self.semantic

    def add(self, vector: Floats) -> int:
        """Take an item by its LLM vector (E,), as `prepared` gives it; its place."""
        semantic = self.need()
        if self.count == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._units = np.concatenate([self._units, np.zeros_like(self._units)])
        self._vectors[self.count] = vector @ semantic.weight + semantic.bias
        place = self.first + self.count
        if self.graph is not None:
            self._connect(place, vector / max(float(np.linalg.norm(vector)), SCALE), semantic)
        self.count += 1
        return place

    def _connect(self, place: int, unit: Floats, semantic: Semantic) -> None:
        assert self.graph is not None and semantic.embeddings is not None and semantic.floors is not None
        cosines = _products(semantic.embeddings, unit)  # (I + 1,)
        gaps = np.maximum(cosines - semantic.floors, 0)
        gaps[0] = 0
        for j in np.flatnonzero(gaps).tolist():
            self.to_added.setdefault(j, []).append((place, float(gaps[j])))
        others = self._units[: self.count] @ unit
        for at in np.flatnonzero(others > np.array(self._floors, np.float32)).tolist():
            self.to_added.setdefault(self.first + at, []).append((place, float(others[at]) - self._floors[at]))
        cosines[0] = -1
        M = min(self.graph.ids.shape[1], len(cosines) - 2)
        nearest = np.argpartition(-cosines, M)[: M + 1]
        nearest = nearest[np.argsort(-cosines[nearest], kind="stable")]
        floor = float(cosines[nearest[-1]])
        self.of_added[place] = Reach(nearest[:M].astype(np.int64), (cosines[nearest[:M]] - floor).clip(min=0))
        for at in np.flatnonzero(others > floor).tolist():
            self.to_added.setdefault(place, []).append((self.first + at, float(others[at]) - floor))
        self._units[self.count] = unit
        self._floors.append(floor)

    def reach(self, item: int) -> Reach:
        """The edges by text that training did not know: those to added items, and all of an added item."""
        own, more = self.of_added.get(item, NOWHERE), self.to_added.get(item)
        if not more:
            return own
        places, weights = zip(*more, strict=True)
        return Reach(
            np.concatenate([own.places, np.array(places, np.int64)]),
            np.concatenate([own.weights, np.array(weights, np.float32)]),
        )


def _products(rows: np.ndarray[tuple[int, ...], np.dtype[np.float16]], unit: Floats) -> Floats:
    """(n,) dot products with float16 rows, in blocks."""
    blocks = range(0, len(rows), 16_384)
    return np.concatenate([rows[start : start + 16_384].astype(np.float32) @ unit for start in blocks])


def edges_of(ids: Ints, weights: Floats, items: IntArray, ages: Floats) -> Reach:
    """All edges of base `items` (t,), their weights times `ages` (t,)."""
    return Reach(ids[items].ravel().astype(np.int64), (weights[items] * ages[:, None]).ravel())
