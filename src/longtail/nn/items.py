"""Item vectors: the collaborative table, the semantic map of LLM embeddings, and the few vectors one step needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.data.histories import BoolArray, IntArray
from longtail.text.ridge import fitted
from longtail.text.transform import ROWS, Doubles, principal

FloatArray = npt.NDArray[np.float32]
Adapter = Literal["two_layers", "one_layer"]
MASK = 0
"""What stands in a sequence for an item that is hidden or asked for. Packed sequences hold no padding, so that row 0 of
the item vectors has no other use: it is the vector of [MASK], learned like the rows of items."""


class ItemVectors(NamedTuple):
    """The vectors of one step, each computed once: of the distinct items it touches, or of the whole catalogue.

    vectors (n, D); ids (n,) sorted distinct item ids, or None where row i is item i.
    """

    vectors: Tensor
    ids: Tensor | None

    def of(self, items: Tensor) -> Tensor:
        """Vectors (..., D) of `items` (...), each of which must be among `ids`."""
        rows = items if self.ids is None else torch.searchsorted(self.ids, items)
        return F.embedding(rows, self.vectors)

    def detach(self) -> ItemVectors:
        """The same vectors without gradient."""
        return ItemVectors(self.vectors.detach(), self.ids)


def distinct(items: Sequence[Tensor], catalogue: int) -> Tensor | None:
    """Sorted distinct ids of a step, or None when the whole catalogue of that many items is cheaper to compute."""
    flat = torch.cat([part.reshape(-1) for part in items])
    ids = torch.unique(flat)
    return ids if len(ids) < catalogue // 2 else None


class CollaborativeView(nn.Module):
    """e_co: one trained vector an item (LLM-ESR, sec. 3.2); row 0 is MASK's. `start` draws the vectors, in place."""

    def __init__(self, items: int, d: int, start: Callable[[Tensor], object] = nn.init.xavier_normal_) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(items + 1, d))
        start(self.table)

    def start_from(self, vectors: FloatArray) -> None:
        """Begin at the given (I + 1, d) vectors, e.g. the principal components of the LLM embeddings."""
        with torch.no_grad():
            self.table.copy_(torch.from_numpy(vectors))

    def fill(self, embeddings: FloatArray | None, counts: IntArray, rows: BoolArray | None = None) -> None:
        """Give the items `rows` (I + 1,) what the vectors of trained ones say of their embeddings (I + 1, E).

        That is a ridge regression (`longtail.text.ridge`) of those with training counts (I + 1,) above 0; without
        embeddings their mean, each with weight n / (n + 4). rows: those whose count is 0, if not given, which would
        else be where they began, or where softmax pushed them. Row 0 stays, and so does all if nothing is trained.
        """
        replaced = counts == 0 if rows is None else rows.copy()
        replaced[0] = False
        trained = np.where(replaced, 0, counts)[1:]
        if not replaced.any() or not trained.any():
            return
        flat = np.zeros((len(counts), 1), np.float32) if embeddings is None else embeddings  # of which only the mean
        known, at = self.table[1:].detach().cpu().numpy(), np.flatnonzero(replaced)
        weight, bias = fitted(flat[1:], known, trained, full_length=embeddings is not None)
        with torch.no_grad():
            self.table[torch.from_numpy(at)] = torch.from_numpy(flat[at] @ weight + bias).to(self.table)

    def forward(self, ids: Tensor | None) -> Tensor:
        """(n, d) vectors of `ids` (n,), or of the whole catalogue (I + 1, d)."""
        return self.table if ids is None else F.embedding(ids, self.table)


