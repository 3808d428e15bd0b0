"""Through the cache: what it lacks is asked for, committed as it comes, and nothing is asked for twice."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from longtail.errors import EmbeddingError, some
from longtail.text.embedders.base import CHUNK, Embedder
from longtail.text.store import LOOKUP, Store, default_cache, key_of, opened
from longtail.text.vector_files import Floats

__all__ = ["CHUNK", "Missing", "Progress", "default_cache", "embed_blocks", "embed_cached", "fill", "missing"]

BLOCK = 16_384  # texts held at a time; the longest of each block are asked for first
LARGE = 2**30  # bytes; larger results are a mapped file
Progress = Callable[[int, int], None]
Texts = Sequence[str | None]
T = TypeVar("T")


def embed_cached(embedder: Embedder, texts: Texts, cache: Path | None, progress: Progress | None = None) -> Floats:
    """(n, E), one row a text, zeros for None; only texts that `cache` lacks are embedded, each distinct one once.

    cache: an SQLite file, made if need be and safe to share between processes; None for no memory.
    progress: called with how many of how many rows are there, after each look-up and each answer.
    Each answer is committed, so that an interrupted call goes on where it was. An EmbeddingError names texts whose
    vectors are not finite or of another width than before, and a cache file that cannot be used.
    """
    return embed_blocks(embedder, blocks(texts), len(texts), cache, progress)[1:]


def embed_blocks(
    embedder: Embedder,
    texts: Iterable[Texts],
    rows: int,
    cache: Path | None,
    progress: Progress | None = None,
    large: int = LARGE,
) -> Floats:
    """(rows + 1, E): a row of zeros, then as `embed_cached`, for texts that come in blocks and are not held.

    Above `large` bytes it is a file on the cache's disk, mapped, which nobody sees and which goes with the array.
    """
    made = _Rows(rows, cache.parent if cache else None, large)
    with opened(cache) as store:

        def read(found: list[bytes]) -> Floats:
            return np.frombuffer(b"".join(found), dtype="<f4").reshape(len(found), -1)

        def keep(keys: list[bytes], asked: list[str], answer: Floats) -> None:
            _keep(embedder, store, keys, asked, answer)

        shelf = Shelf(store, embedder.identity, read, keep, made.enter)
        fill(shelf, texts, rows, embedder.stream, progress)
    return made.array if made.array is not None else np.zeros((rows + 1, 0), dtype=np.float32)


class Missing(NamedTuple):
    """What a cache lacks: distinct texts, and what is in them."""

    texts: int
    bytes: int
    """Of UTF-8."""


def missing(identity: str, texts: Iterable[Texts], cache: Path | None) -> Missing:
    """How much of `texts` is not in the cache under `identity`; nothing is asked of anybody."""
    count, size, seen = 0, 0, set()
    with opened(cache if cache and cache.is_file() else None) as store:
        for block in texts:
            fresh = {key_of(text): len(text.encode("utf-8", "surrogatepass")) for text in block if text is not None}
            for keys in _parts([key for key in fresh if key[:8] not in seen]):
                found = store.has(identity, keys)
                lacking = [key for key in keys if key not in found]
                count, size = count + len(lacking), size + sum(fresh[key] for key in lacking)
                seen |= {key[:8] for key in lacking}
    return Missing(count, size)


class Shelf(NamedTuple, Generic[T]):
    """What `fill` does with answers of one kind."""

    store: Store
    identity: str
    read: Callable[[list[bytes]], T]
    """Blobs of the cache to an answer, in their order."""
    keep: Callable[[list[bytes], list[str], T], None]
    """Check and commit the answer to those keys and texts."""
    place: Callable[[list[list[int]], T], None]
    """Enter an answer; entry k of it goes to all of rows[k]."""


Stream = Callable[[Iterable[str]], Iterator[tuple[list[int], T]]]


def fill(shelf: Shelf[T], texts: Iterable[Texts], rows: int, stream: Stream[T], progress: Progress | None) -> None:
    """Place every text's answer: from the cache, else from `stream`, which draws on those that are missing.

    A text that is asked for and not yet answered is not asked for again. When an answer is refused, or `progress`
    raises an EmbeddingError, no more texts are handed out, what is in flight is kept, and then it is raised.
    """
    waiting: dict[bytes, list[int]] = {}  # rows of what was asked for
    asked: dict[int, tuple[bytes, str]] = {}  # the same by its place in the stream
    done, drawn = 0, 0
    failure: EmbeddingError | None = None

    def lacking() -> Iterator[str]:
        nonlocal done, drawn
        start = 0
        for block in texts:
            where = _where(block, start)
            start += len(block)
            done += sum(text is None for text in block)
            for key in waiting.keys() & where.keys():  # now: it may be answered before this block is handed out
                waiting[key] += where.pop(key)[1]
            for keys in _parts(list(where)):
                found = shelf.store.get(shelf.identity, keys)
                hits = [key for key in keys if key in found]
                if hits:
                    shelf.place([where[key][1] for key in hits], shelf.read([found[key] for key in hits]))
                    done += sum(len(where.pop(key)[1]) for key in hits)
            if progress:
                progress(done, rows)
            for key, (text, places) in sorted(where.items(), key=lambda entry: -len(entry[1][0])):
                if failure:
                    raise failure
                waiting[key], asked[drawn] = places, (key, text)
                drawn += 1
                yield text

    for positions, answer in stream(lacking()):
        entries = [asked.pop(position) for position in positions]
        keys = [key for key, _ in entries]
        places = [waiting.pop(key) for key in keys]
        done += sum(map(len, places))
        try:
            shelf.keep(keys, [text for _, text in entries], answer)
            shelf.place(places, answer)
            if progress:
                progress(done, rows)
        except EmbeddingError as error:
            failure = failure or error
    if failure:
        raise failure


def _where(block: Texts, start: int) -> dict[bytes, tuple[str, list[int]]]:
    """Each distinct text of a block by its key, with its rows."""
    found: dict[bytes, tuple[str, list[int]]] = {}
    for row, text in enumerate(block, start):
        if text is not None:
            found.setdefault(key_of(text), (text, []))[1].append(row)
    return found


def blocks(texts: Texts) -> Iterator[Texts]:
    """`texts` in parts of BLOCK."""
    return (texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))


def _keep(embedder: Embedder, store: Store, keys: list[bytes], texts: list[str], made: Floats) -> None:
    """Check and commit vectors; what is sound among them is kept even if the rest is refused."""
    width = store.width(embedder.identity) or made.shape[-1]
    if made.shape != (len(texts), width):
        raise EmbeddingError(
            f"{embedder.model} gave an array of shape {made.shape} for {len(texts)} texts, expected {width} "
            "columns; if the model was changed, its identity must change too"
        )
    sound = np.isfinite(made).all(axis=1)
    rows = made.astype("<f4", copy=False)
    store.put(embedder.identity, width, ((keys[row], rows[row].tobytes()) for row in np.flatnonzero(sound)))
    if not sound.all():
        bad = [texts[row][:60] for row in np.flatnonzero(~sound)]
        raise EmbeddingError(f"{embedder.model} gave NaN or infinity for {some(bad)}; change these texts or the model")


class _Rows:
    """The result, made when its width is known: an array, or a mapped file."""

    def __init__(self, rows: int, folder: Path | None, large: int) -> None:
        self.rows, self.folder, self.large = rows, folder, large
        self.array: Floats | None = None

    def enter(self, rows: list[list[int]], vectors: Floats) -> None:
        if self.array is None:
            self.array = self._made(vectors.shape[1])
        single = np.fromiter((row for row, *_ in rows), dtype=np.int64, count=len(rows))
        self.array[single + 1] = vectors
        for row, (_, *more) in enumerate(rows):
            for place in more:
                self.array[place + 1] = vectors[row]

    def _made(self, width: int) -> Floats:
        shape = (self.rows + 1, width)
        size = 4 * shape[0] * shape[1]
        if size <= self.large:
            return np.zeros(shape, dtype=np.float32)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                _reserve(file, size)
                mapped: npt.NDArray[np.float32] = np.memmap(file, np.float32, "r+", 0, shape)
                return mapped
        except OSError as error:
            raise EmbeddingError(
                f"no room for {self.rows:,} vectors of width {width:,}, {size / 2**30:,.1f} GiB, in "
                f"{self.folder or tempfile.gettempdir()} ({error}); free space, or name a cache on another disk"
            ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the space now: to write to a mapped hole on a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _parts(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while part := list(islice(rest, LOOKUP)):
        yield part
