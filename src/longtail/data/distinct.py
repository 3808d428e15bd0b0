"""The distinct ids of a column that is larger than memory, and their internal ids by a table of hashes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data import memory
from longtail.data.columns import CellsError

SKETCH = 4096  # hashes that estimate how many different ids there are, within 2% or so
T = TypeVar("T")
Hashes = npt.NDArray[np.uint64]


class TooManyError(Exception):
    """More ids than fit. ids: about how many there are. size: bytes that the external ones have in the mean."""

    def __init__(self, ids: int, size: float) -> None:
        super().__init__(f"about {ids:,} ids")
        self.ids, self.size = ids, size


class Encoder(NamedTuple):
    """From external ids, all of them known, to internal ones. hashes: ascending. internal: (n,) UInt32 of each."""

    hashes: Hashes
    internal: npt.NDArray[np.uint32]
    seed: int

    @classmethod
    def of(cls, ids: pl.Series) -> Encoder:
        """Of unique external ids: `ids[k]` is that of internal id `k + 1`."""
        for seed in count():  # two ids of one hash are as good as impossible; then the next seed tells them apart
            found = _hashes(ids, seed)
            order = np.argsort(found)
            found = found[order]
            if not (found[1:] == found[:-1]).any():
                return cls(found, (order + 1).astype(np.uint32), seed)
        raise AssertionError

    def encode(self, ids: pl.Series) -> npt.NDArray[np.uint32]:
        """(n,) internal ids. Searched for in ascending order, hashes are found several times faster."""
        wanted = _hashes(ids, self.seed)
        order = np.argsort(wanted)
        codes = np.empty(len(ids), np.uint32)
        codes[order] = self.internal[np.searchsorted(self.hashes, wanted[order])]
        return codes


def distinct(parts: Iterable[pl.Series], room: float) -> pl.Series:
    """The different values, ascending. TooManyError if collecting them takes more than `room` bytes."""
    found, pending, sketch = pl.Series(), list[pl.Series](), np.empty(0, np.uint64)
    fits = True
    size = 0.0
    for part in parts:
        sketch = _sketch(sketch, _hashes(part, 0))
        if not fits:
            continue
        pending.append(part.unique())
        waiting, size = sum(map(len, pending)), _size(part)
        fits = need(len(found) + waiting, size) <= room
        if not fits:
            found, pending = pl.Series(), []
        elif waiting >= len(found):
            found, pending = _union(found, pending), []
    if not fits:
        raise TooManyError(_estimate(sketch), size)
    return _union(found, pending).sort().rename("id")


def need(ids: int, size: float) -> float:
    """Bytes that collecting so many ids takes, of so many bytes each."""
    return ids * (memory.ID + memory.COPIES_OF_ID * size)


def checked(
    batches: Iterable[tuple[int, pl.DataFrame]],
    convert: Callable[[int, pl.DataFrame], T],
    advance: Callable[[int], None],
) -> Iterator[T]:
    """What `convert` makes of each batch and its first row; the bad cells of all batches are one error, at the end."""
    bad, rows = list[tuple[int, CellsError]](), 0
    for start, batch in batches:
        rows = start + batch.height
        try:
            made = convert(start, batch)
        except CellsError as error:
            bad.append((start, error))
        else:
            yield made
        advance(batch.height)
    if bad:
        raise CellsError.together(bad, rows)


def _size(ids: pl.Series) -> float:
    """Bytes of an id in the mean: 8 of a number; of a text its own and 16."""
    return 16 + float(ids.str.len_bytes().mean()) if ids.dtype == pl.String else 8.0  # type: ignore[arg-type]


def _union(found: pl.Series, pending: list[pl.Series]) -> pl.Series:
    if not pending:
        return found
    return pl.concat([found, *pending] if len(found) else pending).unique()


def _hashes(ids: pl.Series, seed: int) -> Hashes:
    return ids.hash(seed).to_numpy()


def _sketch(smallest: Hashes, more: Hashes) -> Hashes:
    """The SKETCH smallest of the different hashes seen so far (Bar-Yossef et al., 2002)."""
    if len(smallest) == SKETCH:
        more = more[more < smallest[-1]]
    return np.union1d(smallest, more)[:SKETCH]


def _estimate(sketch: Hashes) -> int:
    if len(sketch) < SKETCH:
        return len(sketch)
    return math.ceil((SKETCH - 1) / (float(sketch[-1]) / 2.0**64))
