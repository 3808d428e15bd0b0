"""The embedding cache's file: SQLite, what an encoder or a chat model answered by the SHA-256 of the text."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from longtail.errors import EmbeddingError

FORMAT = 2
LOOKUP = 1000  # texts looked up by one query
LOG_PAGES = 16_000  # of 4 KB; keys are random, so a longer log writes each page of the index fewer times
PATIENCE = 60.0  # seconds to wait for another process that writes
# width 0: a chat model, whose blobs are UTF-8. made: seconds since 1970, crc: CRC-32 of the blob; both may be null.
SCHEMA = """
CREATE TABLE IF NOT EXISTS encoders (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, width INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    encoder INTEGER NOT NULL REFERENCES encoders, text BLOB NOT NULL, vector BLOB NOT NULL, made INTEGER, crc INTEGER,
    UNIQUE (encoder, text)
);
"""
FROM_1 = "ALTER TABLE vectors ADD COLUMN made INTEGER; ALTER TABLE vectors ADD COLUMN crc INTEGER;"


def default_cache() -> Path:
    """$XDG_CACHE_HOME/longtail/embeddings.sqlite, or under ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "longtail" / "embeddings.sqlite"


def key_of(text: str) -> bytes:
    """What a text is found by: its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Store:
    """One open cache file, written to by one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._encoders: dict[str, tuple[int, int]] = {}  # identity: id and width, which never change

    def width(self, identity: str) -> int | None:
        """The width of an encoder's vectors, 0 for a chat model; None if there is nothing of it."""
        found = self._encoder(identity)
        return found and found[1]

    def get(self, identity: str, keys: list[bytes]) -> dict[bytes, bytes]:
        """The blobs of those `keys`, at most LOOKUP, that are there. A blob that was damaged is a DatabaseError."""
        encoder = self._encoder(identity)
        if encoder is None:
            return {}
        marks = ",".join("?" * len(keys))
        query = f"SELECT text, vector, crc FROM vectors WHERE encoder = ? AND text IN ({marks})"
        found = {}
        for text, blob, crc in self.connection.execute(query, [encoder[0], *keys]):
            if encoder[1] and len(blob) != 4 * encoder[1]:
                raise sqlite3.DatabaseError(f"a vector of {len(blob)} bytes where {4 * encoder[1]} belong")
            if crc is not None and zlib.crc32(blob) != crc:
                raise sqlite3.DatabaseError(f"the bytes of an answer of {identity} have changed")
            found[text] = blob
        return found

    def has(self, identity: str, keys: list[bytes]) -> set[bytes]:
        """Which of those `keys`, at most LOOKUP, are there; their blobs are not read."""
        encoder = self._encoder(identity)
        if encoder is None:
            return set()
        query = f"SELECT text FROM vectors WHERE encoder = ? AND text IN ({','.join('?' * len(keys))})"
        return {key for (key,) in self.connection.execute(query, [encoder[0], *keys])}

    def put(self, identity: str, width: int, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Enter keys and blobs in one transaction; what another process entered meanwhile stays."""
        now = int(time.time())
        self.enter(identity, width, ((key, blob, now, zlib.crc32(blob)) for key, blob in rows))

    def enter(self, identity: str, width: int, rows: Iterable[tuple[bytes, bytes, int | None, int | None]]) -> int:
        """The same for rows with the time they were made and their CRC-32; how many were new."""
        with self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("INSERT OR IGNORE INTO encoders (identity, width) VALUES (?, ?)", [identity, width])
            found = self._encoder(identity)
            assert found is not None
            if found[1] != width:
                raise EmbeddingError(f"{identity} was {found[1]} wide before, now {width}; its identity must change")
            insert = "INSERT OR IGNORE INTO vectors (encoder, text, vector, made, crc) VALUES (?, ?, ?, ?, ?)"
            return self.connection.executemany(insert, ((found[0], *row) for row in rows)).rowcount

    def _encoder(self, identity: str) -> tuple[int, int] | None:
        if identity not in self._encoders:
            query = "SELECT id, width FROM encoders WHERE identity = ?"
            found = self.connection.execute(query, [identity]).fetchone()
            if found is None:
                return None
            if self.connection.in_transaction:  # it may yet be rolled back
                return int(found[0]), int(found[1])
            self._encoders[identity] = found
        return self._encoders[identity]


@contextmanager
def opened(path: Path | None, *, make: bool = True) -> Iterator[Store]:
    """The cache in `path`, made if it is not there; its troubles become EmbeddingErrors with the next step.

    path: None for a file of its own that nobody sees and that goes when it is closed.
    make: False if a missing file is an error.
    """
    if not make and path and not path.is_file():
        raise EmbeddingError(f"no embedding cache {path}; check the path, or embed something first")
    try:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddingError(f"cannot make the embedding cache {path} ({error}); name another cache") from error
    try:
        with closing(_connected(path)) as connection:
            _prepare(connection, path)
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            yield Store(connection)
    except sqlite3.OperationalError as error:
        raise EmbeddingError(
            f"cannot use the embedding cache {path} ({error}); check the disk's free space and the file's "
            "permissions, or name another cache"
        ) from error
    except sqlite3.DatabaseError as error:
        raise EmbeddingError(
            f"the embedding cache {path} is corrupt ({error}); longtail cache verify --drop removes single broken "
            "rows; if that fails too, move it away and run again: its texts are embedded anew"
        ) from error


def _connected(path: Path | None) -> sqlite3.Connection:
    # Written by one thread only; polars reads an export in threads of its own.
    return sqlite3.connect(path or "", timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > FORMAT:
        raise EmbeddingError(
            f"the embedding cache {path} has format {version}, this longtail reads {FORMAT}; upgrade longtail, "
            "or move the file away"
        )
    if version == FORMAT:
        return
    _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))  # readers and a writer side by side
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been faster
    if version < FORMAT:
        script = FROM_1 if version == 1 else SCHEMA
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _patiently(run: Callable[[], object]) -> None:
    """SQLite does not wait its usual patience for the switch to WAL, so we do."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            run()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
