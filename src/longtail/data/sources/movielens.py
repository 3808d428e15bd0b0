"""MovieLens: 100K (u.data), 1M and 10M (ratings.dat), 20M, 25M, 32M and latest (ratings.csv). Tags are left out:
users gave them, at times that may lie in the test period.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from longtail.data.lines import LineError, Reader
from longtail.data.sources.base import Files, Seen, Source, beside, sources

GENRES_100K = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
YEAR = re.compile(r"(.*?)\s*\((\d{4})\)\s*")
NO_GENRES = "(no genres listed)"


class Layout(NamedTuple):
    """How the files of one edition are written."""

    items: str
    separator: str
    item_separator: str
    header: tuple[str, str] = ("", "")  # how the first lines start, of ratings and of films


LAYOUTS = {
    "u.data": Layout("u.item", "\t", "|"),
    "ratings.dat": Layout("movies.dat", "::", "::"),
    "ratings.csv": Layout("movies.csv", ",", ",", ("userId,", "movieId,")),
}


class Film(NamedTuple):
    """What is known of a film."""

    item_id: int
    title: str | None
    year: str | None
    categories: list[str] | None


SCHEMA = {"item_id": pl.Int64(), "title": pl.String(), "year": pl.String(), "categories": pl.List(pl.String())}


@sources.register("movielens")
class MovieLens(Source):
    """u.data and u.item, ratings.dat and movies.dat, or ratings.csv and movies.csv."""

    page: ClassVar[str] = "https://grouplens.org/datasets/movielens/"

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        return beside(
            place, r"(u\.data|ratings\.dat|ratings\.csv)", lambda found: ("movielens", LAYOUTS[found[1]].items)
        )

    def interactions(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        layout = next(layout for start, layout in LAYOUTS.items() if path.name.startswith(start))
        for rows in reader.rows(path, lambda line: _rating(line, layout), "latin-1"):
            yield self.frame(rows)

    def items(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        layout = next(one for one in LAYOUTS.values() if path.name.startswith(one.items))
        for rows in reader.rows(path, lambda line: _film(_utf8(line), layout), "latin-1"):
            yield pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _rating(line: str, layout: Layout) -> Seen | None:
    if layout.header[0] and line.startswith(layout.header[0]):
        return None
    parts = line.split(layout.separator)
    if len(parts) != 4:
        raise LineError(f"{len(parts)} fields, not the 4 of user, film, rating and time")
    try:
        user, film, rating, when = int(parts[0]), int(parts[1]), float(parts[2]), int(parts[3])
    except ValueError as error:
        raise LineError(str(error)) from None
    if not math.isfinite(rating):
        raise LineError(f"a rating of {parts[2]!r}")
    return Seen(user, film, when, rating)


def _film(line: str, layout: Layout) -> Film | None:
    if layout.header[1] and line.startswith(layout.header[1]):
        return None
    parts = next(csv.reader([line])) if layout.item_separator == "," else line.split(layout.item_separator)
    flags = layout.item_separator == "|"
    fields = 5 + len(GENRES_100K) if flags else 3
    if len(parts) != fields or not parts[0].isdecimal():
        raise LineError(f"{len(parts)} fields, not the {fields} of a film that starts with its number")
    if flags:
        genres = [genre for genre, flag in zip(GENRES_100K[1:], parts[6:], strict=True) if flag == "1"]
    else:
        genres = [genre for genre in parts[2].split("|") if genre and genre != NO_GENRES]
    named = YEAR.fullmatch(parts[1])
    title, year = (named[1], named[2]) if named else (parts[1].strip(), None)
    return Film(int(parts[0]), title or None, year, genres or None)


def _utf8(line: str) -> str:
    """A line that was read as latin-1, in which 100K and 1M are; 10M and later ones are UTF-8."""
    try:
        return line.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return line
