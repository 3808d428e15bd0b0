"""Which column is the user, the item and the time, and what their cells mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.errors import DataError, some
from longtail.registry import nearest

# Names as `_plain` writes them. The first group wins over the second; two of one group are ambiguous.
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "user": (
        ("userid", "user"),
        ("uid", "reviewerid", "customerid", "customer", "visitorid", "memberid", "accountid", "clientid"),
    ),
    "item": (
        ("itemid", "item"),
        (
            *("iid", "asin", "parentasin", "businessid", "movieid", "productid", "product", "sku"),
            *("articleid", "bookid", "songid", "trackid", "gmapid", "stockcode"),
        ),
    ),
    "timestamp": (
        ("timestamp",),
        ("time", "unixreviewtime", "date", "datetime", "ts", "createdat", "eventtime", "unixtime"),
    ),
}
ITEM_TABLE_ID = ("id",)  # in a table of items, `id` is the item
ISO = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$"
MICROSECONDS = 1_000_000
NO_ID, NO_INTEGER = "have no id", "have an id that is no exact integer"
NO_TIME, TOO_LONG, IMPOSSIBLE = "have no time", "have a time beyond 64 bits", "have an impossible time"
# Other spellings are refused, not guessed: 01/02/2020 is a day in January for some and in February for others.
NO_MOMENT = "have a time that is neither a number nor ISO (2024-05-31 13:45:00)"
PROBLEMS = (NO_ID, NO_INTEGER, NO_TIME, TOO_LONG, IMPOSSIBLE, NO_MOMENT)  # in the order of the checks


class Times(NamedTuple):
    """`order` sorts interactions in time at full precision; `order // unit` is the timestamp to keep."""

    order: pl.Series
    unit: int


class Spelling(IntEnum):
    """How numbers and texts give times. Of the parts of a column, the highest is the column's."""

    INTEGERS = 0
    WHOLE = 1
    FRACTIONS = 2
    ISO = 3


class CellsError(DataError):
    """Cells that cannot be used. rows: of the first few, from 0; count: of all, in a column of `of` rows."""

    def __init__(self, name: str, problem: str, rows: Sequence[int], count: int, of: int, value: object) -> None:
        self.name, self.problem, self.rows, self.count, self.of, self.value = name, problem, rows, count, of, value
        listed = ", ".join(str(row + 1) for row in rows[:5])
        super().__init__(
            f"{name}: {count:,} of {of:,} rows {problem} (rows {listed}{', …' if count > 5 else ''}, counted from 1 "
            f"after any header; the first is {value!r}); drop or mend them"
        )

    @classmethod
    def together(cls, parts: Sequence[tuple[int, CellsError]], of: int) -> CellsError:
        """Those of a column of `of` rows, from its parts and the rows they begin at: of the first check that failed."""
        problem = min((bad.problem for _, bad in parts), key=PROBLEMS.index)
        same = [(start, bad) for start, bad in parts if bad.problem == problem]
        rows = [start + row for start, bad in same for row in bad.rows]
        return cls(same[0][1].name, problem, rows, sum(bad.count for _, bad in same), of, same[0][1].value)


def choose(columns: list[str], role: str, given: str | None, where: str, option: str = "") -> str:
    """The column of `role` ('user', 'item', 'timestamp'): the one `given`, else the one recognised by its name.

    option: the argument that names the column (default: the role). A DataError lists the columns present.
    """
    option = option or role
    present = f"it has {some(columns, limit=20)}"
    if given is not None:
        if given not in columns:
            raise DataError(f"{where} has no column {given!r}{nearest(given, columns)}; {present}")
        return given
    found = recognised(columns, role, extra=ITEM_TABLE_ID if option == "item_id" else ())
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{where}: {some(found)} could each be the {role} column; name one, such as {option}={found[0]!r}"
        )
    raise DataError(
        f"{where} has no column that looks like the {role}; {present}{_closest(columns, role)}; "
        f"name the column: {option}='…'"
    )


def recognised(columns: list[str], role: str, extra: tuple[str, ...] = ()) -> list[str]:
    """The columns whose name is one of the role's names, ignoring case and punctuation."""
    first, second = NAMES[role]
    for names in (first, second + extra):
        found = [column for column in columns if _plain(column) in names]
        if found:
            return found
    return []


