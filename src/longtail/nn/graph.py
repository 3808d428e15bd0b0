"""A graph of items: each item's strongest edges to others, and what those of a history's items add to scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from longtail.data.histories import Histories, IntArray
from longtail.neighbors import similar_users
from longtail.nn.items import FloatArray

ROWS = 1024  # items whose neighbors' embeddings are gathered at once
ENTRIES = 2**22  # edges added to scores at once


class Offsets(NamedTuple):
    """What is added to the scores of some items: values (m,) at rows (m,), ascending, and items (m,) from 1."""

    rows: Tensor
    items: Tensor
    values: Tensor

    def among(self, rows: slice, n: int) -> Offsets:
        """Those of the rows of a slice of 0..n, counted from its first."""
        if rows.stop - rows.start == n:
            return self
        first, last = torch.searchsorted(self.rows, self.rows.new_tensor([rows.start, rows.stop])).tolist()
        return Offsets(self.rows[first:last] - rows.start, self.items[first:last], self.values[first:last])


class ItemGraph(NamedTuple):
    """Edges j -> i: ids (I + 1, M) of the items i, 0 where an item has fewer, and their weights (I + 1, M), 0 there."""

    ids: Tensor
    weights: Tensor

    def adder(self, histories: Histories, decay: float) -> Callable[[Tensor, slice], None]:
        """What adds the sum over j of decay^age(j) w(j, i) to scores (b, I + 1) of users rows + 1 with items j.

        The scores are changed in place; they are contiguous, or their transpose is, as that of `dot_products`.
        """
        starts, device = histories.offsets[1:], self.weights.device
        known = histories.items, histories.owners() - 1, (decay ** histories.ages()).astype(np.float32)
        items, owners, recency = (torch.from_numpy(each).to(device) for each in known)  # (t,)
        step = max(ENTRIES // max(self.ids.shape[1], 1), 1)

        def add(scores: Tensor, rows: slice) -> None:
            transposed = not scores.is_contiguous()
            flat = (scores.T if transposed else scores).view(-1)
            b, width = scores.shape
            first, last = int(starts[rows.start]), int(starts[rows.stop])
            for start in range(first, last, step):
                part = slice(start, min(start + step, last))
                ids, owner = self.ids[items[part]].long(), owners[part, None] - rows.start  # (p, M), (p, 1)
                at = ids * b + owner if transposed else owner * width + ids
                flat.index_add_(0, at.view(-1), (self.weights[items[part]] * recency[part, None]).view(-1))

        return add

    def offsets(self, items: IntArray, rows: IntArray, recency: FloatArray) -> Offsets:
        """The edges of items (t,) at `rows` (t,), ascending, with their weights times `recency` (t,)."""
        weights = self.weights.numpy()[items] * recency[:, None]
        there = weights > 0
        rows = np.repeat(rows, there.sum(1))
        ids = self.ids.numpy()[items][there].astype(np.int64)
        return Offsets(torch.from_numpy(rows), torch.from_numpy(ids), torch.from_numpy(weights[there]))


class Edges(nn.Module):
    """The M edges of each item as they are kept with a model: `ItemGraph` without a weight of the whole."""

    ids: Tensor
    weights: Tensor

    def __init__(self, items: int, M: int) -> None:
        super().__init__()
        self.M = min(M, items)
        self.register_buffer("ids", torch.zeros(items + 1, self.M, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(items + 1, self.M))

    def set(self, ids: IntArray | npt.NDArray[np.int32], weights: FloatArray) -> None:
        """Take them, (I + 1, M) each."""
        self.ids, self.weights = torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(weights.astype(np.float32))

    def graph(self, gamma: float = 1.0) -> ItemGraph:
        """The graph of these edges, all weights times gamma."""
        return ItemGraph(self.ids, self.weights if gamma == 1 else gamma * self.weights)


def joined(*graphs: ItemGraph) -> ItemGraph:
    """The edges of several graphs."""
    return ItemGraph(torch.cat([one.ids for one in graphs], 1), torch.cat([one.weights for one in graphs], 1))


def nearest_by_text(embeddings: FloatArray, M: int) -> tuple[IntArray, FloatArray]:
    """The M items nearest to each by cosine, and how far their cosine is above that of the next one, (I + 1, M) each.

    Above the M + 1-th nearest, not above 0: how near "near" is differs from item to item, and from encoder to encoder.
    """
    ids = similar_users(embeddings, M + 1)  # (I + 1, M + 1)
    gaps = np.zeros(ids.shape, np.float32)
    for start in range(0, len(ids), ROWS):
        part = slice(start, start + ROWS)
        own, others = _units(embeddings[part]), _units(embeddings[ids[part]])
        cosines = np.einsum("je,jme->jm", own, others)
        known = ids[part] > 0
        floor = np.where(known, cosines, np.inf).min(1, initial=np.inf, keepdims=True)
        gaps[part] = np.where(known, cosines - floor, 0).clip(min=0)
    return ids[:, :M], gaps[:, :M]


def _units(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: FloatArray = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return units
