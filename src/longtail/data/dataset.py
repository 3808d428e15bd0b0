"""A data set: who bought what in which order, and what is known of each item."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data import bundled, split
from longtail.data.description import description, filter_reason, note_on_kept, nothing_left, repeats
from longtail.data.digest import digest
from longtail.data.histories import BoolArray, Histories, IntArray, offsets_of
from longtail.data.ids import IdMap
from longtail.data.reading import no_items, read_interactions, read_items
from longtail.data.split import Split, SplitConfig
from longtail.data.tables import Source, open_table
from longtail.errors import DataError
from longtail.files import atomic, claim, read_json, read_parquet, write_json

FORMAT = 1
TABLES = ("interactions.parquet", "users.parquet", "items.parquet")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions with internal ids, and one row of text an item.

    interactions: user, item (UInt32 internal ids), timestamp (Int64), by user, then time, then order of the source;
    and the columns that reading was asked to keep, what users wrote as review (String).
    users, items: external ids of 1..U and 1..I, in ascending order of the external ids.
    text: (I rows) the item table's other columns; row k is item k + 1, null where the table has no such item.
    notes: what reading and filtering found, a sentence each.
    unused: ids in the table of items that occur in no interaction, as long as nothing was filtered or saved.
    """

    interactions: pl.DataFrame
    users: IdMap
    items: IdMap
    text: pl.DataFrame
    name: str
    notes: tuple[str, ...] = ()
    unused: tuple[str | int, ...] = ()

    @classmethod
    def read(
        cls,
        interactions: Source,
        items: Source | None = None,
        *,
        user: str | None = None,
        item: str | None = None,
        timestamp: str | None = None,
        item_id: str | None = None,
        keep: Sequence[str] = (),
        review: str | None = None,
        name: str | None = None,
    ) -> Dataset:
        """From a table of interactions and a table of items (files or data frames), or a folder that `save` wrote.

        user, item, timestamp: columns of the interactions; item_id: column of the items; each is recognised by
        its usual names when not given. Without a time column the order of rows is the order in time. keep: more columns
        of the interactions to keep, such as 'rating'. review: the column with what users wrote, kept as 'review'.
        A DataError tells what cannot be used, where, and what to do.
        """
        if isinstance(interactions, (str, Path)) and Path(interactions).is_dir():
            if keep or any(given is not None for given in (items, user, item, timestamp, item_id, review)):
                raise DataError(f"{interactions} is a folder with its own items and columns; name the folder alone")
            loaded = cls.load(interactions)
            return loaded if name is None else replace(loaded, name=name)
        table = open_table(interactions, "the interactions")
        found, notes = read_interactions(table, user, item, timestamp, keep, review)
        unused: tuple[str | int, ...] = ()
        if items is None:
            text = found.items.ids.to_frame("id").drop("id")
            notes += (no_items(),)
        else:
            text, unused, more = read_items(open_table(items, "the items"), found.items, item_id, found.item_column)
            notes += more
        return cls(found.rows, found.users, found.items, text, name or name_of(interactions), notes, unused)

    @classmethod
    def bundled(cls, name: str = "online_retail") -> Dataset:
        """A data set that comes with the package, read as a user's own files are."""
        paths = bundled.tables(name)
        return cls.read(paths.interactions, paths.items, name=name)

    def filter(self, *, min_user: int = 0, min_item: int = 0, repeat: bool = True) -> Dataset:
        """Without users and items of fewer than `min_user` and `min_item` interactions; the rest is renumbered.

        repeat: again until all that is left has enough, else one pass with both counts taken before it, as in
        the code of LLM-ESR (so that some that is left may have fewer). A DataError if nothing is left.
        """
        users, items = (self.interactions[column].to_numpy() for column in ("user", "item"))
        keep = _enough(users, min_user) & _enough(items, min_item)
        while repeat and keep.any():
            kept = _enough(users[keep], min_user) & _enough(items[keep], min_item)
            if kept.all():
                break
            keep[keep] = kept
        if keep.all():
            return self
        if not keep.any():
            raise nothing_left(min_user, min_item, np.bincount(users)[1:], np.bincount(items)[1:])
        return self.subset(keep, filter_reason(min_user, min_item, repeat))

    def subset(self, keep: BoolArray, reason: str) -> Dataset:
        """The interactions that `keep` (n,) marks, and the users and items they are of, renumbered."""
        rows = self.interactions.filter(pl.Series(keep))
        stay = {
            "user": np.bincount(rows["user"], minlength=len(self.users) + 1) > 0,
            "item": np.bincount(rows["item"], minlength=len(self.items) + 1) > 0,
        }
        rows = rows.with_columns(
            pl.Series(column, np.cumsum(stays, dtype=np.uint32)[rows[column]]) for column, stays in stay.items()
        )
        users, items = (pl.Series(stays[1:]) for stays in stay.values())
        left = (int(users.sum()), len(self.users)), (int(items.sum()), len(self.items))
        note = note_on_kept(reason, *left, (rows.height, self.interactions.height))
        return Dataset(
            rows,
            IdMap(self.users.ids.filter(users), "user"),
            IdMap(self.items.ids.filter(items), "item"),
            self.text.filter(items),
            self.name,
            (*self.notes, note),
        )

    def histories(self) -> Histories:
        """All interactions by user, oldest first."""
        lengths = np.bincount(self.interactions["user"], minlength=len(self.users) + 1)[1:]
        return Histories(self.interactions["item"].to_numpy().astype(np.int64), offsets_of(lengths))

    def leave_one_out(self) -> Split:
        """The last item of each user tests, the one before validates (docs/method.md, sec. 5).

        Users with fewer than three interactions only train; a DataError if all are such.
        """
        histories = self.histories()
        short = int((histories.lengths[1:] < split.MINIMUM).sum())
        if short == len(self.users):
            raise DataError(
                f"none of the {len(self.users):,} users has {split.MINIMUM} interactions (the longest history "
                f"has {histories.lengths.max()}), so nobody can be evaluated; check the user column"
            )
        if short:
            logger.info("%d of %d users have under 3 interactions and only train", short, len(self.users))
        return split.leave_one_out(histories, len(self.items))._replace(data=self)

    def split(self, config: SplitConfig | None = None) -> Split:
        """What trains, validates and tests by the scheme of `config`, leave-one-out if not given (docs/protocols.md).

        A DataError if nothing is left to train, or nobody has a target to validate or to test.
        """
        config = config or SplitConfig()
        if config.scheme == "leave_one_out":
            return self.leave_one_out()
        histories, timestamps = self.histories(), self.interactions["timestamp"].to_numpy()
        if config.scheme == "time" and _are_positions(timestamps, histories):
            raise DataError(
                "the timestamps count each user's interactions, so no date is the same for two users; "
                "give a table with times, or choose another split.scheme"
            )
        made = split.held_out(config, histories, timestamps, len(self.items))._replace(data=self)
        if not len(made.train.items):
            raise DataError(f"split {made.scheme} leaves no interaction to train on; lower split.valid or split.test")
        for name in ("valid", "test"):
            if not made.targets(name).any():
                raise DataError(
                    f"split {made.scheme} leaves nobody to evaluate on {name!r}: it holds out no interaction that has "
                    f"another before it; raise split.{name}, or choose another split.scheme"
                )
        counts = [np.count_nonzero(part) for part in (made.train.lengths, made.valid, made.test)]
        logger.info(
            "split %s: %d of %d users train, %d validate, %d test", made.scheme, counts[0], len(self.users), *counts[1:]
        )
        return made

    @cached_property
    def hash(self) -> str:
        """SHA-256 of ids, interactions in their order, and text; name and notes do not count."""
        return hash_of(self.interactions, self.users.ids, self.items.ids, self.text)

    def describe(self) -> dict[str, int | float]:
        """Counts and shares (0 to 1) that characterise the data set."""
        users, items = (self.interactions[column].to_numpy() for column in ("user", "item"))
        lengths, counts = (
            np.bincount(codes, minlength=len(ids) + 1)[1:] for codes, ids in ((users, self.users), (items, self.items))
        )
        return description(lengths, counts, repeats(users, items), self.text)

    def save(self, folder: str | Path) -> None:
        """Write the tables and dataset.json; all are complete before the first replaces an older one."""
        frames = self.interactions, self.users.ids.to_frame("user_id"), with_ids(self.text, self.items.ids)
        write_folder(Path(folder), self.name, self.notes, [one.write_parquet for one in frames], lambda _: self.hash)

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """What `save` wrote. A DataError tells a missing, corrupt, changed or newer file."""
        folder = Path(folder)
        facts = read_json(folder / "dataset.json", DataError)
        if not isinstance(facts, dict) or not {"format", "name", "hash", "notes"} <= facts.keys():
            raise DataError(f"{folder / 'dataset.json'} is not a data set's; run 'longtail prepare' again")
        if facts["format"] != FORMAT:
            raise DataError(
                f"{folder} has format {facts['format']!r}, this longtail reads {FORMAT}; "
                "upgrade longtail, or run 'longtail prepare' again"
            )
        rows, users, items = (read_parquet(folder / name, DataError) for name in TABLES)
        text = items.drop(items.columns[0])
        ids = users.to_series(0), items.to_series(0)
        if hash_of(rows, *ids, text) != facts["hash"]:
            raise DataError(f"the tables in {folder} are not those that were saved; run 'longtail prepare' again")
        name, notes = str(facts["name"]), tuple(facts["notes"])
        return cls(rows, IdMap(ids[0], "user"), IdMap(ids[1], "item"), text, name, notes)


