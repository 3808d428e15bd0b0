"""Looking after the embedding cache: what is in it, whether it is sound, throwing away, taking along."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.errors import EmbeddingError
from longtail.files import atomic
from longtail.registry import nearest
from longtail.text.store import Store, opened

PART = 8192  # rows read or deleted at a time
COUNTS = """
SELECT identity, width, count(*), sum(length(vector)), min(made), max(made)
FROM vectors JOIN encoders ON encoder = encoders.id GROUP BY encoder ORDER BY identity
"""

EVERYTHING = """
SELECT vectors.rowid, identity, width, vector, crc, length(text) FROM vectors JOIN encoders ON encoder = encoders.id
"""


class Kept(NamedTuple):
    """What a cache holds of one encoder or chat model."""

    identity: str
    width: int
    """Of its vectors; 0 for a chat model."""
    rows: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    """UTC; None for rows of before this was written down."""


class Broken(NamedTuple):
    """A row that is not what was written: its number in the file, its encoder and what is wrong."""

    row: int
    identity: str
    problem: str


def contents(cache: Path) -> list[Kept]:
    """One entry an encoder, by identity."""
    with opened(cache, make=False) as store:
        return _contents(store)


def _contents(store: Store) -> list[Kept]:
    def date(made: int | None) -> datetime | None:
        return None if made is None else datetime.fromtimestamp(made, UTC)

    found = store.connection.execute(COUNTS)
    return [
        Kept(identity, width, rows, size, date(oldest), date(newest))
        for identity, width, rows, size, oldest, newest in found
    ]


def verify(cache: Path, drop: bool = False) -> tuple[int, list[Broken]]:
    """Read every row again: how many there are, and which are broken; `drop` deletes those.

    An EmbeddingError if the file itself is damaged.
    """
    broken: list[Broken] = []
    rows = 0
    with opened(cache, make=False) as store:
        (report,) = store.connection.execute("PRAGMA quick_check(1)").fetchone()
        if report != "ok":
            raise sqlite3.DatabaseError(str(report))
        for row, identity, width, blob, crc, key in store.connection.execute(EVERYTHING):
            rows += 1
            if problem := _problem(width, blob, crc, key):
                broken.append(Broken(row, identity, problem))
        if drop:
            with store.connection:
                store.connection.executemany("DELETE FROM vectors WHERE rowid = ?", ((one.row,) for one in broken))
    return rows, broken


def _problem(width: int, blob: bytes, crc: int | None, key: int) -> str:
    if key != 32:
        return f"a key of {key} bytes where 32 belong"
    if crc is not None and zlib.crc32(blob) != crc:
        return "its bytes have changed"
    if width and len(blob) != 4 * width:
        return f"{len(blob)} bytes where {4 * width} belong"
    if width and not np.isfinite(np.frombuffer(blob, dtype="<f4")).all():
        return "NaN or infinity"
    return ""


def prune(cache: Path, model: str | None = None, before: datetime | None = None, size: int | None = None) -> int:
    """Delete rows of `model` (an identity), made before a date (rows of unknown date too), and the oldest until at
    most `size` bytes of answers are left; how many went. The file shrinks.
    """
    with opened(cache, make=False) as store:
        encoder = None if model is None else _encoder(store, model)
        where = "encoder = coalesce(?, encoder) AND (? IS NULL OR coalesce(made, 0) < ?)"
        moment = None if before is None else int(before.timestamp())
        gone = 0
        if model is not None or before is not None:
            gone += store.connection.execute(f"DELETE FROM vectors WHERE {where}", [encoder, moment, moment]).rowcount
        if size is not None:
            gone += _oldest(store.connection, size)
        if gone:
            store.connection.execute("VACUUM")
            store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return gone


def _oldest(connection: sqlite3.Connection, size: int) -> int:
    """Delete the oldest rows until at most `size` bytes of answers are left."""
    query = "SELECT rowid, length(vector) FROM vectors ORDER BY coalesce(made, 0) DESC, rowid DESC"
    kept, gone = 0, []
    for row, length in connection.execute(query):
        kept += length
        if kept > size:
            gone.append((row,))
    with connection:
        connection.executemany("DELETE FROM vectors WHERE rowid = ?", gone)
    return len(gone)


def export(cache: Path, to: Path, model: str | None = None) -> int:
    """Copy rows to another cache (.sqlite), to a Parquet table, or to a safetensors file; how many are new there.

    The keys are SHA-256 of the texts: a cache does not hold the texts themselves. Parquet has `text_sha256` (hex),
    `identity` and `vector`, of a chat model `reply`; safetensors has `keys` (n, 32) and `vectors` (n, E).
    The tables are of one model, which must be named if the cache has more.
    """
    kinds = {".sqlite": _to_cache, ".parquet": _to_parquet, ".safetensors": _to_safetensors}
    if to.suffix not in kinds:
        raise EmbeddingError(f"cannot export to {to.name}{nearest(to.suffix, kinds)}; known: {', '.join(kinds)}")
    if to.resolve() == cache.resolve():
        raise EmbeddingError(f"{to} is the cache itself; name another file")
    with opened(cache, make=False) as store:
        store.connection.execute("BEGIN")  # until it is closed, what is read stays as it is now
        known = {one.identity: one for one in _contents(store)}
        if model is not None and model not in known:
            raise EmbeddingError(f"{cache} has nothing of {model!r}{nearest(model, known)}; see longtail cache list")
        chosen = [one for one in known.values() if model in {None, one.identity}]
        if to.suffix != ".sqlite" and len(chosen) != 1:
            names = "; ".join(map(repr, known)) or "nothing"
            raise EmbeddingError(f"{to.suffix} holds one model, {cache} has {names}; name one with --model")
        return sum(kinds[to.suffix](store, one, to) for one in chosen)


Row = tuple[bytes, bytes, int | None, int | None]


def _rows(store: Store, identity: str) -> Iterator[list[Row]]:
    """Key, blob, time and CRC-32 in parts, as long as reading lasts the same."""
    query = "SELECT text, vector, made, crc FROM vectors WHERE encoder = ? ORDER BY rowid"
    found = store.connection.execute(query, [_encoder(store, identity)])
    while part := found.fetchmany(PART):
        yield part


def _to_cache(store: Store, of: Kept, to: Path) -> int:
    with opened(to) as other:
        return sum(other.enter(of.identity, of.width, part) for part in _rows(store, of.identity))


def _to_parquet(store: Store, of: Kept, to: Path) -> int:
    def frame(part: list[Row]) -> pl.DataFrame:
        keys = [key.hex() for key, *_ in part]
        if not of.width:
            return pl.DataFrame(
                {"text_sha256": keys, "identity": of.identity, "reply": [blob.decode() for _, blob, *_ in part]}
            )
        vectors = np.frombuffer(b"".join(blob for _, blob, *_ in part), dtype="<f4").reshape(-1, of.width)
        return pl.DataFrame({"text_sha256": keys, "identity": of.identity, "vector": vectors})

    parts = (frame(part) for part in _rows(store, of.identity))
    first = next(parts)

    def scan(columns: object, predicate: object, limit: object, size: object) -> Iterator[pl.DataFrame]:
        yield first
        yield from parts

    with atomic(to) as temporary:
        pl.io.plugins.register_io_source(scan, schema=first.schema).sink_parquet(temporary)
    return of.rows


def _to_safetensors(store: Store, of: Kept, to: Path) -> int:
    if not of.width:
        raise EmbeddingError(f"{of.identity} wrote texts, which safetensors cannot hold; export to .parquet or .sqlite")
    n, split = of.rows, 32 * of.rows
    layout = {
        "__metadata__": {"identity": of.identity},
        "keys": {"dtype": "U8", "shape": [n, 32], "data_offsets": [0, split]},
        "vectors": {"dtype": "F32", "shape": [n, of.width], "data_offsets": [split, split + 4 * of.width * n]},
    }
    header = json.dumps(layout).encode()
    header += b" " * (-len(header) % 8)
    with atomic(to) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for part in _rows(store, of.identity):  # twice through the rows, so that none are held
            file.writelines(key for key, *_ in part)
        for part in _rows(store, of.identity):
            file.writelines(blob for _, blob, *_ in part)
    return n


def _encoder(store: Store, identity: str) -> int:
    found = store.connection.execute("SELECT id, identity FROM encoders ORDER BY id").fetchall()
    ids = {name: encoder for encoder, name in found}
    if identity not in ids:
        raise EmbeddingError(f"the cache has nothing of {identity!r}{nearest(identity, ids)}; see longtail cache list")
    return int(ids[identity])
