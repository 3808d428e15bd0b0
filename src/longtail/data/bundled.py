"""The data sets inside the package: folders beside this file, each with two tables and an ATTRIBUTION.md."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from longtail.errors import DataError
from longtail.registry import nearest

HERE = Path(__file__).parent


class Bundled(NamedTuple):
    """Where the tables of a bundled data set are."""

    interactions: Path
    items: Path


def names() -> list[str]:
    """The bundled data sets, sorted."""
    return sorted(path.parent.name for path in HERE.glob("*/ATTRIBUTION.md"))


def tables(name: str) -> Bundled:
    """The tables of one bundled data set; a DataError lists the names there are."""
    if name not in names():
        known = ", ".join(names())
        raise DataError(f"no bundled data set {name!r}{nearest(name, names())}; bundled: {known}")
    return Bundled(HERE / name / "interactions.parquet", HERE / name / "items.parquet")
