"""Arrays, texts and ids as a bundle keeps them: safetensors, read as memory maps. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from longtail.errors import BundleError

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "<i1", "U8": "<u1", "BOOL": "?"}
HEADER = 1 << 20  # bytes of a header at most: ours have some thousand
Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


def map_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a safetensors file by name, as memory maps; a BundleError says why it cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(HEADER, size):
                raise ValueError(f"a header of {length:,} bytes")
            header = json.loads(opened.read(length))
        return {
            name: _mapped(path, size, 8 + length, entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is corrupt or missing ({error}); export the run again") from None


def _mapped(path: Path, size: int, data: int, entry: Mapping[str, Any]) -> Array:
    kind, shape, (begin, end) = np.dtype(KINDS[entry["dtype"]]), tuple(map(int, entry["shape"])), entry["data_offsets"]
    if min(shape, default=0) < 0 or end - begin != kind.itemsize * math.prod(shape) or not 0 <= begin <= end:
        raise ValueError(f"{end - begin} bytes for shape {shape}")
    if data + end > size:
        raise ValueError(f"{size:,} bytes, of {data + end:,} or more")
    if not math.prod(shape):
        return np.zeros(shape, kind)
    mapped: Array = np.memmap(path, kind, "r", data + begin, shape)
    return mapped


class Strings(Sequence[str]):
    """n texts as one run of UTF-8, `data`, and where each begins, `offsets` (n + 1,)."""

    def __init__(self, data: Bytes, offsets: IntArray) -> None:
        self.data, self.offsets = data, offsets
        self._bytes, self._starts = data.data, offsets.data  # indexed several times as fast as arrays

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """From texts."""
        coded = [text.encode("utf-8", "replace") for text in texts]
        ends = np.cumsum([0, *map(len, coded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(coded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def raw(self, place: int) -> bytes:
        """The bytes of one text."""
        return bytes(self._bytes[self._starts[place] : self._starts[place + 1]])

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        return self.raw(place).decode("utf-8", "replace")

    def arrays(self, name: str) -> dict[str, Array]:
        """As they are stored."""
        return {f"{name}.data": self.data, f"{name}.offsets": self.offsets}

    @classmethod
    def stored(cls, arrays: Mapping[str, Array], name: str, rows: int | None) -> Strings:
        """What `arrays` gave; a BundleError if they are not `rows` texts, or any number for None."""
        data = take(arrays, f"{name}.data", np.uint8, (None,))
        offsets = take(arrays, f"{name}.offsets", np.int64, (None if rows is None else rows + 1,))
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
            raise BundleError(f"the texts {name!r} of the bundle do not fit together; export the run again")
        return cls(data, offsets)


class Ids:
    """External ids, as text, to places 1..n and back, by a binary search: no table of hashes in memory."""

    def __init__(self, strings: Strings, order: npt.NDArray[np.int32]) -> None:
        self.strings, self._order = strings, order.data

    @classmethod
    def of(cls, texts: Iterable[str]) -> Ids:
        """From ids, each once."""
        strings = Strings.of(texts)
        raws = [strings.raw(place) for place in range(len(strings))]
        return cls(strings, np.array(sorted(range(len(raws)), key=raws.__getitem__), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.strings)

    def find(self, external: str) -> int:
        """The place of an id, from 1; 0 if it is not there."""
        key, low, high = external.encode("utf-8", "replace"), 0, len(self._order)
        while low < high:
            middle = (low + high) // 2
            if self.strings.raw(self._order[middle]) < key:
                low = middle + 1
            else:
                high = middle
        found = low < len(self._order) and self.strings.raw(self._order[low]) == key
        return int(self._order[low]) + 1 if found else 0

    def __getitem__(self, place: int) -> str:
        return self.strings[place - 1]

    def arrays(self, name: str) -> dict[str, Array]:
        """As they are stored."""
        return {**self.strings.arrays(name), f"{name}.order": np.asarray(self._order)}

    @classmethod
    def stored(cls, arrays: Mapping[str, Array], name: str, rows: int) -> Ids:
        """What `arrays` gave."""
        order = take(arrays, f"{name}.order", np.int32, (rows,))
        in_range(order, 0, rows - 1, f"{name}.order")
        return cls(Strings.stored(arrays, name, rows), order)


def take(
    arrays: Mapping[str, Array], name: str, kind: type[np.generic], shape: Sequence[int | None]
) -> npt.NDArray[Any]:
    """An array of a bundle, None in `shape` for any size; a BundleError if there is no such."""
    array = arrays.get(name)
    if array is None:
        raise BundleError(f"the bundle has no array {name!r}; export the run again")
    fits = len(array.shape) == len(shape) and all(
        want is None or has == want for has, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != kind:
        raise BundleError(
            f"array {name!r} of the bundle is {array.dtype} of shape {array.shape}, not {np.dtype(kind)} of "
            f"{tuple(shape)}; export the run again"
        )
    return cast("npt.NDArray[Any]", array)


def in_range(array: npt.NDArray[Any], low: int, high: int, name: str) -> None:
    """A BundleError if a number of the array is beyond low..high."""
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise BundleError(f"array {name!r} of the bundle has numbers beyond {low}..{high}; export the run again")
