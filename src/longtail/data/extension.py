"""A data set and what came after it, joined: new users, items and interactions, old ones found again by external id."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data.columns import choose, id_column, recognised
from longtail.data.dataset import Dataset
from longtail.data.histories import BoolArray, IntArray
from longtail.data.ids import IdMap, cast_ids
from longtail.data.reading import read_items
from longtail.data.tables import Source, Table, open_table
from longtail.errors import DataError, some
from longtail.registry import nearest

INTERACTIONS, ITEMS = "the new interactions", "the new items"  # what data frames are called in messages


class Columns(NamedTuple):
    """Of the new tables; each is recognised by its usual names when not given, but for the review."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    item_id: str | None = None
    review: str | None = None


class Extension(NamedTuple):
    """data: old and new, as if both had been read at once. users (U_old + 1,), items (I_old + 1,): the internal ids
    there of the old ones, 0 of 0. origin: (n,) the row of each of its interactions among the old and then the new ones,
    of which the first `known` are old."""

    data: Dataset
    users: IntArray
    items: IntArray
    origin: IntArray
    known: int

    @property
    def fresh(self) -> BoolArray:
        """(n,) which interactions are new."""
        return self.origin >= self.known


def extend(
    old: Dataset, interactions: Source, items: Source | None = None, columns: Columns | None = None
) -> Extension:
    """`old` with a table of later interactions, and a table of items that it does not know, if there are any.

    Items of that table join the catalogue whether or not anybody touched them; of those that are known already the
    text stays as it is. Without a time column the interactions come after all that is known. A DataError if some are
    there already, if one is older than what its user did last, if ids are of another kind than before, or if the
    table of items has columns that the old one had not.
    """
    columns = columns or Columns()
    new, table = _read(old, interactions, columns), None if items is None else open_table(items, ITEMS)
    listed = [] if table is None else [_listed(table, columns)]
    all_users = _united(old.users, [new.users.ids], INTERACTIONS)
    all_items = _united(old.items, [new.items.ids, *listed], INTERACTIONS if table is None else table.name)
    rows = [_renumbered(data, all_users, all_items) for data in (old, new)]
    _check(rows[0], rows[1], all_users, all_items)
    joined = pl.concat(rows, how="vertical")
    order = np.argsort(joined["user"].to_numpy(), kind="stable")  # each part is in the order of time already
    text, notes = _text(old, all_items, table, columns)
    data = Dataset(joined[order], all_users, all_items, text, old.name, (*old.notes, *new.notes, *notes))
    users, known = (
        np.concatenate([[0], union.internal(was.ids)])
        for union, was in ((all_users, old.users), (all_items, old.items))
    )
    return Extension(data, users, known, order, len(rows[0]))


def _read(old: Dataset, interactions: Source, columns: Columns) -> Dataset:
    """The new interactions by themselves, their times after all others if they have none."""
    names = {"user": columns.user, "item": columns.item, "timestamp": columns.timestamp}
    kept = [name for name in old.interactions.columns if name not in {"user", "item", "timestamp", "review"}]
    review = (columns.review or "review") if "review" in old.interactions.columns else None
    new = Dataset.read(interactions, **names, keep=kept, review=review, name=old.name)
    table = open_table(interactions, INTERACTIONS)
    new = Dataset(new.interactions, new.users, new.items, new.text, new.name)  # its notes are of a table by itself
    if columns.timestamp or recognised(table.columns, "timestamp"):
        return new
    after = pl.col("timestamp") + int(old.interactions["timestamp"].max()) + 1  # type: ignore[arg-type]
    note = f"{table.name} has no time column: its rows come after all that was known, in their order"
    return Dataset(new.interactions.with_columns(after), new.users, new.items, new.text, new.name, (note,))


def _listed(table: Table, columns: Columns) -> pl.Series:
    """The ids in a table of items."""
    column = choose(table.columns, "item", columns.item_id, table.name, option="item_id")
    return id_column(table.column(column), table.name)


