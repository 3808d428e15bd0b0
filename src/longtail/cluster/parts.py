"""A folder of Parquet files that many machines write: part-00000.parquet, … of the same rows whoever writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from longtail.config import Value
from longtail.errors import ClusterError, LongtailError
from longtail.files import file_hash, read_json, sweep, write_json

FACTS = "parts.json"


@dataclass(frozen=True)
class Parts:
    """Rows for users 0..users, `size` users a part. facts: what the parts depend on."""

    folder: Path
    users: int
    size: int
    facts: dict[str, Value]

    def lacking(self) -> list[int]:
        """The parts that are still to be written; a LongtailError if the folder holds those of something else."""
        facts = {**self.facts, "users": self.users, "users_a_part": self.size}
        if (self.folder / FACTS).exists():
            if (stored := read_json(self.folder / FACTS)) != facts:
                raise LongtailError(f"{self.folder} holds parts of {stored}, not of {facts}; choose another --out")
            sweep(self.folder)
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise LongtailError(f"{self.folder} is not empty and has no {FACTS}; choose another --out")
        else:
            write_json(self.folder / FACTS, facts)
        return [part for part in range(self.count) if not self.path(part).exists()]

    @property
    def count(self) -> int:
        """How many files."""
        return -(-self.users // self.size)

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.parquet"

    def span(self, part: int) -> tuple[int, int]:
        """The first user of a part, and the one after its last."""
        return part * self.size, min((part + 1) * self.size, self.users)

    def check(self, part: int) -> None:
        """A ClusterError if a worker wrote a part that is not here."""
        if not self.path(part).exists():
            raise ClusterError(
                f"a worker wrote {self.path(part).name}, but not here: {self.folder} must be on a file system that all "
                "machines of the cluster share"
            )


def digest(files: Iterable[Path]) -> str:
    """One hash of several files."""
    return hashlib.sha256(" ".join(file_hash(path) for path in files).encode()).hexdigest()