class SemanticView(nn.Module):
    """e_se = W2 (W1 e_llm + b1) + b2, widths E -> E / 2 -> d, no activation (LLM-ESR, sec. 3.2).

    Both layers are linear, so they are one affine map, W = W2 W1, folded once a step; for inference the map is folded
    into `table` (I + 1, d), which is all that an artifact keeps of the embeddings. With the adapter "one_layer" the map
    is e_se = W1 e_llm + b1, widths E -> d. `trained`: e_llm, (I + 1, E), is a weight like others, starts at the LLM's
    embeddings, and is kept with all that is kept of weights: a copy in memory, its gradient and two of Adam. MASK has
    a zero embedding; with `masked`, a learned vector, zero at the start, is added to what the map makes of it.

    `views`: the widths of the V views that e_llm is joined of, E in sum, such as a text's and an image's. Then
    e_se = W e_llm + b + sum of a_v over the views v that the item lacks: it has the mean of such a view's vectors in
    e_llm, and a_v is learned, zero at the start. `each`: W is one adapter a view side by side, else one over them all;
    either way it is one affine map (ours).
    """

    embeddings: Tensor
    table: Tensor
    lacking: Tensor

    def __init__(
        self,
        items: int,
        width: int,
        d: int,
        *,
        adapter: Adapter = "two_layers",
        trained: bool = False,
        masked: bool = False,
        views: Sequence[int] = (),
        each: bool = False,
    ) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(d)) if masked else None
        self.trained, self.attached = trained, False
        widths = list(views) if each and views else [width]
        self.first, *second = _layers(widths[0], d, adapter)
        self.second = second[0] if second else None
        self.further = nn.ModuleList(nn.ModuleList(_layers(more, d, adapter)) for more in widths[1:])
        self.absent = nn.Parameter(torch.zeros(len(views), d)) if views else None
        self.register_buffer("lacking", torch.empty(0, len(views)), persistent=False)
        if trained:
            self.embeddings = nn.Parameter(torch.zeros(items + 1, width))
        else:
            self.register_buffer("embeddings", torch.empty(0, width), persistent=False)
        self.register_buffer("table", torch.zeros(items + 1, d))

    def attach(self, embeddings: FloatArray, lacking: FloatArray | None = None) -> None:
        """Give it the LLM embeddings (I + 1, E); if they are frozen they stay where they are in memory.

        lacking: (I + 1, V), 1 where an item lacks a view, if there are several.
        """
        self.attached = True
        if self.absent is not None:
            assert lacking is not None and lacking.shape[1] == len(self.absent)
            self.lacking = torch.from_numpy(lacking).to(self.table.device)
        if self.trained:
            with torch.no_grad():
                self.embeddings.copy_(torch.from_numpy(embeddings))
        else:
            self.embeddings = torch.from_numpy(embeddings).to(self.table.device)

    def train(self, mode: bool = True) -> SemanticView:
        """Entering evaluation folds the map into the table. One that was loaded keeps the table it was saved with."""
        if not mode and self.attached:
            with torch.no_grad():
                self.table = self.mapped(None)
        super().train(mode)
        return self

    def affine(self, embeddings: Tensor) -> Tensor:
        """(n, E) to (n, d) through the folded layers."""
        return F.linear(embeddings, *self.folded())

    def folded(self) -> tuple[Tensor, Tensor]:
        """All layers as one map: W (d, E) and b (d,)."""
        weight, bias = _folded(self.first, self.second)
        for pair in self.further:
            assert isinstance(pair, nn.ModuleList)
            one, more = _folded(*pair)
            weight, bias = torch.cat([weight, one], 1), bias + more
        return weight, bias

    def forward(self, ids: Tensor | None) -> Tensor:
        """(n, d) vectors of `ids` (n,), or of the whole catalogue (I + 1, d)."""
        if not self.training:
            return self.table if ids is None else F.embedding(ids, self.table)
        return self.mapped(ids)

    def mapped(self, ids: Tensor | None) -> Tensor:
        """The same from the embeddings, under the current weights."""
        vectors = self.affine(self.embeddings if ids is None else F.embedding(ids, self.embeddings))
        if self.absent is not None:
            vectors = vectors + (self.lacking if ids is None else F.embedding(ids, self.lacking)) @ self.absent
        if self.mask is None:
            return vectors
        rows = torch.arange(len(vectors), device=vectors.device) if ids is None else ids
        return vectors + (rows == MASK)[:, None] * self.mask


def _layers(width: int, d: int, adapter: Adapter) -> list[nn.Linear]:
    """The layers of an adapter, their weights drawn."""
    widths = [width, width // 2, d] if adapter == "two_layers" else [width, d]
    layers = [nn.Linear(wide, narrow) for wide, narrow in pairwise(widths)]
    for layer in layers:
        nn.init.xavier_normal_(layer.weight)
    return layers


def _folded(first: nn.Module, second: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Two linear layers as one: W (d, E) and b (d,)."""
    assert isinstance(first, nn.Linear)
    weight: Tensor = first.weight
    bias: Tensor = first.bias
    if second is not None:
        assert isinstance(second, nn.Linear)
        weight, bias = second.weight @ weight, second.weight @ bias + second.bias
    return weight, bias


def principal_components(embeddings: FloatArray, d: int) -> FloatArray:
    """The first d principal components of the centred embeddings (I + 1, E), not whitened, as (I + 1, d).

    Row 0 (padding) stays zero. The sign of a component is fixed by its largest loading, so that equal data give equal
    vectors on every machine. Fewer than d components leave zero columns. Read in parts: the embeddings may be a file.
    """
    mean, axes = principal_axes(embeddings, d)
    components = np.zeros((len(embeddings), d), dtype=np.float32)
    for part in _parts(embeddings):
        components[part] = (embeddings[part] - mean) @ axes
    return components


def principal_axes(embeddings: FloatArray, d: int) -> tuple[Doubles, Doubles]:
    """The mean (E,) of embeddings (I + 1, E) without row 0, and their first d principal axes (E, d), of length 1.

    Zero columns where there are fewer.
    """
    found = principal(embeddings[1:])
    axes = np.zeros((embeddings.shape[1], d))
    axes[:, : found.axes.shape[1]] = found.axes[:, :d]
    return found.mean, axes


def _parts(embeddings: FloatArray) -> list[slice]:
    """Rows 1 and on, ROWS at a time."""
    rows = len(embeddings)
    return [slice(start, min(start + ROWS, rows)) for start in range(1, rows, ROWS)]
