"""A SHA-256 of tables by value: the same on every machine and for every way the values are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

CHUNK = 1_000_000  # rows hashed at a time, so that a large table is never copied whole
TEXTS = 2**15  # rows of texts held at a time; a multiple of 8, so that the bits of nulls fill whole bytes


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
                for block in _blocks(column.slice(start, CHUNK), min(CHUNK, height - start)):
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


def _blocks(cells: pl.LazyFrame, rows: int) -> Iterator[bytes]:
    """Of a column's cells: which are null; of texts their lengths; the values. Few texts are held at a time."""
    kind = _kind(cells.head(0).collect().to_series())[0]
    step = TEXTS if kind == "text" else CHUNK
    for block in (_nulls, _lengths, _texts) if kind == "text" else (_nulls, _nested if kind == "nested" else _numbers):
        for start in range(0, rows, step):
            yield block(_kind(cells.slice(start, step).collect().to_series())[1])


def _nulls(column: pl.Series) -> bytes:
    return np.packbits(column.is_null().to_numpy()).tobytes()


def _lengths(column: pl.Series) -> bytes:
    return column.fill_null("").str.len_bytes().to_numpy().astype("<u4").tobytes()


def _texts(column: pl.Series) -> bytes:
    return str(column.fill_null("").str.join("").item()).encode()


def _nested(column: pl.Series) -> bytes:
    return json.dumps(column.to_list(), default=str).encode()


def _numbers(column: pl.Series) -> bytes:
    return column.fill_null(0).to_numpy().astype("<f8" if column.dtype.is_float() else "<i8").tobytes()
