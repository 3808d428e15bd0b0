"""Groups of users and items by training counts only (LLM-ESR, sec. 4.1), and of items by a column of their table."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, PositiveInt, field_validator, model_validator

from longtail.config import Config
from longtail.data.histories import IntArray
from longtail.data.split import Split
from longtail.errors import DataError, some
from longtail.registry import nearest

BoolArray = npt.NDArray[np.bool_]
VALUES = 10  # values of a column that are groups of their own
OTHER = "other"


class GroupsConfig(Config):
    """Which users and items are tail, and the finer groups that figures are reported by."""

    scheme: Literal["pareto", "thresholds"] = "pareto"
    """pareto: by percentile of the training counts. thresholds: by the two counts below."""
    percentile: Annotated[float, Field(gt=0.0, lt=100.0)] = 80.0
    """For pareto: head = training count at or above this percentile (percent) of all counts."""
    user_threshold: PositiveInt | None = None
    """For thresholds: a user with fewer training interactions is tail (paper: Yelp 12, Fashion 3, Beauty 9)."""
    item_threshold: PositiveInt | None = None
    """For thresholds: an item with fewer training interactions is tail (paper: Yelp 13, Fashion 4, Beauty 4)."""
    counted: Literal["train", "released"] = "train"
    """train: training interactions. released: as LLM-ESR's released code counts, what is held out too: of an item the
    users who have it in train, validation or test; of a user the interactions of train and validation."""
    user_edges: tuple[PositiveInt, ...] = (5, 10, 15, 20)
    """Training interactions at which a new bin of users begins; [] for no bins."""
    item_edges: tuple[PositiveInt, ...] = (10, 30, 60, 100)
    """Training interactions at which a new bin of items begins; [] for no bins."""
    columns: tuple[str, ...] = ()
    """Columns of the item table: their ten values most frequent in training are groups, the rest is 'other'."""

    @field_validator("user_edges", "item_edges")
    @classmethod
    def _edges_rise(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        if any(low >= high for low, high in pairwise(edges)):
            raise ValueError("give the edges in ascending order, each once, such as [5, 10, 15, 20]")
        return edges

    @model_validator(mode="after")
    def _thresholds_belong_to_their_scheme(self) -> Self:
        given = [threshold is not None for threshold in (self.user_threshold, self.item_threshold)]
        if self.scheme == "thresholds" and not all(given):
            raise ValueError("scheme 'thresholds' needs both user_threshold and item_threshold")
        if self.scheme == "pareto" and any(given):
            raise ValueError("scheme 'pareto' takes no thresholds; set scheme = 'thresholds'")
        return self


class Partition(NamedTuple):
    """All users or all items in named groups: id is in `names[codes[id]]`; codes (U + 1,) or (I + 1,), [0] unused."""

    names: tuple[str, ...]
    codes: IntArray

    def members(self, ids: IntArray) -> dict[str, BoolArray]:
        """Which of `ids` (n,) belong to each group, (n,) bool."""
        found = self.codes[ids]
        return {name: found == code for code, name in enumerate(self.names)}


class Groups(NamedTuple):
    """head_items: (I + 1,), head_users: (U + 1,) bool, [0] False; whatever is not head is tail.

    item_threshold, user_threshold: the training count from which an item or a user is head.
    users, items: finer partitions, by training count and by columns of the item table.
    """

    head_items: BoolArray
    head_users: BoolArray
    item_threshold: float
    user_threshold: float
    users: tuple[Partition, ...] = ()
    items: tuple[Partition, ...] = ()


def groups(split: Split, config: GroupsConfig | None = None, text: pl.DataFrame | None = None) -> Groups:
    """Groups by how often items and users occur in `split.train`; valid and test are not looked at unless
    `config.counted` says so.

    text: the item table, one row an item; that of the split's data set where it is not given.
    """
    config = config or GroupsConfig()
    items, users = _counts(split, config)
    item_threshold = _threshold(items, config.item_threshold, config.percentile)
    user_threshold = _threshold(users, config.user_threshold, config.percentile)
    if text is None and split.data is not None:
        text = split.data.text
    return Groups(
        _head(items, item_threshold),
        _head(users, user_threshold),
        item_threshold,
        user_threshold,
        (_bins(users, config.user_edges, "users"),) if config.user_edges else (),
        (
            *((_bins(items, config.item_edges, "items"),) if config.item_edges else ()),
            *(_by_column(column, text, items) for column in config.columns),
        ),
    )


def user_members(groups: Groups, users: IntArray) -> dict[str, BoolArray]:
    """Which of `users` (n,) are tail, head and in each bin, each (n,) bool."""
    head = groups.head_users[users]
    found = {"tail_users": ~head, "head_users": head}
    for partition in groups.users:
        found |= partition.members(users)
    return found


def members(groups: Groups, users: IntArray, targets: IntArray) -> dict[str, BoolArray]:
    """For n pairs of user (n,) and target item (n,): which belong to each group, each (n,) bool.

    All; tail and head of items, of users, and their four cells; then the bins of users and of items, and the columns.
    """
    head_user, head_item = groups.head_users[users], groups.head_items[targets]
    found = {
        "all": np.ones(len(users), dtype=np.bool_),
        "tail_items": ~head_item,
        "head_items": head_item,
        "tail_users": ~head_user,
        "head_users": head_user,
        "tail_users_tail_items": ~head_user & ~head_item,
        "tail_users_head_items": ~head_user & head_item,
        "head_users_tail_items": head_user & ~head_item,
        "head_users_head_items": head_user & head_item,
    }
    for partition, ids in [*((one, users) for one in groups.users), *((one, targets) for one in groups.items)]:
        found |= partition.members(ids)
    return found


def _counts(split: Split, config: GroupsConfig) -> tuple[IntArray, IntArray]:
    """How often each item, (I + 1,), and each user, (U + 1,), is counted."""
    if config.counted == "train":
        return split.train.counts(split.items), split.train.lengths
    known, width = split.train.append(split.valid), split.items + 1
    everything = known.append(split.test)
    pairs = np.unique(everything.owners() * width + everything.items)  # an item counts once a user
    return np.bincount(pairs % width, minlength=width).astype(np.int64), known.lengths


def head(counts: IntArray, percentile: float) -> BoolArray:
    """Which ids (n,) are head: those whose training count (n,), [0] unused, is at or above that percentile of all."""
    return _head(counts, _threshold(counts, None, percentile))


def _threshold(counts: IntArray, given: int | None, percentile: float) -> float:
    return float(np.percentile(counts[1:], percentile)) if given is None else float(given)


def _head(counts: IntArray, threshold: float) -> BoolArray:
    head = counts >= threshold
    head[0] = False
    return head


def _bins(counts: IntArray, edges: tuple[int, ...], noun: str) -> Partition:
    """Bins of training counts: fewer than the first edge, from each edge to the next, and from the last one up."""
    between = [f"{noun}_{low}_to_{high - 1}" for low, high in pairwise(edges)]
    names = (f"{noun}_under_{edges[0]}", *between, f"{noun}_{edges[-1]}_and_more")
    return Partition(names, np.digitize(counts, edges).astype(np.int64))


def _by_column(column: str, text: pl.DataFrame | None, counts: IntArray) -> Partition:
    """Items by their value in `column`; a DataError if the item table has no such column of plain values."""
    if text is None or column not in text.columns:
        has = f"it has {some(text.columns, limit=20)}" if text is not None and text.columns else "it has no columns"
        hint = nearest(column, text.columns) if text is not None else ""
        raise DataError(f"groups.columns: the item table has no column {column!r}{hint}; {has}")
    if text[column].dtype.is_nested():
        raise DataError(f"groups.columns: {column!r} holds {text[column].dtype}; give a column of one value an item")
    values = text[column].cast(pl.String).rename("value")
    known = pl.DataFrame({"value": values, "count": counts[1:]}).filter(pl.col("value") != OTHER)  # nor nulls
    bought = known.group_by("value").sum()
    top = bought.sort(["count", "value"], descending=[True, False])["value"].head(VALUES)
    codes = values.replace_strict(top, np.arange(len(top)), default=len(top), return_dtype=pl.Int64).to_numpy()
    names = tuple(f"{column}={value}" for value in (*top, OTHER))
    return Partition(names, np.concatenate([[0], codes]))
