"""Preparing a table larger than memory: the folder that `Dataset.save` writes, made a part at a time.

The external ids are collected in one pass, and internal ids and times written to files in a second (`codes`); the
filter counts over those; then each part of the users is sorted, filtered and written. What stands in memory is the ids,
a few numbers for each of them, and one part.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data import memory
from longtail.data.codes import Budget, Codes, Columns, write_codes
from longtail.data.dataset import TABLES, hash_of, name_of, with_ids, write_folder
from longtail.data.description import description, filter_reason, note_on_kept, nothing_left, repeats
from longtail.data.histories import BoolArray, IntArray
from longtail.data.ids import IdMap
from longtail.data.opening import DataConfig, refuse_bad_lines
from longtail.data.reading import Notes, in_order, no_items, notes_on_ties, read_items, ties, untimed
from longtail.data.tables import Table, open_table
from longtail.files import claim, scratch
from longtail.terminal import watched

GROUP = 2**18  # rows that are stored together in the end, as by Dataset.save, unless they are long
log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """What there is to say of a prepared folder, as a Dataset has it; figures: what `Dataset.describe` gives."""

    name: str
    notes: Notes
    figures: dict[str, int | float]


class Kept(NamedTuple):
    """What a filter keeps: users (U + 1,) and items (I + 1,), and how many interactions of each are left."""

    users: BoolArray
    items: BoolArray
    lengths: IntArray
    counts: IntArray


class Parts(NamedTuple):
    """files: interactions as they are saved, in order. tied, same: `ties`. repeats: of a user's items."""

    files: list[Path]
    tied: int
    same: int
    repeats: int


def prepare(config: DataConfig, out: Path, limit: int) -> Prepared:
    """Read and filter a table in a file into the folder `out`, within `limit` bytes of memory if that can be.

    A DataError says what cannot be used, and how much memory it takes if `limit` is too little for the ids alone.
    """
    refuse_bad_lines(config)
    table = open_table(config.interactions, "the interactions")
    columns = Columns.of(table, config)
    budget = Budget.of(table, columns, limit)
    claim(out, "dataset.json", TABLES)
    with scratch(out) as folder:
        codes = write_codes(table, columns, budget, folder)
        text, notes = _text(config, codes, columns)
        kept = _filter(codes, config.min_user, config.min_item, config.repeat)
        parts = _sort(codes, kept, budget, text, folder)
        total = int(codes.lengths.sum())
        notes = (*_on_order(table, columns, parts, total), *notes)
        lengths, counts = (codes.lengths, codes.counts) if kept is None else (kept.lengths, kept.counts)
        users, items = _left(codes.users, lengths), _left(codes.items, counts)
        text = text.filter(pl.Series(counts[1:] > 0))
        if kept is not None:
            left = (len(users), len(lengths) - 1), (len(items), len(counts) - 1), (int(lengths.sum()), total)
            notes += (note_on_kept(filter_reason(config.min_user, config.min_item, config.repeat), *left),)
        name = name_of(config.interactions)
        frames = users.to_frame("user_id"), with_ids(text, items)
        write_folder(
            out,
            name,
            notes,
            [
                lambda path: _join(parts.files, path, min(GROUP, budget.batch)),
                *(frame.write_parquet for frame in frames),
            ],
            lambda paths: hash_of(pl.scan_parquet(paths[0], glob=False), users, items, text),
        )
    return Prepared(name, notes, description(lengths[lengths > 0], counts[counts > 0], parts.repeats, text))


def bound(config: DataConfig) -> int | None:
    """Bytes to prepare a table in a file within, if it would not fit into the memory that is available; else None."""
    free, path = memory.available(), Path(config.interactions)
    if free is None:
        return None
    table = open_table(path)
    takes = memory.whole(table, path, [name for name in table.columns if name in {*config.keep, config.review}])
    if takes <= memory.SHARE * free:
        return None
    limit = int(memory.SHARE * free)
    log.warning(
        "%s would take about %s of memory, of which %s are free: it is prepared a part at a time, within %s",
        path, memory.shown(takes), memory.shown(free), memory.shown(limit),
    )  # fmt: skip
    return limit


