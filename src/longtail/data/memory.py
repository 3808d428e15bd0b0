"""Bytes of memory: what there is, what a process holds, and what preparing a table takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from longtail.data.tables import NDJSON, SEPARATORS, Table
from longtail.errors import ConfigError, DataError

SHARE = 0.7  # of the memory that is available, for a table that is prepared a part at a time without being asked to
BASE = 300 * 10**6  # of a process before it reads anything, where the system does not tell
LEAST = 200 * 10**6  # beyond what the process holds already: below it, the reader of a text file alone takes more
# Bytes that stood in memory at the peak (docs/data.md):
ROW = 128  # for a row while it is read, sorted or written, beside COPIES of what the row itself holds
COPIES = 6
ID = 32  # for an external id while distinct ones are collected, beside COPIES_OF_ID of its text
COPIES_OF_ID = 2
CODE = 48  # for an id afterwards: its hash and its number; counts of its interactions
WHOLE = 90  # for a row where the whole table is in memory, beside COPIES_OF_KEPT of the columns that are kept
COPIES_OF_KEPT = 3
TEXT, PACKED = 3, 12  # times the size of a file of text, and of a compressed one
SAMPLE = 10_000  # rows that tell how many bytes a row has
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse(text: str) -> int:
    """Bytes, from a size as people write it; a ConfigError if it is none.

    >>> parse("2GB"), parse("1.5 GiB"), parse("800m")
    (2000000000, 1610612736, 800000000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if found is None or not float(found[1]):
        raise ConfigError(f"memory {text!r} is no size; give it as 2GB, 1.5GiB or 800MB")
    return int(float(found[1]) * UNITS[found[2] or ""])


def shown(size: float) -> str:
    """Bytes as people write them.

    >>> shown(2_345_000_000), shown(12_000_000)
    ('2.3 GB', '12 MB')
    """
    return f"{size / 10**9:,.1f} GB" if size >= 10**9 else f"{size / 10**6:,.0f} MB"


def available() -> int | None:
    """What is free for this process, on this machine and in its container; None where the system does not tell."""
    found = [_field(Path("/proc/meminfo"), "MemAvailable:", 1024)]
    group = Path("/sys/fs/cgroup")
    limit, held = _field(group / "memory.max", "", 1), _field(group / "memory.stat", "anon ", 1)
    if limit is not None and held is not None:
        found.append(limit - held)
    return min((one for one in found if one is not None), default=None)


def resident() -> int:
    """What this process holds now."""
    return _field(Path("/proc/self/status"), "VmRSS:", 1024) or BASE


def width(table: Table, columns: Sequence[str]) -> float:
    """Bytes of some columns of a row, from the first rows of a table."""
    sample = table.frame.select(columns).head(SAMPLE).collect()
    return sample.estimated_size() / sample.height if columns else 0.0


def whole(table: Table, path: Path, keep: Sequence[str]) -> float:
    """What preparing a table in memory takes, estimated from its file. keep: columns that are kept beside the three."""
    kind = path.suffix.lower()
    if kind in {".gz", ".zst"} or kind in SEPARATORS or kind in NDJSON:
        return path.stat().st_size * (PACKED if kind in {".gz", ".zst"} else TEXT)
    rows = int(table.frame.select(pl.len()).collect().item())
    return rows * (WHOLE + COPIES_OF_KEPT * width(table, keep))


def too_little(memory: int, need: float, what: str) -> DataError:
    """The error of a bound that something does not fit into, with the bound that it would need."""
    least = -(-int(need) // 10**8) / 10  # whole tenths of GB
    return DataError(f"{shown(memory)} of memory are too little for {what}; give --memory {least:g}GB or more")


def _field(path: Path, key: str, unit: int) -> int | None:
    """The number after `key` in one of the system's files."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    words = next((line.removeprefix(key).split() for line in lines if line.startswith(key)), [])
    return int(words[0]) * unit if words and words[0].isdigit() else None
