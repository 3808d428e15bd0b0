"""Sequences of many lengths one after another, flat and without padding, and the few rectangles that attention needs.

A token is one item of one sequence. All that is done token by token (projections, norms, feed-forward, dropout) runs on
the T real tokens; only attention wants rectangles, and gets a few, each of sequences of similar length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from longtail.data.histories import IntArray

OVERHEAD = 512  # padded positions that cost as much as one rectangle more


T = TypeVar("T")


class Box(NamedTuple):
    """A rectangle: so many consecutive sequences, padded on the right to the longest of them."""

    rows: int
    longest: int


class Layout(NamedTuple):
    """Where the T tokens of B sequences stand.

    lengths (B,), each at least 1; ends (B,) each sequence's last token; steps (T,) a token's place in its sequence,
    from 0; slots (T,) a token's place among the padded positions of all boxes, or None where nothing is padded.
    """

    lengths: Tensor
    ends: Tensor
    steps: Tensor
    slots: Tensor | None
    boxes: tuple[Box, ...]

    def to(self, device: torch.device) -> Layout:
        """The same on another device."""
        return moved(self, device)

    def pad(self, x: Tensor) -> list[Tensor]:
        """(T, ..., d) to one (b, L, ..., d) a box, zero at padding."""
        if self.slots is not None:
            positions = sum(box.rows * box.longest for box in self.boxes)
            x = x.new_zeros(positions, *x.shape[1:]).index_copy_(0, self.slots, x)
        parts = torch.split(x, [box.rows * box.longest for box in self.boxes])
        return [part.view(*box, *x.shape[1:]) for part, box in zip(parts, self.boxes, strict=True)]

    def unpad(self, boxes: Sequence[Tensor]) -> Tensor:
        """One (b, L, ..., d) a box back to (T, ..., d)."""
        flat = torch.cat([box.flatten(0, 1) for box in boxes])
        return flat if self.slots is None else take(flat, self.slots)

    def last(self, x: Tensor) -> Tensor:
        """(T, ..., d) to each sequence's last token, (B, ..., d)."""
        return take(x, self.ends)

    def rows(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, ...) cut by box."""
        return torch.split(x, [box.rows for box in self.boxes])

    def real(self) -> list[Tensor]:
        """(b, L) a box, False at padding."""
        rows = zip(self.rows(self.lengths), self.boxes, strict=True)
        return [torch.arange(box.longest, device=part.device) < part[:, None] for part, box in rows]


def lay_out(lengths: IntArray, bounds: IntArray | None = None) -> Layout:
    """The layout of sequences of these lengths (B,): one box, or with `bounds` (`length_bounds`) one for each of them
    that is in use, for which the lengths must ascend."""
    cuts = np.searchsorted(lengths, bounds, side="right") if bounds is not None else np.array([len(lengths)])
    edges = np.unique(np.concatenate([[0], cuts, [len(lengths)]]))
    rows = np.diff(edges)
    longest = np.maximum.reduceat(lengths, edges[:-1]) if len(rows) else np.zeros(0, np.int64)
    ends = np.cumsum(lengths)
    steps = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    boxes = tuple(Box(int(b), int(L)) for b, L in zip(rows, longest, strict=True))
    slots = None
    if sum(box.rows * box.longest for box in boxes) > len(steps):
        widths = np.repeat(longest, rows)  # (B,) of each sequence's box
        slots = torch.from_numpy(np.repeat(np.cumsum(widths) - widths, lengths) + steps)
    return Layout(torch.from_numpy(lengths), torch.from_numpy(ends - 1), torch.from_numpy(steps), slots, boxes)


def length_bounds(lengths: IntArray, batches: int) -> IntArray:
    """Upper bounds of the lengths that share a box, ascending, so that boxes cost least when users (n,) of these
    `lengths` are dealt into `batches` at random: a box costs its padded positions, and OVERHEAD for being a box.

    >>> length_bounds(np.array([2] * 900 + [3] * 900 + [40] * 90), batches=3)
    array([ 3, 40])
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)]) / batches  # users of a batch up to each length
    best, origin = np.zeros(len(distinct) + 1), np.zeros(len(distinct) + 1, np.int64)
    for stop in range(1, len(distinct) + 1):
        costs = best[:stop] + (below[stop] - below[:stop]) * distinct[stop - 1] + OVERHEAD
        origin[stop] = costs.argmin()
        best[stop] = costs[origin[stop]]
    bounds = [len(distinct)]
    while origin[bounds[-1]]:
        bounds.append(int(origin[bounds[-1]]))
    ends: IntArray = distinct[np.array(bounds[::-1]) - 1]
    return ends


def moved(value: T, device: torch.device) -> T:
    """A tensor, or a tuple of tuples with tensors among its fields, with those on `device`."""
    if isinstance(value, Tensor):
        ready = value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
        return cast(T, ready.to(device, non_blocking=True))
    if isinstance(value, tuple):
        fields = [moved(field, device) for field in value]
        return cast(T, type(value)(*fields) if hasattr(value, "_fields") else tuple(fields))
    return value


def take(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first axis, for an index that names no row twice: its gradient is a copy, not a sum."""
    taken: Tensor = _Take.apply(x, index)  # type: ignore[no-untyped-call]
    return taken


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(x)  # type: ignore[attr-defined]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors  # type: ignore[attr-defined]
        zeros = grad.new_zeros(ctx.rows, *grad.shape[1:])  # type: ignore[attr-defined]
        return zeros.index_copy_(0, index, grad), None
