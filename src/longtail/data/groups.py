"""Head and tail of users and items, by training counts only (LLM-ESR, sec. 4.1)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, model_validator

from longtail.config import Config
from longtail.data.histories import IntArray
from longtail.data.split import Split

BoolArray = npt.NDArray[np.bool_]


class GroupsConfig(Config):
    """Which users and items are tail."""

    scheme: Literal["pareto", "thresholds"] = "pareto"
    """pareto: by percentile of the training counts. thresholds: by the two counts below."""
    percentile: Annotated[float, Field(gt=0.0, lt=100.0)] = 80.0
    """For pareto: head = training count at or above this percentile (percent) of all counts."""
    user_threshold: PositiveInt | None = None
    """For thresholds: a user with fewer training interactions is tail (paper: Yelp 12, Fashion 3, Beauty 9)."""
    item_threshold: PositiveInt | None = None
    """For thresholds: an item with fewer training interactions is tail (paper: Yelp 13, Fashion 4, Beauty 4)."""

    @model_validator(mode="after")
    def _thresholds_belong_to_their_scheme(self) -> Self:
        given = [threshold is not None for threshold in (self.user_threshold, self.item_threshold)]
        if self.scheme == "thresholds" and not all(given):
            raise ValueError("scheme 'thresholds' needs both user_threshold and item_threshold")
        if self.scheme == "pareto" and any(given):
            raise ValueError("scheme 'pareto' takes no thresholds; set scheme = 'thresholds'")
        return self


class Groups(NamedTuple):
    """head_items: (I + 1,), head_users: (U + 1,) bool, [0] False; whatever is not head is tail.

    item_threshold, user_threshold: the training count from which an item or a user is head.
    """

    head_items: BoolArray
    head_users: BoolArray
    item_threshold: float
    user_threshold: float


def groups(split: Split, config: GroupsConfig | None = None) -> Groups:
    """Head and tail by how often items and users occur in `split.train`; valid and test are never looked at."""
    config = config or GroupsConfig()
    items, users = split.train.counts(split.items), split.train.lengths
    item_threshold = _threshold(items, config.item_threshold, config.percentile)
    user_threshold = _threshold(users, config.user_threshold, config.percentile)
    return Groups(_head(items, item_threshold), _head(users, user_threshold), item_threshold, user_threshold)


def members(groups: Groups, users: IntArray, targets: IntArray) -> dict[str, BoolArray]:
    """For n pairs of user (n,) and target item (n,): which belong to each of the nine groups, each (n,) bool."""
    head_user, head_item = groups.head_users[users], groups.head_items[targets]
    return {
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


def _threshold(counts: IntArray, given: int | None, percentile: float) -> float:
    return float(np.percentile(counts[1:], percentile)) if given is None else float(given)


def _head(counts: IntArray, threshold: float) -> BoolArray:
    head = counts >= threshold
    head[0] = False
    return head
