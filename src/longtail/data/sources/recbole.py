"""RecBole's atomic files: tables with tabs between fields, whose header gives each column a type, as in price:float."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from longtail.data.columns import choose, recognised
from longtail.data.leaks import counts_the_future
from longtail.data.lines import LineError, Reader
from longtail.data.sources.base import Files, Seen, Source, beside, sources
from longtail.errors import DataError

TYPES = ("token", "token_seq", "float", "float_seq")
REVIEWS = ("review", "review_text", "text")


class Header(NamedTuple):
    """The first line of an atomic file: names of its columns, and their types."""

    line: str
    names: list[str]
    types: list[str]

    def place(self, *names: str) -> int | None:
        """Where the first of these columns is that there is."""
        return next((self.names.index(name) for name in names if name in self.names), None)


@sources.register("recbole")
class RecBole(Source):
    """NAME.inter and, for the items' texts, NAME.item."""

    page: ClassVar[str] = "https://recbole.io/dataset_list.html"

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        found = beside(place, r"(.+)\.inter", lambda found: (found[1], f"{found[1]}.item"))
        # Many of RecBole's data sets have no file of items.
        return [one if one.items and one.items.is_file() else one._replace(items=None) for one in found]

    def interactions(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        header = _header(path, reader)
        user, item = (header.names.index(choose(header.names, role, None, str(path))) for role in ("user", "item"))
        when = header.place(*recognised(header.names, "timestamp"))
        rating = header.place("rating") if "rating" in self.keep else None
        text = header.place(*REVIEWS) if "text" in self.keep else None

        def seen(line: str) -> Seen | None:
            parts = _parts(line, header)
            if parts is None:
                return None
            if not parts[user] or not parts[item]:
                raise LineError("no user or no item")
            return Seen(
                parts[user],
                parts[item],
                0 if when is None else _number(parts[when]),
                None if rating is None else _number(parts[rating]),
                None if text is None else parts[text] or None,
            )

        for rows in reader.rows(path, seen):
            yield self.frame(rows, None if when is None else pl.Float64())

    def items(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        header = _header(path, reader)
        key = header.names.index(choose(header.names, "item", None, str(path), option="item_id"))
        kept = [
            place
            for place, (name, kind) in enumerate(zip(header.names, header.types, strict=True))
            if place != key and kind != "float_seq" and not counts_the_future(name)
        ]
        numeric = {place for place in kept if header.types[place] == "float"}
        names = _titled([header.names[place] for place in kept])
        types: list[pl.DataType] = [pl.Float64() if place in numeric else pl.String() for place in kept]

        def item(line: str) -> tuple[str | float | None, ...] | None:
            parts = _parts(line, header)
            if parts is None:
                return None
            if not parts[key]:
                raise LineError("no item")
            values = ((parts[place], place in numeric) for place in kept)
            return (parts[key], *(_number(value) if value and number else value or None for value, number in values))

        for rows in reader.rows(path, item):
            yield pl.DataFrame(rows, dict(zip(("item_id", *names), (pl.String(), *types), strict=True)), orient="row")


def _header(path: Path, reader: Reader) -> Header:
    line = reader.first(path)
    names, _, types = zip(*(part.partition(":") for part in line.split("\t")), strict=True)
    if unknown := [kind for kind in types if kind not in TYPES]:
        raise DataError(
            f"{path}: line 1 is {line[:80]!r}, no header of RecBole's: {unknown[0]!r} is none of the types "
            f"{', '.join(TYPES)}, as in user_id:token; read it as a table with tabs if it is one (rename it to .tsv)"
        )
    return Header(line, list(names), list(types))


def _parts(line: str, header: Header) -> list[str] | None:
    """The fields of a line; None for the header itself."""
    if line == header.line:
        return None
    parts = line.split("\t")
    if len(parts) != len(header.names):
        raise LineError(f"{len(parts)} fields, not the {len(header.names)} of the header")
    if "\0" in line:
        raise LineError("a NUL byte in it")
    return parts


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise LineError(f"{text!r} is no number") from None
    if not math.isfinite(found):
        raise LineError(f"{text!r} is no number")
    return found


def _titled(names: list[str]) -> list[str]:
    """Names of columns, of which the first that looks like the title is called so, as prompts look for it."""
    if "title" in names or "name" in names:
        return names
    found = next((name for name in names if name.endswith(("_title", "_name"))), None)
    return ["title" if name == found else name for name in names]
