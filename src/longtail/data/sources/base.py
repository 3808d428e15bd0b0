"""What a source of raw data is, how a name or a folder finds it, and how its files become a data set."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from longtail.data.dataset import Dataset
from longtail.data.lines import Reader
from longtail.data.tables import Source as Table
from longtail.errors import DataError, some
from longtail.registry import Registry

COMPRESSED = ("", ".gz", ".zst")
NO_ITEMS = "none"  # in the place of a table of items: do without texts
INT64 = pl.Int64()
KEEP = ("rating", "text")  # what an interaction may carry along
sources: Registry[type[Source]] = Registry("source", "longtail.data.sources")


class Files(NamedTuple):
    """The files of one data set. items: None where the source has no such file; it may not exist."""

    name: str
    interactions: Path
    items: Path | None


class Seen(NamedTuple):
    """An interaction, as a line tells it. timestamp: 0 where the source has no times."""

    user: str | int
    item: str | int
    timestamp: float = 0
    rating: float | None = None
    text: str | None = None


class Source(ABC):
    """Raw files of one origin. It reads them line by line and drops the columns of items that count the future.

    keep: what of an interaction is kept beside user, item and time: 'rating', 'text' (of a review).
    """

    page: ClassVar[str]
    """Where the files come from."""

    def __init__(self, keep: Sequence[str] = ()) -> None:
        self.keep = keep

    @classmethod
    @abstractmethod
    def find(cls, place: Path) -> list[Files]:
        """The data sets in a folder, or the one that a file belongs to; none if they are of another source."""

    @abstractmethod
    def interactions(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """user_id, item_id, timestamp if there are times, and what is kept: a frame for so many lines."""

    @abstractmethod
    def items(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """item_id and columns of text: a frame for so many lines."""

    def frame(self, rows: list[Seen], time: pl.DataType | None = INT64) -> pl.DataFrame:
        """Interactions as a frame. time: type of their times, Int64 of seconds since 1970; None if there are none."""
        users, items, times, ratings, texts = zip(*rows, strict=True)
        frame = pl.DataFrame({"user_id": users, "item_id": items})
        if time is not None:
            frame = frame.with_columns(pl.Series("timestamp", times, time, strict=False))
        kept = {"rating": (ratings, pl.Float64()), "text": (texts, pl.String())}
        return frame.with_columns(pl.Series(name, *kept[name]) for name in self.keep)


def split_spec(spec: str) -> tuple[str | None, str]:
    """'amazon2014:raw' as its source and its path; no source for a path without one.

    >>> split_spec("yelp:raw/yelp"), split_spec("C:/raw")
    (('yelp', 'raw/yelp'), (None, 'C:/raw'))
    """
    name, colon, path = spec.partition(":")
    return (name, path) if colon and name in sources.names() else (None, spec)


def recognised(place: Path) -> list[str]:
    """The sources of which a folder or a file is, with all that belongs to it."""
    if not place.exists():
        return []
    return [name for name in sources.names() if any(_complete(one) for one in sources.get(name).find(place))]


def _complete(files: Files) -> bool:
    return files.items is None or files.items.is_file()


def read_source(
    name: str,
    place: Path,
    *,
    items: Table | None = None,
    keep: Sequence[str] = (),
    review: str | None = None,
    reader: Reader | None = None,
) -> Dataset:
    """The data set in raw files.

    place: the folder, which must hold one data set of the source, or the file of interactions.
    items: a table to take in the place of the source's own file of items; "none" for no texts.
    keep: columns of the interactions to keep: 'rating', 'text'. review: 'text', to keep it as what users wrote.
    A DataError names the file and the line.
    """
    kind, reader = sources.get(name), reader or Reader()
    carried = tuple(dict.fromkeys(keep if review is None else (*keep, review)))
    if unknown := set(carried) - set(KEEP):
        raise DataError(f"keep: a source has no {some(sorted(unknown))}; it may have {some(KEEP)}")
    files, source = _one(kind, name, place), kind(carried)
    own = files.items if items is None else None  # not even looked for where another is given
    if own is not None and not own.is_file():
        raise DataError(
            f"{own} is not there, which {files.interactions.name} needs for the items' texts: get it from {kind.page}, "
            "give a table of your own with --items FILE, or do without texts with --items none"
        )
    seen = _whole(source.interactions(files.interactions, reader), files.interactions, "interaction", reader)
    if wanted := [column for column in carried if seen[column].null_count() == seen.height]:
        raise DataError(f"keep: {files.interactions} has no {some(wanted)}; leave it out")
    texts: Table | None = None if _no_items(items) else items
    notes: tuple[str, ...] = ()
    if own is not None:
        texts, notes = _described(source, own, reader, seen)
    item_id = None if own is None else "item_id"
    data = Dataset.read(seen, texts, item_id=item_id, keep=keep, review=review, name=files.name)
    return replace(data, notes=(*data.notes, *notes, *reader.notes()))


def _no_items(items: Table | None) -> bool:
    return isinstance(items, str) and items == NO_ITEMS


def _one(kind: type[Source], name: str, place: Path) -> Files:
    if not place.exists():
        raise DataError(f"{place} does not exist; check the path (raw files of {name} come from {kind.page})")
    all_found = kind.find(place)
    found = [one for one in all_found if _complete(one)] or all_found
    if not found:
        raise DataError(f"{place} holds no {name} data: {(kind.__doc__ or '').strip()} They come from {kind.page}")
    if len(found) > 1:
        several = some(sorted(str(one.interactions) for one in found))
        raise DataError(f"{place} holds several data sets of {name}: name one of {several}")
    return found[0]


def _whole(frames: Iterator[pl.DataFrame], path: Path, what: str, reader: Reader) -> pl.DataFrame:
    read = list(frames)
    if not read:
        lost = "; ".join(reader.notes())
        raise DataError(
            f"{path} has no {what}{f' that can be read: {lost}' if lost else ': it is empty'}; get it again"
        )
    return pl.concat(read, how="diagonal_relaxed")


def _described(source: Source, path: Path, reader: Reader, seen: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows of the items that were seen, each once, and notes on the rest."""
    known = seen.select("item_id").unique()
    total, kept = 0, []
    for frame in source.items(path, reader):
        total += frame.height
        kept.append(frame.join(known, on="item_id", how="semi", maintain_order="left"))
    rows = _whole(iter(kept), path, "item", reader)
    once = rows.unique("item_id", keep="first", maintain_order=True)
    notes = []
    if total > rows.height:
        notes.append(f"{total - rows.height:,} of {total:,} items of {path} occur in no interaction; they are left out")
    if rows.height > once.height:
        notes.append(f"{rows.height - once.height:,} rows of {path} repeat an item; its first row is kept")
    if not once.height:
        raise DataError(f"{path} has none of the items of the interactions; check that both files belong together")
    return once, tuple(notes)


def beside(place: Path, pattern: str, companion: Callable[[re.Match[str]], tuple[str, str]]) -> list[Files]:
    """Data sets whose files of interactions match `pattern`; `companion` gives their name and the other file's.

    place: a folder, or such a file. The other file may be compressed, whatever the first one is.
    """
    paths = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    found = []
    for path in paths:
        if path.is_file() and (match := re.fullmatch(pattern + r"(?:\.gz|\.zst)?", path.name)):
            name, other = companion(match)
            found.append(Files(name, path, existing(path.with_name(other))))
    return found


def existing(path: Path) -> Path:
    """The file, or it compressed; as it is if there is neither."""
    return next((one for end in COMPRESSED if (one := path.with_name(path.name + end)).is_file()), path)
