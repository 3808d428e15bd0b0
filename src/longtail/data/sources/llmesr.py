"""The folder `handled/` of LLM-ESR's authors: who did what, in `inter.txt`, in the order of time, without texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import polars as pl

from longtail.data.lines import LineError, Reader
from longtail.data.sources.base import Files, Seen, Source, sources

INTERACTIONS = "inter.txt"
LINE = re.compile(r"\s*([0-9]{1,18})\s+([0-9]{1,18})\s*")


@sources.register("llmesr")
class LlmEsr(Source):
    """handled/ with inter.txt in it; ids stay the authors'."""

    page: ClassVar[str] = "https://github.com/liuqidong07/LLM-ESR"

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        folder = place.parent if place.name == INTERACTIONS else place
        if not (folder / INTERACTIONS).is_file():
            return []
        name = folder.resolve().parent.name if folder.name == "handled" else folder.name
        return [Files(name, folder / INTERACTIONS, None)]

    def interactions(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        for rows in reader.rows(path, _pair):
            yield self.frame(rows, time=None)

    def items(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """None: there is no such file."""
        return iter(())


def _pair(line: str) -> Seen:
    found = LINE.fullmatch(line)
    if found is None or not int(found[1]) or not int(found[2]):
        raise LineError('every line must be "user item", two whole numbers from 1')
    return Seen(int(found[1]), int(found[2]))
