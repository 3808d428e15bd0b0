"""What is said of a data set: its figures, and the notes and errors on filtering it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.histories import IntArray
from longtail.data.split import MINIMUM
from longtail.errors import DataError

CHUNK = 4_000_000  # interactions looked at together
Codes = npt.NDArray[np.uint32]


def description(lengths: IntArray, counts: IntArray, repeats: int, text: pl.DataFrame) -> dict[str, int | float]:
    """Counts and shares (0 to 1) that characterise a data set.

    lengths: (U,) interactions of each user. counts: (I,) of each item. repeats: interactions that repeat a user's item.
    text: (I rows) what is known of the items.
    """
    described = text.select(pl.any_horizontal(pl.lit(False), pl.all().is_not_null()).alias("any"))
    return {
        "users": len(lengths),
        "items": len(counts),
        "interactions": int(lengths.sum()),
        "mean_history": float(lengths.mean()),
        "median_history": float(np.median(lengths)),
        "min_history": int(lengths.min()),
        "max_history": int(lengths.max()),
        "users_that_only_train": int((lengths < MINIMUM).sum()),
        "share_users_under_10": float((lengths < 10).mean()),
        "median_item_count": float(np.median(counts)),
        "share_items_up_to_30": float((counts <= 30).mean()),
        "share_repeats": float(repeats / lengths.sum()),
        "share_items_with_text": float(described["any"].sum()) / len(counts),
    }


def repeats(users: Codes, items: Codes) -> int:
    """How many of (n,) interactions, in ascending order of the user, are of an item that the user has before them."""
    found, start = 0, 0
    while start < len(users):
        end = int(np.searchsorted(users, users[min(start + CHUNK, len(users)) - 1], side="right"))  # a user whole
        pairs = users[start:end].astype(np.uint64) << np.uint64(32)
        pairs |= items[start:end]
        pairs.sort()  # in place: a table of hashes would need several times the memory
        found += int((pairs[1:] == pairs[:-1]).sum())
        start = end
    return found


def filter_reason(min_user: int, min_item: int, repeat: bool) -> str:
    """A filter, as notes call it."""
    return f"filter(min_user={min_user}, min_item={min_item}, repeat={repeat})"


def note_on_kept(reason: str, users: tuple[int, int], items: tuple[int, int], interactions: tuple[int, int]) -> str:
    """The note on what is kept; of each kind, how many of how many."""
    kinds = {"users": users, "items": items, "interactions": interactions}
    return f"{reason} kept " + ", ".join(f"{kept:,} of {of:,} {kind}" for kind, (kept, of) in kinds.items())


def nothing_left(min_user: int, min_item: int, lengths: IntArray, counts: IntArray) -> DataError:
    """The error of a filter that drops all. lengths: (U,) interactions of each user. counts: (I,) of each item."""
    return DataError(
        f"no interaction is left with min_user={min_user} and min_item={min_item}: the {len(lengths):,} "
        f"users have {lengths.max():,} at most, the {len(counts):,} items {counts.max():,}; lower the minimum"
    )
