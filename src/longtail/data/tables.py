"""Tables from files and data frames: CSV, TSV, NDJSON, Parquet, Arrow, polars, pandas."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, TypeAlias

import polars as pl

from longtail.data.lines import Reader
from longtail.data.records import json_record
from longtail.errors import DataError


class ArrowTable(Protocol):
    """Whatever offers the Arrow C stream: a pandas data frame, a pyarrow table, and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Source: TypeAlias = "str | Path | pl.DataFrame | pl.LazyFrame | ArrowTable"

# Text files are scanned as text: guessing a column's type would turn the id '00123' into 123.
SCANS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".csv": lambda path: pl.scan_csv(path, infer_schema=False, glob=False),
    ".tsv": lambda path: pl.scan_csv(path, infer_schema=False, glob=False, separator="\t"),
    ".tab": lambda path: pl.scan_csv(path, infer_schema=False, glob=False, separator="\t"),
    ".parquet": lambda path: pl.scan_parquet(path, glob=False),
    ".jsonl": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".arrow": pl.scan_ipc,
    ".feather": pl.scan_ipc,
    ".ipc": pl.scan_ipc,
}


SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
NDJSON = (".jsonl", ".ndjson")
STORED = 2**17  # rows of a Parquet file that are written, and read, together


@dataclass(frozen=True, eq=False)
class Table:
    """A table that is read column by column, so that a large one never stands in memory whole.

    name: the path, or what the data frame is for, as messages call it. untyped: every column of it is text.
    """

    frame: pl.LazyFrame
    name: str
    columns: list[str]
    untyped: bool = False

    def column(self, name: str) -> pl.Series:
        """One column as it is in the source."""
        with _reading(self.name):
            return self.frame.select(name).collect().to_series()

    def read(self, text: Collection[str] = ()) -> pl.DataFrame:
        """All columns. Of a text file, a column that is numbers throughout becomes numbers, unless it is in `text`."""
        with _reading(self.name):
            whole = self.frame.collect()
        if not self.untyped:
            return whole
        return whole.select(column if column.name in text else typed(column) for column in whole)

    def sink(self, columns: Collection[str], path: Path) -> None:
        """Write some columns to a Parquet file, as they are, a few rows at a time."""
        with _reading(self.name):
            self.frame.select(columns).sink_parquet(path, compression="lz4", row_group_size=STORED)

    def batches(self, columns: Collection[str], rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        """Some columns, so many rows at a time, and the row that each part begins at. For a Parquet file."""
        with _reading(self.name):
            height = int(self.frame.select(pl.len()).collect().item())
            for start in range(0, height, rows):
                yield start, self.frame.select(columns).slice(start, rows).collect()


def open_table(source: Source, what: str = "table") -> Table:
    """A file or data frame, not read yet. A DataError if there is no such file, or nothing in it.

    what: what a data frame is called in messages, such as 'the interactions'.
    """
    if isinstance(source, (str, Path)):
        table = _open_file(Path(source))
    else:
        frame = _frame(source, what)
        table = Table(frame.lazy(), what, frame.columns)
    with _reading(table.name):
        empty = table.frame.head(1).collect().is_empty()
    if empty:
        raise DataError(f"{table.name} has no rows; check that it is the right table")
    return table


def read_table(source: Source) -> pl.DataFrame:
    """A whole table. A DataError names the file if it is missing, of unknown kind, unreadable or empty."""
    return open_table(source).read()


def is_table(path: Path) -> bool:
    """Whether a file is, by its name, of a kind that can be read as a table."""
    return path.is_file() and _kind(path) in SCANS


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in {".gz", ".zst"}]
    return suffixes[-1] if suffixes else ""


def _open_file(path: Path) -> Table:
    if not path.is_file():
        reason = "is a folder, not a table" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {reason}; check the path")
    suffix = _kind(path)
    if suffix not in SCANS:
        known = ", ".join(SCANS)
        raise DataError(f"{path}: unknown kind of table {suffix!r}; known: {known} (rename or convert the file)")
    with _reading(str(path)):
        frame = SCANS[suffix](path)
        columns = frame.collect_schema().names()
    return Table(frame, str(path), columns, untyped=suffix in SEPARATORS)


def _frame(source: pl.DataFrame | pl.LazyFrame | ArrowTable, what: str) -> pl.DataFrame:
    if isinstance(source, pl.DataFrame):
        return source
    with _reading(what):
        if isinstance(source, pl.LazyFrame):
            return source.collect()  # once: a query may give its rows in another order the next time
        if type(source).__module__.partition(".")[0] == "pandas":
            try:
                return pl.from_pandas(source)
            except (ValueError, TypeError) as error:  # so Arrow calls a column of several kinds of values
                raise DataError(f"cannot read {what}: {error}; give every column values of one kind") from None
        if hasattr(source, "__arrow_c_stream__"):
            return pl.DataFrame(source)
    raise DataError(f"{what} cannot be a {type(source).__name__}; pass a path or a polars, pandas or Arrow table")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"{name} is empty; check that it is the right table") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = _bad_line(Path(name)) or str(error).partition("\n")[0]
        raise DataError(
            f"cannot read {name}: {reason}; check that the file is whole and of the kind it says"
        ) from error


def _bad_line(path: Path) -> str:
    """The first line that keeps a text file from being a table; '' if none is found, or it is no text file."""
    separator = SEPARATORS.get(_kind(path))
    if not path.is_file() or (separator is None and _kind(path) not in NDJSON):
        return ""
    try:
        if separator is None:
            deque(Reader().rows(path, json_record), maxlen=0)
            return ""
        lines = (line for block in Reader().rows(path, str) for line in block)
        records = csv.reader(lines, delimiter=separator)
        width = len(next(records, []))
        wide = next((len(record) for record in records if len(record) > width), 0)
    except (DataError, csv.Error) as error:
        return str(error).removeprefix(f"{path}: ").partition("; or skip")[0]
    return f"line {records.line_num:,} (without blank ones) has {wide} fields, the header {width}" if wide else ""


class Kind(IntEnum):
    """What a column of text says. Of the parts of a column, the highest is the column's."""

    NOTHING = 0
    INTEGERS = 1
    NUMBERS = 2
    TEXTS = 3


def kind_of(column: pl.Series) -> Kind:
    """Whether every value of a column of text, or of a part of it, is a number, written the usual way."""
    if column.null_count() == len(column):
        return Kind.NOTHING
    whole = column.cast(pl.Int64, strict=False)
    if whole.null_count() == column.null_count() and (whole.cast(pl.String) == column).all():
        return Kind.INTEGERS
    number = column.cast(pl.Float64, strict=False)
    plain = column.str.contains(r"^-?(0|[1-9]\d*)(\.\d+)?$").all()
    return Kind.NUMBERS if plain and number.null_count() == column.null_count() else Kind.TEXTS


def typed(column: pl.Series, kind: Kind | None = None) -> pl.Series:
    """A column of text as Int64 or Float64 if every value of it is such a number, written the usual way.

    kind: of a column of which this is a part; found out if not given.
    """
    kind = kind_of(column) if kind is None else kind
    if kind in {Kind.INTEGERS, Kind.NUMBERS}:
        return column.cast(pl.Int64 if kind == Kind.INTEGERS else pl.Float64)
    return column
