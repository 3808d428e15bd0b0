"""What a server was told and must not forget: an append-only file of one line a record. No torch here."""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from pathlib import Path
from typing import TypeAlias

from longtail.errors import BundleError
from longtail.files import grasp

log = logging.getLogger(__name__)
Record: TypeAlias = "dict[str, object]"


class NotKeptError(BundleError):
    """A record that could not be written."""


class Journal:
    """Lines of a checksum and JSON. `append` returns when they are on the disk, so that what it returned from survives
    a kill. A torn last line was acknowledged to nobody: it is dropped when the file is opened again.

    One process at a time holds the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            if new:
                _sync_folder(path.parent)
        except OSError as error:
            raise BundleError(f"cannot open the journal {path} ({error}); choose another --state folder") from None
        if not grasp(self._file):
            os.close(self._file)
            raise BundleError(f"another server holds {path}; stop it, or give this one a --state folder")
        self.records, whole, size = _read(path)
        if whole < size:
            log.warning("%s: the last %d bytes were never acknowledged and are dropped", path, size - whole)
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
        self.size = whole

    def append(self, records: list[Record]) -> None:
        """Write records and wait for the disk; a NotKeptError if that fails, and then nothing of them is kept."""
        lines = b"".join(map(_line, records))
        with self._lock:
            try:
                written = 0
                while written < len(lines):
                    written += os.write(self._file, lines[written:])
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, self.size)
                raise NotKeptError(f"cannot write {self.path} ({error}); free space and try again") from None
            self.size += len(lines)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def _line(record: Record) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(path: Path) -> tuple[list[Record], int, int]:
    """The records, the bytes they take, and the size of the file; a BundleError if a line before the last is bad."""
    data = path.read_bytes()
    records, whole = [], 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        record = _parsed(line)
        if record is None:
            if number < len(lines) - 1:
                raise BundleError(f"{path}: line {number} is corrupt; restore the file, or move it away to begin anew")
            break
        records.append(record)
        whole += len(line) + 1
    return records, whole, len(data)


def _parsed(line: bytes) -> Record | None:
    mark, _, text = line.partition(b" ")
    if mark != b"%08x" % zlib.crc32(text):
        return None
    found = json.loads(text)
    return found if isinstance(found, dict) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