def id_column(column: pl.Series, where: str) -> pl.Series:
    """Ids as String or Int64; whole floats become integers. A DataError tells missing and impossible cells."""
    if isinstance(column.dtype, (pl.Categorical, pl.Enum)):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        _refuse(column.is_null() | (column == ""), column, where, NO_ID)
        return column
    if not column.dtype.is_numeric():
        raise DataError(f"{where}: ids of type {column.dtype} cannot be used; make them text or integers")
    column = column.fill_nan(None) if column.dtype.is_float() else column
    _refuse(column.is_null(), column, where, NO_ID)
    whole = column.cast(pl.Int64, strict=False)
    bad = (whole != column).fill_null(True)
    if column.dtype.is_float():
        bad |= column.abs() > 2.0**53  # beyond it a float has lost the last digits
    _refuse(bad, column, where, NO_INTEGER)
    return whole


def spelling(column: pl.Series) -> Spelling:
    """How the cells of a column, or of a part of it, give times; dates and datetimes count as integers."""
    if column.dtype == pl.String:
        for dtype in (pl.Int64, pl.Float64):
            numbers = column.cast(dtype, strict=False)
            if numbers.null_count() == 0:
                return spelling(numbers)
        return Spelling.ISO
    if column.dtype.is_float():
        return Spelling.WHOLE if (column == column.floor()).all() else Spelling.FRACTIONS
    return Spelling.INTEGERS


def times(column: pl.Series, where: str, spelled: Spelling | None = None) -> Times:
    """Moments from integers (kept), floats, dates, datetimes or ISO text (all in seconds since 1970, UTC).

    spelled: of a column of which this is a part; found out if not given.
    """
    spelled = spelling(column) if spelled is None else spelled
    if column.dtype == pl.String:
        return _times_of_text(column, where, spelled)
    if column.dtype.is_float():
        column = column.fill_nan(None)
    _refuse(column.is_null(), column, where, NO_TIME)
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        _refuse(whole.is_null(), column, where, TOO_LONG)
        return Times(whole, 1)
    if column.dtype.is_float():
        return _times_of_floats(column, where, spelled == Spelling.WHOLE)
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        unit = {"ms": 1_000, "us": MICROSECONDS, "ns": 1_000_000_000}[column.dtype.time_unit]
        return Times(column.to_physical(), unit)
    raise DataError(f"{where}: times of type {column.dtype} cannot be used; make them integers or datetimes")


def _times_of_floats(column: pl.Series, where: str, whole: bool) -> Times:
    limit = 2.0**62 if whole else 2.0**62 / MICROSECONDS
    _refuse(~column.is_finite() | (column.abs() > limit), column, where, IMPOSSIBLE)
    if whole:
        return Times(column.cast(pl.Int64), 1)
    return Times((column.cast(pl.Float64) * MICROSECONDS).round().cast(pl.Int64), MICROSECONDS)


def _times_of_text(column: pl.Series, where: str, spelled: Spelling) -> Times:
    _refuse(column.is_null() | (column == ""), column, where, NO_TIME)
    if spelled != Spelling.ISO:
        return times(column.cast(pl.Int64 if spelled == Spelling.INTEGERS else pl.Float64), where, spelled)
    part = pl.col("parts").struct.field
    complete = pl.concat_str(
        part("1"), pl.lit("T"), part("2").fill_null("00:00"), part("3").fill_null(":00"),
        part("4").fill_null("Z").str.replace("Z", "+00:00", literal=True),
    )  # fmt: skip
    moments = (
        column.str.extract_groups(ISO)
        .to_frame("parts")
        .select(complete.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False))
        .to_series()
    )
    _refuse(moments.is_null(), column, where, NO_MOMENT)
    return times(moments, where)


def _refuse(bad: pl.Series, column: pl.Series, where: str, problem: str) -> None:
    if not bad.any():
        return
    rows = np.flatnonzero(bad.to_numpy())
    first = [int(row) for row in rows[:5]]
    raise CellsError(f"{where}, column {column.name!r}", problem, first, len(rows), len(column), column[first[0]])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())  # user_id:token is RecBole's spelling


def _closest(columns: list[str], role: str) -> str:
    names = [name for group in NAMES[role] for name in group]

    def likeness(column: str) -> float:
        return max(SequenceMatcher(None, _plain(column), name).ratio() for name in names)

    best = max(columns, key=likeness, default="")
    return f", of which {best!r} is nearest" if best and likeness(best) >= 0.6 else ""
