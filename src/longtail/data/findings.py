"""What the doctor says, and what it is shown: a finding, and the data set under examination."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from longtail.data import split
from longtail.data.cost import Work
from longtail.data.dataset import Dataset
from longtail.data.histories import IntArray
from longtail.data.leaks import counts_the_future
from longtail.data.split import Split
from longtail.errors import DataError

Level = Literal["ok", "note", "warning", "error"]
Facts = dict[str, int | float | str]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "ok")  # worst first


@dataclass(frozen=True)
class Finding:
    """One thing found.

    level: 'ok', nothing wrong; 'note', good to know; 'warning', results would mislead or suffer; 'error', a fit would
    fail or mean nothing. text: what was found, how much of it, an example and what to do. facts: its figures by name;
    shares are of 1.
    """

    level: Level
    topic: str
    text: str
    facts: Facts = field(default_factory=dict)


class Prompts(NamedTuple):
    """What a text encoder reads: one prompt an item, '' where there is no text, and the columns they are made of."""

    texts: Sequence[str]
    columns: Collection[str]


@dataclass(frozen=True, eq=False)
class Subject:
    """A data set as it was read, and what is going to be done with it.

    min_user, min_item, repeat: the filter to come (`Dataset.filter`). prompts: None stands for all columns in a row.
    work: the training to come, if its cost is asked for. now: seconds since 1970.
    """

    data: Dataset
    min_user: int = 0
    min_item: int = 0
    repeat: bool = True
    prompts: Prompts | None = None
    work: Work | None = None
    now: float = field(default_factory=time.time)

    @cached_property
    def users(self) -> IntArray:
        """(n,) of each interaction, ascending."""
        return self._column("user")

    @cached_property
    def items(self) -> IntArray:
        """(n,) of each interaction."""
        return self._column("item")

    @cached_property
    def times(self) -> IntArray:
        """(n,) of each interaction, ascending inside a user."""
        return self._column("timestamp")

    @cached_property
    def kept(self) -> Dataset | None:
        """What the filter leaves, or None if that is nothing."""
        return self.filtered(repeat=self.repeat)

    def filtered(self, *, repeat: bool) -> Dataset | None:
        """What a filter with these minima leaves, or None."""
        try:
            return self.data.filter(min_user=self.min_user, min_item=self.min_item, repeat=repeat)
        except DataError:  # nothing is left
            return None

    @cached_property
    def split(self) -> Split | None:
        """Leave-one-out of what the filter leaves."""
        kept = self.kept
        return None if kept is None else split.leave_one_out(kept.histories(), len(kept.items))

    @cached_property
    def whole_split(self) -> Split:
        """Leave-one-out of everything."""
        return split.leave_one_out(self.data.histories(), len(self.data.items))

    @cached_property
    def last(self) -> IntArray:
        """(n,) places of the last interactions of the users who have three, whom leave-one-out evaluates."""
        histories = self.data.histories()
        return histories.offsets[1:][histories.lengths >= split.MINIMUM] - 1

    @cached_property
    def read(self) -> Prompts:
        """The prompts, or what stands in for them: all columns of text and numbers that do not count the future."""
        if self.prompts is not None:
            return self.prompts
        text = self.data.text
        plain = [name for name, dtype in text.schema.items() if dtype == pl.String or dtype.is_numeric()]
        plain = [name for name in plain if not counts_the_future(name)]
        rows = pl.concat_str([pl.col(name).cast(pl.String) for name in plain], separator="; ", ignore_nulls=True)
        texts = text.select(rows.alias("text"))["text"].to_list() if plain else [""] * text.height
        return Prompts(texts, plain)

    def user(self, internal: int) -> str:
        """A user's own id, as an example."""
        return repr(self.data.users.ids[int(internal) - 1])

    def item(self, internal: int) -> str:
        """An item's own id, as an example."""
        return repr(self.data.items.ids[int(internal) - 1])

    def _column(self, name: str) -> IntArray:
        return self.data.interactions[name].to_numpy().astype(np.int64)


def share(part: float, whole: float) -> str:
    """A share in percent, as texts say it.

    >>> share(1, 8), share(0, 0), share(1, 9999)
    ('12.5%', '0%', '0.01%')
    """
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.2f}%" if 0 < percent < 0.1 else f"{percent:.3g}%"
