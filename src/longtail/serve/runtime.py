"""Scores of a bundle's items for histories: what the torch model computes, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from longtail.errors import BundleError
from longtail.serve import ann
from longtail.serve.additions import Additions, Reach, edges_of
from longtail.serve.bundle import Bundle, Edges
from longtail.serve.matrix import Floats, IntArray, width_for

Exact = npt.NDArray[np.float64]

LARGEST = 1 << 22  # scores held at once


class Split(NamedTuple):
    """Scores (n, m) in parts: what interactions taught, what LLM embeddings say, and the rest: the score."""

    collaborative: Exact
    semantic: Exact
    content: Exact

    @property
    def total(self) -> Exact:
        """(n, m)."""
        return self.collaborative + self.semantic + self.content


class Runtime:
    """A bundle that answers. Histories are arrays of places, oldest first; not to be used by two threads at once."""

    def __init__(self, bundle: Bundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(bundle.encoder, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime's own kinds: whatever it is, the file is what is wrong
            raise BundleError(
                f"{bundle.folder}: the encoder cannot be loaded ({error}); export the run again"
            ) from None
        self.bundle, self.facts, self.items = bundle, bundle.manifest, bundle.items
        self.additions, self.index = Additions(bundle), ann.opened(bundle)
        self._inputs = {given.name for given in self._session.get_inputs()}
        self.log_counts = np.log1p(bundle.items.counts, dtype=np.float32)

    @property
    def count(self) -> int:
        """Items, those added included; places are 1..count."""
        return self.facts.items + self.additions.count

    def vectors(self, places: IntArray) -> Floats:
        """Item vectors (..., D)."""
        first = self.additions.first
        if not self.additions.count or places.size == 0 or int(places.max()) < first:
            return self.items.vectors.rows(places)
        found = self.items.vectors.rows(np.where(places < first, places, 0))
        added = places >= first
        found[added] = self.additions.vectors.rows(places[added] - first)
        return found

    def encode(self, histories: Sequence[IntArray]) -> Floats:
        """User vectors (n, D), zeros after an empty history."""
        out = np.zeros((len(histories), self.facts.D), np.float32)
        rows = [row for row, history in enumerate(histories) if len(history)]
        if not rows:
            return out
        kept = [histories[row][-self.facts.max_len :] for row in rows]
        asks = int(self.facts.cloze)  # [MASK] comes last, of which row 0 is the vector
        lengths = np.array([len(history) + asks for history in kept], np.int64)
        padded = np.zeros((len(rows), int(lengths.max())), np.int64)
        for row, history in enumerate(kept):
            padded[row, : len(history)] = history
        whole = np.array([len(histories[row]) for row in rows], np.int64)
        given = {"vectors": self.vectors(padded), "lengths": lengths, "whole": whole}
        out[rows] = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        return out

    def scores(self, histories: Sequence[IntArray], tails: Sequence[float | None] | None = None) -> Floats:
        """Scores (n, w) of all items; -inf in column 0 and beyond the last item. tails: dials, or its own."""
        u, base = self.encode(histories), self.facts.items + 1
        out = np.full((len(histories), width_for(self.count + 1)), -np.inf, np.float32)
        self.items.vectors.products(u, out[:, :base])
        if self.additions.count:
            self.additions.vectors.products(u, out[:, base : self.count + 1])
        for row, history in enumerate(histories):
            for reach, gamma in self._reaches(history):
                np.add.at(out[row], reach.places, gamma * reach.weights)
            dial = self.dial(tails[row] if tails else None)
            if dial:
                out[row, :base] -= dial * self.log_counts
        out[:, 0] = -np.inf
        return out

    def near(self, histories: Sequence[IntArray], ks: Sequence[int], unwanted: Sequence[int]) -> list[ann.Near]:
        """Candidates for a list of k after each history, from which so many are left out, and their scores.

        They are what the index finds, what edges reach, and what was added. The dial is the bundle's own. An index
        must be there.
        """
        assert self.index is not None
        added = np.arange(self.facts.items + 1, self.count + 1)
        near = []
        for u, history, k, out in zip(self.encode(histories), histories, ks, unwanted, strict=True):
            found, reaches = self.index.places(u, k, out), self._reaches(history)
            places = np.unique(np.concatenate([found, added, *(reach.places for reach, _ in reaches)]))
            scores, base = self.vectors(places) @ u, np.where(places <= self.facts.items, places, 0)
            if dial := self.dial(None):
                scores -= dial * np.where(base > 0, self.log_counts[base], 0)
            bound = float(scores[np.searchsorted(places, found)].min(initial=np.inf))
            for reach, gamma in reaches:
                np.add.at(scores, np.searchsorted(places, reach.places), gamma * reach.weights)
            real = int(places[:1].tolist() == [0])  # edges that are none lead to place 0
            near.append(ann.Near(places[real:], scores[real:], bound))
        return near

    def dial(self, asked: float | None) -> float:
        """The value of the tail dial for a request."""
        return (self.facts.dial or 0.0) if asked is None else asked

    def _reaches(self, history: IntArray) -> list[tuple[Reach, float]]:
        graphs = self.facts.graphs
        if graphs is None or not len(history):
            return []
        recent = history[-graphs.recent :]
        ages = (graphs.decay ** np.arange(len(recent) - 1, -1, -1)).astype(np.float32)
        base = recent <= self.facts.items
        found = []
        for edges, gamma in ((self.items.text, graphs.text), (self.items.order, graphs.order)):
            assert edges is not None
            if gamma:
                found.append((edges_of(edges.ids, edges.weights, recent[base], ages[base]), gamma))
        if self.additions.count and graphs.text:
            for item, age in zip(recent.tolist(), ages.tolist(), strict=True):
                reach = self.additions.reach(item)
                if len(reach.places):
                    found.append((reach, graphs.text * age))
        return found

    def split(self, histories: Sequence[IntArray], items: IntArray, tail: float | None = None) -> Split:
        """The scores of `items` (m,) after each history, in parts.

        Semantic: columns that come of LLM embeddings, and edges by text. Collaborative: other columns, edges by what
        came after, and the dial. Added items have their own vector from LLM embeddings alone.
        """
        u, vectors = self.encode(histories).astype(np.float64), self.vectors(items)
        share = self._share(items, vectors)
        semantic, collaborative = u @ share.T, u @ (vectors - share).T  # (n, m)
        base = np.where(items <= self.facts.items, items, 0)
        collaborative = collaborative - self.dial(tail) * np.where(base > 0, self.log_counts[base], 0)
        graphs = self.facts.graphs
        if graphs is not None:
            for row, history in enumerate(histories):
                semantic[row] += graphs.text * self._edge_sum(self.items.text, history, items, added=True)
                collaborative[row] += graphs.order * self._edge_sum(self.items.order, history, items, added=False)
        return Split(collaborative, semantic, np.zeros_like(semantic))

    def _share(self, items: IntArray, vectors: Floats) -> Floats:
        """(m, D) what of the vectors comes of LLM embeddings."""
        share, base = np.zeros_like(vectors), items <= self.facts.items
        if self.facts.semantic is not None:
            columns = slice(*self.facts.semantic)
            share[base, columns] = vectors[base, columns]
        elif self.items.share is not None:
            share[base] = self.items.share[items[base]]
        share[~base] = vectors[~base]
        return share

    def _edge_sum(self, edges: Edges | None, history: IntArray, items: IntArray, *, added: bool) -> Exact:
        """(m,) the weights of edges from the recent items of a history to `items`, each times its recency."""
        assert edges is not None and self.facts.graphs is not None
        total, graphs = np.zeros(len(items), np.float64), self.facts.graphs
        for age, item in enumerate(history[::-1][: graphs.recent].tolist()):
            reach = [Reach(edges.ids[item].astype(np.int64), edges.weights[item])] if item <= self.facts.items else []
            for one in [*reach, *([self.additions.reach(item)] if added else [])]:
                for place in np.flatnonzero(np.isin(items, one.places)).tolist():
                    total[place] += graphs.decay**age * float(one.weights[one.places == items[place]].sum())
        return total
