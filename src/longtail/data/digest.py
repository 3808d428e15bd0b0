"""A SHA-256 of tables by value: the same on every machine and for every way the values are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

CHUNK = 1_000_000  # rows hashed at a time, so that a large table is never copied whole


def digest(frames: Iterable[pl.DataFrame | pl.LazyFrame]) -> str:
    """Hexadecimal digits over the names, kinds and values of all columns, in order; a lazy frame is read in parts."""
    total = hashlib.sha256()
    for frame in frames:
        table = frame.lazy()
        names = table.collect_schema().names()
        height = frame.height if isinstance(frame, pl.DataFrame) else int(table.select(pl.len()).collect().item())
        total.update(f"table {height} {len(names)}\n".encode())
        for name in names:
            column = table.select(name)
            total.update(json.dumps([name, _kind(column.head(0).collect()[name])[0]]).encode())
            for start in range(0, height, CHUNK):
                for block in _blocks(*_kind(column.slice(start, CHUNK).collect()[name])):
                    total.update(block)
    return total.hexdigest()


def _kind(column: pl.Series) -> tuple[str, pl.Series]:
    dtype = column.dtype
    if isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return "text", column.cast(pl.String)
    if dtype.is_float():
        return "number", column.cast(pl.Float64)
    if dtype.is_integer() or dtype == pl.Boolean:
        return "integer", column.cast(pl.Int64, wrap_numerical=True)
    if dtype.is_temporal():
        return str(dtype), column.to_physical().cast(pl.Int64)
    return "nested", column


def _blocks(kind: str, column: pl.Series) -> Iterator[bytes]:
    yield np.packbits(column.is_null().to_numpy()).tobytes()
    if kind == "text":
        filled = column.fill_null("")
        yield filled.str.len_bytes().to_numpy().astype("<u4").tobytes()
        yield str(filled.str.join("").item()).encode()
    elif kind == "nested":
        yield json.dumps(column.to_list(), default=str).encode()
    else:
        yield column.fill_null(0).to_numpy().astype("<f8" if kind == "number" else "<i8").tobytes()
