"""Files of vectors: safetensors, written by blocks and read as memory maps. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from longtail.errors import EmbeddingError

KINDS: dict[str, np.dtype[np.floating]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}
BLOCK = 65_536  # rows checked at a time, so that a memory-mapped matrix is never read whole
AGAIN = "run 'longtail embed' again"

Floats: TypeAlias = npt.NDArray[np.float32]


def blocks(vectors: npt.NDArray[np.floating]) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
    """BLOCK rows at a time, with the first one's place."""
    for start in range(0, len(vectors), BLOCK):
        yield start, vectors[start : start + BLOCK]


def write_vectors(path: Path, vectors: Floats, marks: Mapping[str, str]) -> None:
    """A safetensors file of `vectors` (n, E), written by blocks, and before them a row of zeros as bare bytes.

    The zeros let `Embeddings.load` map both as one (n + 1, E) matrix; other readers find them as `padding`.
    """
    n, width = vectors.shape
    row = 4 * width
    zeros = {"dtype": "U8", "shape": [row], "data_offsets": [0, row]}
    floats = {"dtype": "F32", "shape": [n, width], "data_offsets": [row, row * (n + 1)]}
    header = json.dumps({"__metadata__": marks, "padding": zeros, "vectors": floats}).encode("ascii")
    header += b" " * (-len(header) % 8)
    with path.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header + bytes(row))
        for _, block in blocks(vectors):
            opened.write(np.ascontiguousarray(block, dtype="<f4").data)


def padded_before(path: Path, vectors: npt.NDArray[np.floating]) -> Floats | None:
    """Mapped `vectors` (n, E) and the row before them in the file, if that is zero; None if it is not.

    Copy-on-write, because torch wants memory that may be written to; nothing is ever written to the file.
    """
    assert isinstance(vectors, np.memmap)
    (n, width), start = vectors.shape, vectors.offset - 4 * vectors.shape[1]
    if start < 8:
        return None
    mapped: Floats = np.memmap(path, KINDS["F32"], "c", start, (n + 1, width))
    return None if mapped[0].any() else mapped


def map_safetensors(path: Path) -> tuple[dict[str, npt.NDArray[np.floating]], dict[str, str]]:
    """The float arrays of a safetensors file as memory maps, and its metadata.

    The format: 8 bytes with the length of a JSON header, the header (kind, shape, begin and end), the data.
    An EmbeddingError names a file that is missing or not so.
    """
    try:
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        marks = header.pop("__metadata__", {})
        floats = {name: entry for name, entry in header.items() if entry["dtype"] in KINDS}
        arrays = {name: _map(path, 8 + length, entry) for name, entry in floats.items()}
    except FileNotFoundError:
        raise EmbeddingError(f"no file {path}; {AGAIN}") from None
    except (OSError, OverflowError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise EmbeddingError(f"{path} is corrupt ({error}); {AGAIN}") from None
    return arrays, marks


def _map(path: Path, start: int, entry: Mapping[str, object]) -> npt.NDArray[np.floating]:
    kind, shape, place = KINDS[str(entry["dtype"])], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        raise ValueError(f"shape {shape} at {place}")
    if place[1] - place[0] != kind.itemsize * math.prod(shape):
        raise ValueError(f"{place[1] - place[0]} bytes for shape {shape}")
    mapped: npt.NDArray[np.floating] = np.memmap(path, kind, "r", start + place[0], tuple(shape))
    return mapped
