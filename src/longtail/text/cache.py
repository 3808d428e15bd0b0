"""The embedding cache: an SQLite file keyed by encoder and text, so that nothing is embedded twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from longtail.errors import EmbeddingError, some
from longtail.text.embedders.base import Embedder
from longtail.text.vector_files import Floats

FORMAT = 1
CHUNK = 256  # texts embedded, then committed: what an interruption can lose
LOOKUP = 1000  # texts looked up by one query
PATIENCE = 60.0  # seconds to wait for another process that writes
Progress = Callable[[int, int], None]
SCHEMA = """
CREATE TABLE IF NOT EXISTS encoders (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, width INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    encoder INTEGER NOT NULL REFERENCES encoders, text BLOB NOT NULL, vector BLOB NOT NULL, UNIQUE (encoder, text)
);
"""


def default_cache() -> Path:
    """$XDG_CACHE_HOME/longtail/embeddings.sqlite, or under ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "longtail" / "embeddings.sqlite"


def embed_cached(
    embedder: Embedder, texts: Sequence[str], cache: Path | None, progress: Progress | None = None
) -> Floats:
    """(n, E), one row a text; only texts that `cache` lacks are embedded, each distinct one once.

    cache: an SQLite file, made if need be and safe to share between processes; None for no memory.
    progress: called with how many of how many distinct texts are there, after the look-up and after each chunk.
    Each chunk is committed, so that an interrupted call goes on where it was. An EmbeddingError names texts whose
    vectors are not finite or of another width than before, and a cache file that cannot be used.
    """
    distinct = list(dict.fromkeys(texts))
    vectors, done = np.empty((len(distinct), 0), dtype=np.float32), np.zeros(len(distinct), dtype=np.bool_)
    with _open(cache) as store:
        for rows in _parts(range(len(distinct)), LOOKUP):
            found = store.get(embedder.identity, [_key(distinct[row]) for row in rows])
            hits = [row for row in rows if _key(distinct[row]) in found]
            if hits:
                vectors = _wide(vectors, np.stack([found[_key(distinct[row])] for row in hits]), hits)
                done[hits] = True
        if progress:
            progress(int(done.sum()), len(distinct))
        longest_first = sorted(np.flatnonzero(~done).tolist(), key=lambda row: -len(distinct[row]))
        for rows in _parts(longest_first, CHUNK):
            made = _encode(embedder, [distinct[row] for row in rows], vectors.shape[1], store)
            vectors = _wide(vectors, made, rows)
            done[rows] = True
            if progress:
                progress(int(done.sum()), len(distinct))
    if len(distinct) == len(texts):
        return vectors
    place = {text: row for row, text in enumerate(distinct)}
    return vectors[[place[text] for text in texts]]


def _encode(embedder: Embedder, texts: list[str], width: int, store: _Store) -> Floats:
    """Embed, check and keep one chunk; what is sound in it is kept even if the rest is refused."""
    made = embedder.encode(texts)
    if made.shape != (len(texts), width or made.shape[-1]):
        raise EmbeddingError(
            f"{embedder.model} gave an array of shape {made.shape} for {len(texts)} texts, expected {width or 'E'} "
            "columns; if the model was changed, its identity must change too"
        )
    sound = np.isfinite(made).all(axis=1)
    kept = np.flatnonzero(sound)
    store.put(embedder.identity, [_key(texts[row]) for row in kept], made[kept])
    if not sound.all():
        bad = [texts[row][:60] for row in np.flatnonzero(~sound)]
        raise EmbeddingError(f"{embedder.model} gave NaN or infinity for {some(bad)}; change these texts or the model")
    return made


def _wide(vectors: Floats, rows: Floats, places: Sequence[int]) -> Floats:
    """`vectors` with `rows` entered; the width is known from the first rows on."""
    if not vectors.shape[1]:
        vectors = np.empty((len(vectors), rows.shape[1]), dtype=np.float32)
    vectors[places] = rows
    return vectors


def _parts(sequence: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(sequence), size):
        yield sequence[start : start + size]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class _Store:
    """One open cache file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def get(self, identity: str, keys: list[bytes]) -> dict[bytes, Floats]:
        """The vectors of those `keys` that are there."""
        marks = ",".join("?" * len(keys))
        query = (
            "SELECT text, vector, width FROM vectors JOIN encoders ON encoder = encoders.id "
            f"WHERE identity = ? AND text IN ({marks})"
        )
        found = {}
        for text, vector, width in self.connection.execute(query, [identity, *keys]):
            if len(vector) != 4 * width:
                raise sqlite3.DatabaseError(f"a vector of {len(vector)} bytes where {4 * width} belong")
            found[text] = np.frombuffer(vector, dtype="<f4").astype(np.float32)
        return found

    def put(self, identity: str, keys: list[bytes], vectors: Floats) -> None:
        """Enter (n, E) vectors in one transaction; what another process entered meanwhile stays."""
        with self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            width = vectors.shape[1]
            self.connection.execute("INSERT OR IGNORE INTO encoders (identity, width) VALUES (?, ?)", [identity, width])
            encoder, known = self.connection.execute(
                "SELECT id, width FROM encoders WHERE identity = ?", [identity]
            ).fetchone()
            if known != width:
                raise EmbeddingError(f"{identity} was {known} wide before, now {width}; its identity must change")
            rows = zip(keys, vectors.astype("<f4"), strict=True)
            self.connection.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", ((encoder, key, row.tobytes()) for key, row in rows)
            )


@contextmanager
def _open(path: Path | None) -> Iterator[_Store]:
    """The cache in `path`, made if it is not there; its troubles become EmbeddingErrors with the next step."""
    try:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddingError(f"cannot make the embedding cache {path} ({error}); name another cache") from error
    try:
        with closing(sqlite3.connect(path or ":memory:", timeout=PATIENCE, isolation_level=None)) as connection:
            _prepare(connection, path)
            yield _Store(connection)
    except sqlite3.OperationalError as error:
        raise EmbeddingError(
            f"cannot use the embedding cache {path} ({error}); check the disk's free space and the file's "
            "permissions, or name another cache"
        ) from error
    except sqlite3.DatabaseError as error:
        raise EmbeddingError(
            f"the embedding cache {path} is corrupt ({error}); move it away and run again: its texts are embedded anew"
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > FORMAT:
        raise EmbeddingError(
            f"the embedding cache {path} has format {version}, this longtail reads {FORMAT}; upgrade longtail, "
            "or move the file away"
        )
    if version < FORMAT:
        _write_ahead(connection)
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Readers and a writer side by side. SQLite does not wait its usual patience for this switch, so we do."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