def _united(known: IdMap, more: list[pl.Series], where: str) -> IdMap:
    """All ids in ascending order; a DataError if new ones cannot be of the type of those before."""
    found = [known.ids.rename("id")]
    for ids in more:
        cast = cast_ids(ids, known.ids.dtype)
        if cast.null_count():
            raise DataError(
                f"{known.noun} ids such as {some(ids.filter(cast.is_null()).to_list())} of {where} are no numbers, as "
                f"those before are (such as {known.ids[0]!r}); write both the same way"
            )
        found.append(cast.rename("id"))
    return IdMap(pl.concat(found).unique().sort(), known.noun)


def _renumbered(data: Dataset, users: IdMap, items: IdMap) -> pl.DataFrame:
    """Its interactions with the internal ids of the joined data."""
    maps = {"user": (users, data.users), "item": (items, data.items)}
    codes = {
        name: np.concatenate([[0], union.internal(was.ids)]).astype(np.uint32)[data.interactions[name].to_numpy()]
        for name, (union, was) in maps.items()
    }
    return data.interactions.with_columns(pl.Series(name, code) for name, code in codes.items())


def _check(old: pl.DataFrame, new: pl.DataFrame, users: IdMap, items: IdMap) -> None:
    """A DataError if new interactions are there already, or come before what their user did last."""
    same, total = new.join(old, on=["user", "item", "timestamp"], how="semi"), new.height
    if len(same):
        first = f"user {users.ids[same['user'][0] - 1]!r}, item {items.ids[same['item'][0] - 1]!r}"
        whole = "nothing is new" if len(same) == total else "leave them out"
        raise DataError(
            f"{len(same):,} of {total:,} new interactions are in the run's data already ({first}, time "
            f"{same['timestamp'][0]}): {whole}; give the interactions that came after"
        )
    last = old.group_by("user").agg(pl.col("timestamp").max().alias("last"))
    early = new.join(last, on="user").filter(pl.col("timestamp") < pl.col("last"))
    if len(early):
        user, time, known = (early[name][0] for name in ("user", "timestamp", "last"))
        raise DataError(
            f"{len(early):,} of {total:,} new interactions are older than what their users did last (user "
            f"{users.ids[user - 1]!r}: {time} before {known}): an update only adds to the end of histories; leave them "
            "out, or fit again on all data"
        )


def _text(old: Dataset, items: IdMap, table: Table | None, columns: Columns) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """(I rows) the old text where an item was known, the new table's where not; and notes."""
    stays = pl.Series(old.items.find(items.ids))
    before = old.text[(stays - 1).clip(lower_bound=0)].select(pl.when(stays > 0).then(pl.all()))
    if table is None:
        return before, _lacking(items, stays > 0, INTERACTIONS)
    column = choose(table.columns, "item", columns.item_id, table.name, option="item_id")
    if unknown := [name for name in table.columns if name != column and name not in old.text.columns]:
        raise DataError(
            f"{table.name} has a column {unknown[0]!r}{nearest(unknown[0], old.text.columns)} that the run's items "
            f"have not (they have {some(old.text.columns)}); rename it or leave it out"
        )
    found, _, _ = read_items(table, items, column, column)
    chosen = [pl.when(stays > 0).then(before[name]).otherwise(_as(found, name, dtype, table.name)).alias(name)
              for name, dtype in old.text.schema.items()]  # fmt: skip
    given = items.ids.is_in(cast_ids(_listed(table, columns), items.ids.dtype).implode())
    return before.select(chosen), _lacking(items, given | (stays > 0), table.name)


def _as(found: pl.DataFrame, name: str, dtype: pl.DataType, where: str) -> pl.Series:
    """A column in the type it had before, null if it is missing; a DataError where its values cannot be."""
    if name not in found.columns:
        return pl.Series(name, [None] * found.height, dtype=dtype)
    cast = found[name].cast(dtype, strict=False)
    if cast.null_count() > found[name].null_count():
        bad = found[name].filter(cast.is_null() & found[name].is_not_null())
        raise DataError(f"{where}, column {name!r}: {bad[0]!r} is no {dtype}, as the run's items have; mend it")
    return cast


def _lacking(items: IdMap, given: pl.Series, where: str) -> tuple[str, ...]:
    """A note of the new items without a row of text."""
    missing = items.ids.filter(~given).to_list()
    return (f"{len(missing):,} new items have no row in {where}, so no text: {some(missing)}",) if missing else ()
