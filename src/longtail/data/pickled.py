"""Arrays of numbers out of pickle files, of which nothing is ever run; the only file here that knows of pickle.

A pickle is a program: to read one is to call whatever it names. The reader here knows only the names that numpy writes
for an array, and answers none of them with numpy's own: each part of the array keeps what it is called with, and the
array is made of the parts afterwards.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from longtail.errors import DataError

Numbers: TypeAlias = "npt.NDArray[np.integer] | npt.NDArray[np.floating]"
CODES = {f"{kind}{size}" for kind, sizes in (("f", (2, 4, 8)), ("iu", (1, 2, 4, 8))) for kind in kind for size in sizes}
ORDERS = {"<", ">", "=", "|"}
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError),
    *(MemoryError, OverflowError, RecursionError, struct.error),
)


def read_array(path: Path) -> Numbers:
    """The array in a pickle file, as numpy pickles it; a DataError says that it holds anything else, or is damaged."""
    try:
        with path.open("rb") as opened:
            found = _Reader(opened).load()
    except _RefusedError as refused:
        raise DataError(
            f"{path} names {refused}, which no array of numbers needs: it holds something else, or is out to do harm; "
            "nothing of it was run. Save the array itself, or get the file from its authors again"
        ) from None
    except FileNotFoundError:
        raise DataError(f"no file {path}; check the folder") from None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); check the file and its permissions") from None
    except DAMAGED as error:
        raise DataError(f"{path} is damaged or no pickle ({str(error) or 'it ends too early'}); get it again") from None
    return _made(found, path)


class _RefusedError(pickle.UnpicklingError):
    """A pickle names what no array of numbers is made of."""


class _Reader(pickle._Unpickler):  # that in C makes room for whatever number a file gives its parts
    def find_class(self, module: str, name: str) -> object:
        """The part that stands for a name of numpy; all other names are refused before they are looked up."""
        made = PARTS.get((module.replace("numpy.core.", "numpy._core."), name))  # the older spelling
        if made is None:
            raise _RefusedError(f"{module}.{name}")
        return _Part(made)


class _Part:
    """What a file may call."""

    def __init__(self, made: Callable[..., object]) -> None:
        self.made = made

    def __call__(self, *given: object) -> object:
        return self.made(*given)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("gives a state to a name")


class _Kind:
    """What a file says of an array's numbers: a code such as 'f8', then (version, order of bytes, …)."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = str(state[1])


class _Array:
    """What a file says of an array: (version, shape, kind, whether columns come first, bytes)."""

    def __init__(self, *state: object) -> None:
        self.state = state

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.state = tuple(state)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode({encoding!r})")
    return text.encode("latin1")


PARTS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.numeric", "_frombuffer"): lambda raw, kind, shape, order: _Array(1, shape, kind, order == "F", raw),
    ("numpy", "ndarray"): lambda *_: None,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _bytes,  # how the oldest protocols write bytes
}


def _made(found: object, path: Path) -> Numbers:
    """The array that the parts describe; a DataError if they do not fit together."""
    if not isinstance(found, _Array):
        raise DataError(f"{path} holds a {type(found).__name__.strip('_')}, not an array; save the array itself")
    if len(found.state) != 5:
        raise DataError(f"{path} is damaged (it holds an array without its numbers); get it again")
    _, shape, kind, columns_first, raw = found.state
    if not isinstance(kind, _Kind) or kind.code not in CODES or kind.order not in ORDERS:
        code = kind.code if isinstance(kind, _Kind) else kind
        raise DataError(f"{path} holds an array of type {code!r}, not of numbers; save it as float32 or float64")
    dtype = np.dtype(f"{kind.order}{kind.code}")
    if isinstance(shape, tuple) and isinstance(raw, (bytes, bytearray)):
        sizes = [size for size in shape if isinstance(size, int) and size >= 0]
        if len(sizes) == len(shape) and len(raw) == dtype.itemsize * math.prod(sizes):
            return np.frombuffer(raw, dtype).reshape(sizes, order="F" if columns_first else "C")
    raise DataError(f"{path} is damaged (its numbers do not fill the shape {shape}); get it again")
