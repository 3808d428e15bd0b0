"""Writing files whole or not at all, and reading them with errors that name the file. Used by every layer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from longtail.errors import LongtailError, RunError

T = TypeVar("T")
ENDING = 10.0  # seconds in which what a killed process has left running has noticed, and ended
FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to it on success and removed on any failure.

    Missing parent folders are made. A LongtailError says that the disk is full or the folder not writable;
    what stood at `path` before is then still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors writes files that only their owner may read
        temporary.replace(path)
    except (OSError, pl.exceptions.PolarsError, SafetensorError) as error:
        raise _explain(path, error) from error
    finally:
        with suppress(OSError):  # it was renamed, or could not even be made
            temporary.unlink()


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, removed in any case; `folder` itself too if it was not there and is empty then.

    A LongtailError says that the disk is full or the folder not writable.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".partial", ignore_cleanup_errors=True) as made:
            yield Path(made)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _explain(folder, error) from error
    finally:
        for one in missing:
            with suppress(OSError):  # it has files now
                one.rmdir()


def _explain(path: Path, error: Exception) -> LongtailError:
    unchanged = "nothing that existed was changed"
    # polars and safetensors keep the number only in the text: "… (os error 28)"
    if getattr(error, "errno", None) in FULL or any(f"(os error {number})" in str(error) for number in FULL):
        return LongtailError(f"disk full writing {path}; free space and run again; {unchanged}")
    return LongtailError(f"cannot write {path}: {error}; check the folder and its permissions; {unchanged}")


def write_json(path: Path, value: object) -> None:
    """`value` as indented UTF-8 JSON; NaN and infinity are refused, because JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, error: type[LongtailError] = RunError) -> object:
    """The value in a JSON file; `error` names the file if it is missing or does not parse."""
    return _read(path, error, lambda: json.loads(path.read_text(encoding="utf-8")))


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """`frame` as Parquet."""
    with atomic(path) as temporary:
        frame.write_parquet(temporary)


def read_parquet(path: Path, error: type[LongtailError] = RunError) -> pl.DataFrame:
    """The table in a Parquet file; `error` names the file if it is missing or corrupt."""
    return _read(path, error, lambda: pl.read_parquet(path, glob=False))


def write_safetensors(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Named arrays of any shape and number type."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic(path) as temporary:
        save_file(whole, temporary)


def read_safetensors(path: Path, error: type[LongtailError] = RunError) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a safetensors file by name; `error` names the file if it is missing or corrupt."""
    return _read(path, error, lambda: load_file(path))


def _read(path: Path, error: type[LongtailError], read: Callable[[], T]) -> T:
    if not path.is_file():
        raise error(f"no file {path}; check the path, or run the step that writes it again")
    try:
        return read()
    except (OSError, ValueError, pl.exceptions.PolarsError, SafetensorError) as problem:
        raise error(f"{path} is corrupt or unreadable ({problem}); run the step that writes it again") from None


def claim(folder: Path, mark: str, names: Collection[str]) -> None:
    """A LongtailError if `folder` holds any of the files `names` but not `mark`, by which a folder of ours is known."""
    foreign = [name for name in names if (folder / name).exists()]
    if foreign and not (folder / mark).exists():
        raise LongtailError(
            f"{folder} has a {foreign[0]} that is not longtail's; choose another --out, nothing was changed"
        )


@contextmanager
def locked(path: Path, folder: Path | None = None, wait: float = 0.0) -> Iterator[None]:
    """Hold the file `path` while in the block; a LongtailError if another process still holds it after `wait` seconds.

    The file names the process that holds it, the error also `folder`, or else the file's own. A process that is killed
    lets go of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise _explain(path, error) from error
    with file:
        end = time.monotonic() + wait
        while not grasp(file):
            if time.monotonic() >= end:
                file.seek(0)
                raise LongtailError(
                    f"another process ({file.read().strip() or 'of unknown id'}) is at work in "
                    f"{folder or path.parent}; wait for it, or stop it"
                )
            time.sleep(0.05)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def grasp(file: IO[str] | int) -> bool:
    """Lock an open file, until it is closed; whether that worked."""
    try:
        import fcntl  # there is none on Windows, where nothing is locked

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written under `folder`."""
    for path in folder.rglob(".*.partial"):
        path.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
