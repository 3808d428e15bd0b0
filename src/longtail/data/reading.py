"""From a table of interactions and a table of items to internal ids, and notes on what was found on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from longtail.data.columns import choose, id_column, recognised, times
from longtail.data.ids import IdMap, cast_ids, encode
from longtail.data.tables import Table, typed
from longtail.errors import DataError, some
from longtail.registry import nearest

KEY = "\0id"  # no column of a user's table is called so

Notes = tuple[str, ...]


class Interactions(NamedTuple):
    """rows: user, item (UInt32 internal ids), timestamp (Int64), by user, then time, then order of the source; and
    the columns that are kept, among them what users wrote: review (String, null where there is none)."""

    rows: pl.DataFrame
    users: IdMap
    items: IdMap
    item_column: str


def read_interactions(
    table: Table,
    user: str | None,
    item: str | None,
    timestamp: str | None,
    keep: Sequence[str] = (),
    review: str | None = None,
) -> tuple[Interactions, Notes]:
    """The interactions with ids 1..U and 1..I; columns not given are recognised by their names, but for the review."""
    names = roles(table, user, item, timestamp)
    # One column at a time: the external ids of one are gone before the next is read.
    users, user_codes = encode(id_column(table.column(names[0]), table.name), "user")
    items, item_codes = encode(id_column(table.column(names[1]), table.name), "item")
    check_kept(table, keep)
    kept = {name: typed(table.column(name)) if table.untyped else table.column(name) for name in keep}
    frame = pl.DataFrame({"user": user_codes, "item": item_codes, **kept})
    if review is not None:
        frame = frame.with_columns(
            written(table.column(choose(table.columns, "review", review, table.name)), table.name)
        )
    if len(names) == 2:
        frame = frame.insert_column(2, pl.int_range(frame.height, eager=True).alias("timestamp"))
        return Interactions(frame.sort("user", maintain_order=True), users, items, names[1]), (untimed(table),)
    order, unit = times(table.column(names[2]), table.name)
    frame = frame.insert_column(2, order.alias("timestamp"))
    frame = in_order(frame)
    notes = notes_on_ties(*ties(frame), frame.height)
    if unit != 1:
        frame = frame.with_columns(pl.col("timestamp") // unit)
    return Interactions(frame, users, items, names[1]), notes


def roles(table: Table, user: str | None, item: str | None, timestamp: str | None) -> list[str]:
    """The columns of user and item, and of the time if there is one."""
    names = [choose(table.columns, "user", user, table.name), choose(table.columns, "item", item, table.name)]
    if timestamp is not None or recognised(table.columns, "timestamp"):
        names.append(choose(table.columns, "timestamp", timestamp, table.name))
    if len(set(names)) < len(names):
        raise DataError(f"{table.name}: user, item and timestamp must be different columns, not {some(names)}")
    return names


def no_items() -> str:
    """The note where there is no table of items."""
    return "no item table was given: the items have no text"


def untimed(table: Table) -> str:
    """The note on a table without times."""
    return f"{table.name} has no time column: the order of its rows is taken as the order in time"


def written(column: pl.Series, where: str) -> pl.Series:
    """What users wrote, as `review`: in one line each, null where there is nothing. A DataError if it is no text."""
    check_written(column.dtype, column.name, where)
    text = column.cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
    return text.set(text == "", None).alias("review")


def check_written(dtype: pl.DataType, column: str, where: str) -> None:
    """A DataError if a column is no text."""
    if not isinstance(dtype, (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise DataError(f"{where}: column {column!r} is {dtype}, not what users wrote; name a column of texts")


def check_kept(table: Table, keep: Sequence[str]) -> None:
    """A DataError if the table lacks a column to keep, or it cannot be called so."""
    for name in keep:
        if name not in table.columns:
            raise DataError(f"keep: {table.name} has no column {name!r}{nearest(name, table.columns)}")
        if name in {"user", "item", "timestamp"}:
            raise DataError(f"keep: a column cannot be kept as {name!r}, which is read already; rename it")


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Interactions by user, then time, then as they are."""
    # Two stable sorts of one column each take half the time of one sort by both.
    return frame.sort("timestamp", maintain_order=True).sort("user", maintain_order=True)


def ties(frame: pl.DataFrame) -> tuple[int, int]:
    """How many sorted interactions share user and time with another, and how many repeat another in item too."""
    same = (pl.col("user") == pl.col("user").shift()) & (pl.col("timestamp") == pl.col("timestamp").shift())
    same = same.fill_null(False)
    tied = frame.filter(same | same.shift(-1, fill_value=False))
    return tied.height, tied.height - tied.n_unique(["user", "item", "timestamp"]) if tied.height else 0


def notes_on_ties(tied: int, repeats: int, of: int) -> Notes:
    """What is to be known of `ties` among so many interactions."""
    notes = [
        f"{tied:,} of {of:,} interactions share user and time with another; "
        "among themselves they keep the order of the source",
        f"{repeats:,} interactions repeat another in user, item and time; they are kept",
    ]
    return tuple(note for note, count in zip(notes, (tied, repeats), strict=True) if count)


def read_items(
    table: Table, items: IdMap, item_id: str | None, like: str
) -> tuple[pl.DataFrame, tuple[str | int, ...], Notes]:
    """(I rows) the item table's columns but the id, in the order of the internal ids, null where it has no row.

    Besides, the ids of its rows that are nowhere in the interactions.

    like: the interactions' item column; a column of that name is the id when item_id is not given.
    """
    if item_id is None and like in table.columns:
        item_id = like
    column = choose(table.columns, "item", item_id, table.name, option="item_id")
    frame = table.read(text={column})
    ids, notes = _same_type(id_column(frame[column], table.name), items, table.name)
    repeated = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        raise DataError(f"{table.name} has several rows for item {some(repeated.to_list())}; keep one row an item")
    frame = frame.drop(column).insert_column(0, ids.alias(KEY))
    known = items.contains(ids)
    if not known.all():
        notes += (f"{(~known).sum():,} items of {table.name} occur in no interaction; they are left out",)
    missing = items.ids.filter(~items.ids.is_in(ids.implode()))
    if len(missing):
        notes += (f"{len(missing):,} of {len(items):,} items have no row in {table.name}: {some(missing.to_list())}",)
    text = items.ids.to_frame(KEY).join(frame, on=KEY, how="left", maintain_order="left").drop(KEY)
    return text, tuple(ids.filter(~pl.Series(known)).to_list()), notes


def _same_type(ids: pl.Series, items: IdMap, where: str) -> tuple[pl.Series, Notes]:
    """The item table's ids in the type of the interactions' ids; a DataError if they do not fit together."""
    cast = cast_ids(ids, items.ids.dtype)
    kinds = {pl.String: "text", pl.Int64: "numbers"}
    kind, wanted = (kinds[type(series.dtype)] for series in (ids, items.ids))
    clash = (
        f"item ids are {kind} in {where} (such as {ids[0]!r}) and {wanted} in the interactions "
        f"(such as {items.ids[0]!r})"
    )
    if cast.null_count():
        broken = ids.filter(cast.is_null())
        raise DataError(f"{clash}, and {some(broken.to_list())} cannot be made {wanted}; write both the same way")
    if not items.contains(cast).any():
        raise DataError(f"{clash}, and no id is in both; check that item_id names the right column")
    if kind == wanted:
        return cast, ()
    return cast, (f"item ids are {kind} in {where} and {wanted} in the interactions: read as {wanted}",)