def _text(config: DataConfig, codes: Codes, columns: Columns) -> tuple[pl.DataFrame, Notes]:
    """What is known of all items, and the notes on it."""
    ids = pl.read_parquet(codes.items, glob=False)["id"]
    if config.items is None:
        return ids.to_frame().drop("id"), (no_items(),)
    text, _, notes = read_items(open_table(config.items, "the items"), IdMap(ids, "item"), config.item_id, columns.item)
    return text, notes


def _on_order(table: Table, columns: Columns, parts: Parts, total: int) -> Notes:
    return (untimed(table),) if columns.time is None else notes_on_ties(parts.tied, parts.same, total)


def _left(path: Path, counts: IntArray) -> pl.Series:
    """The external ids that have interactions left."""
    return pl.read_parquet(path, glob=False)["id"].filter(pl.Series(counts[1:] > 0))


def _join(files: list[Path], path: Path, rows: int) -> None:
    pl.scan_parquet(files, glob=False).sink_parquet(path, row_group_size=rows)


def _filter(codes: Codes, min_user: int, min_item: int, repeat: bool) -> Kept | None:
    """What `Dataset.filter` keeps; None if that is everything. Counts only fall, so who is out stays out."""
    least = min_user, min_item
    users, items = (count >= few for count, few in zip((codes.lengths, codes.counts), least, strict=True))
    if users[1:].all() and items[1:].all():
        return None
    while True:
        kept = Kept(users, items, *_count(codes, users, items))
        if not kept.lengths.any():
            raise nothing_left(*least, codes.lengths[1:], codes.counts[1:])
        enough = kept.lengths >= min_user, kept.counts >= min_item
        if not repeat or ((enough[0] | (kept.lengths == 0)).all() and (enough[1] | (kept.counts == 0)).all()):
            return kept
        users, items = users & enough[0], items & enough[1]


def _count(codes: Codes, users: BoolArray, items: BoolArray) -> tuple[IntArray, IntArray]:
    """(U + 1,) and (I + 1,) interactions between those users and items that are kept."""
    lengths, counts = np.zeros_like(codes.lengths), np.zeros_like(codes.counts)
    with watched("filtering", len(codes.files)) as advance:
        for file in codes.files:
            rows = pl.read_parquet(file, columns=["user", "item"], glob=False)
            user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
            keep = users[user] & items[item]
            lengths += np.bincount(user[keep], minlength=len(lengths))
            counts += np.bincount(item[keep], minlength=len(counts))
            advance(1)
    return lengths, counts


def _sort(codes: Codes, kept: Kept | None, budget: Budget, text: pl.DataFrame, folder: Path) -> Parts:
    """Interactions by user and time, filtered and renumbered, in files of some users each."""
    held = memory.CODE * (len(codes.lengths) + len(codes.counts)) + text.estimated_size()
    rows = budget.rows((budget.room - held) / 2)
    begins = codes.lengths.cumsum() - codes.lengths
    firsts = np.flatnonzero(np.diff(begins[1:] // rows, prepend=-1)) + 1
    made = Parts([], 0, 0, 0)
    source = pl.scan_parquet(codes.files, glob=False)
    numbers = None if kept is None else [np.cumsum(left > 0, dtype=np.uint32) for left in (kept.lengths, kept.counts)]
    with watched("sorting interactions", len(firsts)) as advance:
        for first, last in zip(firsts, [*firsts[1:] - 1, len(codes.lengths) - 1], strict=True):
            part = in_order(source.filter(pl.col("user").is_between(int(first), int(last))).collect())
            tied, same = ties(part)
            if codes.unit != 1:
                part = part.with_columns(pl.col("timestamp") // codes.unit)
            if kept is not None and numbers is not None:
                user, item = part["user"].to_numpy(), part["item"].to_numpy()
                part = part.filter(pl.Series(kept.users[user] & kept.items[item]))
                part = part.with_columns(
                    pl.Series(column, new[part[column]]) for column, new in zip(("user", "item"), numbers, strict=True)
                )
            again = repeats(part["user"].to_numpy(), part["item"].to_numpy())
            files = [*made.files, folder / f"part-{first}.parquet"] if part.height else made.files
            if part.height:
                part.write_parquet(files[-1], compression="lz4", row_group_size=min(GROUP, budget.batch))
            made = Parts(files, made.tied + tied, made.same + same, made.repeats + again)
            advance(1)
    for file in codes.files:
        file.unlink()
    return made