def write_folder(
    folder: Path,
    name: str,
    notes: Sequence[str],
    tables: Sequence[Callable[[Path], object]],
    digest_of: Callable[[Sequence[Path]], str],
) -> None:
    """The tables, each by what writes it to a path, and dataset.json; `digest_of` is asked when they are written."""
    claim(folder, "dataset.json", TABLES)
    with ExitStack() as stack:  # leaves in reverse, so that dataset.json, whose hash covers the rest, comes last
        facts = stack.enter_context(atomic(folder / "dataset.json"))
        paths = [stack.enter_context(atomic(folder / one)) for one in TABLES]
        for write, path in zip(tables, paths, strict=True):
            write(path)
        write_json(facts, {"format": FORMAT, "name": name, "hash": digest_of(paths), "notes": list(notes)})


def with_ids(text: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """The table of items as it is saved: their external ids, under a name that no other column has, and their text."""
    item_id = "item_id"
    while item_id in text.columns:
        item_id += "_"
    return text.clone().insert_column(0, ids.alias(item_id))


def _enough(ids: npt.NDArray[np.integer], minimum: int) -> BoolArray:
    """(n,) whether each entry's id occurs at least `minimum` times."""
    return np.take(np.bincount(ids) >= minimum, ids)


def _are_positions(timestamps: IntArray, histories: Histories) -> bool:
    """Whether everybody's timestamps are 0, 1, 2, … (or 1, 2, 3, …)."""
    positions = np.arange(len(timestamps)) - np.repeat(histories.offsets[:-1], histories.lengths)
    return len(histories.lengths) > 2 and np.array_equal(timestamps - timestamps.min(), positions)


def hash_of(interactions: pl.DataFrame | pl.LazyFrame, users: pl.Series, items: pl.Series, text: pl.DataFrame) -> str:
    """`Dataset.hash` of these tables."""
    return digest([interactions, users.rename("id").to_frame(), items.rename("id").to_frame(), text])


def name_of(source: Source) -> str:
    """What a data set is called that is not named."""
    if not isinstance(source, (str, Path)):
        return "data"
    stem = Path(source).name.partition(".")[0]
    return Path(source).resolve().parent.name if stem == "interactions" else stem
