"""Interactions of a file as internal ids and times, kept in files: the first half of preparing a table in parts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data import memory
from longtail.data.columns import Spelling, choose, id_column, spelling, times
from longtail.data.distinct import Encoder, TooManyError, checked, distinct, need
from longtail.data.histories import IntArray
from longtail.data.opening import DataConfig
from longtail.data.reading import check_kept, check_written, roles, written
from longtail.data.tables import Kind, Table, kind_of, open_table, typed
from longtail.terminal import watched

MOST, FEWEST = 2_000_000, 5_000  # rows that are read together
GROUPS = 32  # of rows in a file of codes that are read or skipped together


class Columns(NamedTuple):
    """Which columns are read as what; time and review where there are any."""

    user: str
    item: str
    time: str | None
    keep: tuple[str, ...]
    review: str | None

    @classmethod
    def of(cls, table: Table, config: DataConfig) -> Columns:
        """Those that a config names, or that are recognised; a DataError as `read_interactions` has it."""
        user, item, *time = roles(table, config.user, config.item, config.timestamp)
        check_kept(table, config.keep)
        review = None
        if config.review is not None:
            review = choose(table.columns, "review", config.review, table.name)
            check_written(table.frame.collect_schema()[review], review, table.name)
        return cls(user, item, time[0] if time else None, tuple(config.keep), review)

    @property
    def all(self) -> list[str]:
        """Each once."""
        given = (self.user, self.item, self.time, *self.keep, self.review)
        return list(dict.fromkeys(column for column in given if column is not None))


class Budget(NamedTuple):
    """How much memory may be used: limit, all of the process; base, what it held before. width: bytes of a row."""

    limit: int
    base: int
    width: float

    @classmethod
    def of(cls, table: Table, columns: Columns, limit: int) -> Budget:
        """A DataError if so little is left that nothing can be read."""
        base = memory.resident()
        if limit - base < memory.LEAST:
            raise memory.too_little(limit, base + memory.LEAST, f"reading {table.name}")
        return cls(limit, base, memory.width(table, columns.all))

    @property
    def room(self) -> int:
        """What can be filled."""
        return self.limit - self.base

    @property
    def batch(self) -> int:
        """Rows that are read together: a third of the room is theirs."""
        return self.rows(self.room / 3)

    def rows(self, size: float) -> int:
        """Rows that are worked on in so many bytes."""
        return int(min(max(size / (memory.ROW + memory.COPIES * self.width), FEWEST), MOST))


class Codes(NamedTuple):
    """files: user, item, timestamp and kept columns, each sorted by the user and then as the source is.

    users, items: files of the external ids. lengths: (U + 1,) interactions of each user. counts: (I + 1,) of each item.
    unit: what the times are divided by when they are sorted.
    """

    files: list[Path]
    users: Path
    items: Path
    lengths: IntArray
    counts: IntArray
    unit: int


def write_codes(table: Table, columns: Columns, budget: Budget, folder: Path) -> Codes:
    """Read a file twice or three times, a part at a time; what is written lies in `folder`."""
    source = table
    if Path(table.name).suffix.lower() != ".parquet":
        table.sink(columns.all, folder / "source.parquet")
        source = Table(open_table(folder / "source.parquet").frame, table.name, columns.all, table.untyped)
    users, user_codes = _ids(source, columns.user, "user", budget, 0, folder)
    items, item_codes = _ids(source, columns.item, "item", budget, len(user_codes.hashes), folder)
    spelled, kinds = _kinds(source, columns, budget)
    files, units = list[Path](), set[int]()
    lengths, counts = (np.zeros(len(known.hashes) + 1, np.int64) for known in (user_codes, item_codes))

    def encoded(start: int, batch: pl.DataFrame) -> pl.DataFrame:
        found = {"user": user_codes.encode(id_column(batch[columns.user], table.name))}
        found["item"] = item_codes.encode(id_column(batch[columns.item], table.name))
        order = pl.int_range(start, start + batch.height, eager=True)
        if columns.time is not None:
            order, unit = times(batch[columns.time], table.name, spelled)
            units.add(unit)
        kept = {name: typed(batch[name], kinds[name]) if name in kinds else batch[name] for name in columns.keep}
        frame = pl.DataFrame({**found, "timestamp": order, **kept})
        if columns.review is not None:
            frame = frame.with_columns(written(batch[columns.review], table.name))
        return frame.sort("user", maintain_order=True)

    with watched("encoding interactions", _height(source)) as advance:
        for frame in checked(source.batches(columns.all, budget.batch), encoded, advance):
            files.append(folder / f"codes-{len(files)}.parquet")
            frame.write_parquet(files[-1], compression="lz4", row_group_size=-(-frame.height // GROUPS))
            lengths += np.bincount(frame["user"], minlength=len(lengths))
            counts += np.bincount(frame["item"], minlength=len(counts))
    (folder / "source.parquet").unlink(missing_ok=True)
    return Codes(files, users, items, lengths, counts, units.pop() if units else 1)


def _ids(table: Table, column: str, noun: str, budget: Budget, others: int, folder: Path) -> tuple[Path, Encoder]:
    """The file of a column's different ids, in ascending order, and what gives their internal ids.

    others: ids of another column that are held already.
    """
    taken = budget.room / 3 + others * memory.CODE
    with watched(f"ids of {noun}s", _height(table)) as advance:
        cells = table.batches([column], budget.batch)
        parts = checked(cells, lambda _, batch: id_column(batch[column], table.name), advance)
        try:
            ids = distinct(parts, budget.room - taken)
        except TooManyError as many:
            twice = need(2 * many.ids + budget.batch, many.size)  # two sets of them become one
            least = budget.base + 1.5 * (1.05 * twice + others * memory.CODE)
            raise memory.too_little(budget.limit, least, f"the ids of about {many.ids:,} {noun}s") from None
    path = folder / f"{noun}s.parquet"
    ids.to_frame().write_parquet(path)
    return path, Encoder.of(ids)


def _kinds(table: Table, columns: Columns, budget: Budget) -> tuple[Spelling, dict[str, Kind]]:
    """How times are spelled, and what the kept columns of a text file say: known when all of it is read."""
    spelled, kinds = Spelling.INTEGERS, dict.fromkeys(columns.keep if table.untyped else (), Kind.NOTHING)
    schema = table.frame.collect_schema()
    asked = [*kinds]
    if columns.time is not None and (schema[columns.time] == pl.String or schema[columns.time].is_float()):
        asked.append(columns.time)
    if not asked:
        return spelled, kinds
    with watched("kinds of columns", _height(table)) as advance:
        for _, batch in table.batches(list(dict.fromkeys(asked)), budget.batch):
            if columns.time in batch.columns:
                spelled = max(spelled, spelling(batch[columns.time]))
            kinds = {name: max(kind, kind_of(batch[name])) for name, kind in kinds.items()}
            advance(batch.height)
    return spelled, kinds


def _height(table: Table) -> int:
    return int(table.frame.select(pl.len()).collect().item())
