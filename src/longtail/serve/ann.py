"""Candidates for a list among many items: an HNSW index in the bundle, exact scores of what it finds. No torch here.

Without its edges a score is an inner product, and of points of one length those with the highest are the nearest, to
which neighbors of neighbors lead (Bachrach et al., RecSys 2014, sec. 3.2):

    u . v_i - dial log(1 + n_i) = R q . p_i,
    q = (u, 1, 0),    p_i = (v_i, -dial log(1 + n_i), r_i) / R,    r_i such that |p_i| = 1,    R as small as can be

The dial in the index is the bundle's own. Items that edges of the history reach, and added ones, are scored too,
whether the index finds them or not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from longtail import hnsw
from longtail.errors import BundleError
from longtail.serve.bundle import Bundle
from longtail.serve.manifest import AGAIN, INDEX, IndexFacts, Manifest
from longtail.serve.matrix import Floats, IntArray, best

if TYPE_CHECKING:
    from longtail.serve.runtime import Runtime

MANY = 1_000_000  # items from which on a bundle gets an index by itself
CANDIDATES = (128, 256, 512, 1024)  # for a list of K; the fewest that have GOOD recall are taken
GOOD, LEAST = 0.99, 0.95  # recall that is enough, and below which there is no index
K = 10  # length of the lists by which it is measured
ROWS = 65_536  # items put into the index at once
Mask = npt.NDArray[np.bool_]
log = logging.getLogger(__name__)


class Near(NamedTuple):
    """Candidates of a list: places (n,), ascending, and scores (n,). No item that is missing exceeds the bound."""

    places: IntArray
    scores: Floats
    bound: float

    def first(self, k: int, unwanted: IntArray, wanted: Mask | None = None) -> tuple[IntArray, Floats] | None:
        """The k best places and their scores; None if a missing item might be among them.

        unwanted: places that are left out; wanted (count + 1,): which may stay, all if not given.
        """
        allowed = ~np.isin(self.places, unwanted)
        if wanted is not None:
            allowed &= wanted[self.places]
        places, scores = self.places[allowed], self.scores[allowed]
        order = np.lexsort((places, -scores))[:k]
        if len(order) < k or scores[order[-1]] < self.bound:
            return None
        return places[order], scores[order]


class Ann:
    """The index of a bundle."""

    def __init__(self, folder: Path, manifest: Manifest, candidates: int) -> None:
        self.items, self.candidates = manifest.items, candidates
        self._index = hnsw.view(folder / INDEX, manifest.items, manifest.D + 2)

    def places(self, u: Floats, k: int, unwanted: int) -> IntArray:
        """Candidates for a list of k for a user vector (D,), from which so many items are left out."""
        count = min(self.candidates * max(k, K) // K + unwanted, self.items)
        query = np.append(u, np.array([1, 0], np.float32))
        keys = hnsw.nearest(self._index, query[None], count, threads=1)[0]
        found: IntArray = keys[(keys > 0) & (keys <= self.items)]
        return found


def opened(bundle: Bundle) -> Ann | None:
    """The index of a bundle; None if it has none, or if usearch is not installed. A BundleError if it is malformed."""
    facts = bundle.manifest.index
    if facts is None:
        return None
    try:
        return Ann(bundle.folder, bundle.manifest, facts.candidates)
    except ImportError:
        log.warning("%s has an index; without usearch all items are scored, slower: %s", bundle.folder, hnsw.INSTALL)
        return None
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{bundle.folder / INDEX} is no index of this bundle's items ({error}); {AGAIN}") from None


def need() -> None:
    """A BundleError if no index can be made here."""
    if find_spec("usearch") is None:
        raise BundleError(f"an index needs usearch; {hnsw.INSTALL}, or export with --no-index")


def write(runtime: Runtime, histories: Sequence[IntArray], threads: int) -> IndexFacts:
    """Put an index of a runtime's items into its bundle, and choose its candidates by the recall for `histories`.

    The runtime answers with it from then on. A BundleError if even the most candidates have a recall below LEAST, or
    usearch is not installed.
    """
    need()
    index = hnsw.empty(runtime.facts.D + 2, "ip", dtype="f16")
    starts = range(1, runtime.facts.items + 1, ROWS)
    blocks = [np.arange(start, min(start + ROWS, runtime.facts.items + 1)) for start in starts]
    radius = max(float(_lengths(_points(runtime, block)).max()) for block in blocks)
    for block in blocks:
        points = _points(runtime, block)
        rest = np.sqrt(np.maximum(radius**2 - _lengths(points) ** 2, 0))
        index.add(block, np.column_stack([points, rest]) / np.float32(radius or 1), threads=threads)
    index.save(runtime.bundle.folder / INDEX)
    exact = [_exact(runtime, history) for history in histories]
    for candidates in CANDIDATES:
        runtime.index = Ann(runtime.bundle.folder, runtime.facts, candidates)
        recall = float(np.mean([_share(runtime, *pair) for pair in zip(histories, exact, strict=True)]))
        log.info("%s candidates of the index have %.2f%% of the first %s items", candidates, 100 * recall, K)
        if recall >= GOOD:
            break
    if recall < LEAST:
        raise BundleError(
            f"the index finds {recall:.1%} of the first {K} items, and {LEAST:.0%} are wanted: these item vectors have "
            "no neighborhoods that it could follow; export with --no-index"
        )
    return IndexFacts(candidates=candidates, k=K, users=len(histories), recall=recall)


def _points(runtime: Runtime, places: IntArray) -> Floats:
    """(n, D + 1), without r."""
    dialled = np.float32(-runtime.dial(None)) * runtime.log_counts[places]
    return np.column_stack([runtime.items.vectors.rows(places), dialled])


def _lengths(points: Floats) -> Floats:
    """(n,)."""
    lengths: Floats = np.linalg.norm(points, axis=1)
    return lengths


def _exact(runtime: Runtime, history: IntArray) -> IntArray:
    """The first K places of all."""
    scores = runtime.scores([history])[0]
    scores[history] = -np.inf
    places = best(scores, K)
    found: IntArray = places[np.isfinite(scores[places])]
    return found


def _share(runtime: Runtime, history: IntArray, exact: IntArray) -> float:
    """What of the exact list (K,) is in the list by the index."""
    (near,) = runtime.near([history], [K], [len(history)])
    found = near.first(K, history)
    return 1.0 if found is None else len(np.intersect1d(found[0], exact)) / max(len(exact), 1)
