"""Which column is the user, the item and the time, and what their cells mean."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
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


class Times(NamedTuple):
    """`order` sorts interactions in time at full precision; `order // unit` is the timestamp to keep."""

    order: pl.Series
    unit: int


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
        _refuse(column.is_null() | (column == ""), column, where, "have no id")
        return column
    if not column.dtype.is_numeric():
        raise DataError(f"{where}: ids of type {column.dtype} cannot be used; make them text or integers")
    column = column.fill_nan(None) if column.dtype.is_float() else column
    _refuse(column.is_null(), column, where, "have no id")
    whole = column.cast(pl.Int64, strict=False)
    bad = (whole != column).fill_null(True)
    if column.dtype.is_float():
        bad |= column.abs() > 2.0**53  # beyond it a float has lost the last digits
    _refuse(bad, column, where, "have an id that is no exact integer")
    return whole


def times(column: pl.Series, where: str) -> Times:
    """Moments from integers (kept), floats, dates, datetimes or ISO text (all in seconds since 1970, UTC)."""
    if column.dtype == pl.String:
        return _times_of_text(column, where)
    if column.dtype.is_float():
        column = column.fill_nan(None)
    _refuse(column.is_null(), column, where, "have no time")
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        _refuse(whole.is_null(), column, where, "have a time beyond 64 bits")
        return Times(whole, 1)
    if column.dtype.is_float():
        return _times_of_floats(column, where)
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        unit = {"ms": 1_000, "us": MICROSECONDS, "ns": 1_000_000_000}[column.dtype.time_unit]
        return Times(column.to_physical(), unit)
    raise DataError(f"{where}: times of type {column.dtype} cannot be used; make them integers or datetimes")


def _times_of_floats(column: pl.Series, where: str) -> Times:
    whole = bool((column == column.floor()).all())
    limit = 2.0**62 if whole else 2.0**62 / MICROSECONDS
    _refuse(~column.is_finite() | (column.abs() > limit), column, where, "have an impossible time")
    if whole:
        return Times(column.cast(pl.Int64), 1)
    return Times((column.cast(pl.Float64) * MICROSECONDS).round().cast(pl.Int64), MICROSECONDS)


def _times_of_text(column: pl.Series, where: str) -> Times:
    _refuse(column.is_null() | (column == ""), column, where, "have no time")
    for dtype in (pl.Int64, pl.Float64):
        numbers = column.cast(dtype, strict=False)
        if numbers.null_count() == 0:
            return times(numbers, where)
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
    # Other spellings are refused, not guessed: 01/02/2020 is a day in January for some and in February for others.
    _refuse(moments.is_null(), column, where, "have a time that is neither a number nor ISO (2024-05-31 13:45:00)")
    return times(moments, where)


def _refuse(bad: pl.Series, column: pl.Series, where: str, problem: str) -> None:
    if not bad.any():
        return
    rows = np.flatnonzero(bad.to_numpy())
    value = column[int(rows[0])]
    raise DataError(
        f"{where}, column {column.name!r}: {len(rows):,} of {len(column):,} rows {problem} "
        f"(rows {', '.join(str(row + 1) for row in rows[:5])}{', …' if len(rows) > 5 else ''}, counted from 1 "
        f"after any header; the first is {value!r}); drop or mend them"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())  # user_id:token is RecBole's spelling


def _closest(columns: list[str], role: str) -> str:
    names = [name for group in NAMES[role] for name in group]

    def likeness(column: str) -> float:
        return max(SequenceMatcher(None, _plain(column), name).ratio() for name in names)

    best = max(columns, key=likeness, default="")
    return f", of which {best!r} is nearest" if best and likeness(best) >= 0.6 else ""
