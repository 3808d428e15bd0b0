"""Ten users, chosen by a rule that looks at no result, and what models recommend to each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from longtail.data.groups import BoolArray, Groups
from longtail.data.histories import IntArray
from longtail.data.split import Split
from longtail.evaluation import page
from longtail.evaluation.page import Entry, Html
from longtail.lists import title_column
from longtail.recommender import Recommender
from longtail.run_folder import Known

EACH = 5  # users of the tail, and as many of the head
K = 10  # recommendations
LATEST = 8  # items of a history that are shown
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: scatters consecutive numbers
RULE = (
    f"The {EACH} tail and the {EACH} head users of the test set for whom (user's number in ascending order of ids x "
    f"{int(MULTIPLIER)}) mod 2^64 is smallest: a fixed scattering that looks at no recommendation and no result."
)


def chosen(split: Split, head: BoolArray) -> IntArray:
    """EACH tail users, then EACH head users, all of them tested, by RULE; the same on every call."""
    tested = np.flatnonzero(split.targets("test"))
    scattered = tested[np.argsort(tested.astype(np.uint64) * MULTIPLIER, kind="stable")]
    return np.concatenate([scattered[~head[scattered]][:EACH], scattered[head[scattered]][:EACH]])


def users(models: Mapping[str, Recommender], known: Known, by: Groups) -> Html:
    """History, target and each model's recommendations before the target was known, for the chosen users."""
    picked = chosen(known.split, by.head_users)
    if not len(picked):
        return page.paragraph("No user was tested.")
    histories = known.split.select(picked).history("test")
    asked = [known.items.external(histories.of(row)) for row in range(1, len(picked) + 1)]
    found = {name: model.recommend(histories=asked, k=K) for name, model in models.items()}
    names, targets = _names(known), known.split.targets("test")[picked]

    def entry(item: int, target: int) -> Entry:
        return Entry(names[item - 1], item == target, not by.head_items[item])

    cards = []
    for row, (user, target) in enumerate(zip(picked.tolist(), targets.tolist(), strict=True)):
        seen = histories.of(row + 1)
        latest = [entry(item, target) for item in seen[-LATEST:].tolist()]
        lists = [page.entries(f"History, {len(latest)} latest of {len(seen)}, oldest first", latest)]
        for name, frame in found.items():
            items = known.items.internal(frame.filter(pl.col("user") == row)["item"]).tolist()
            lists.append(page.entries(f"{name}: {_outcome(items, target)}", [entry(item, target) for item in items]))
        group = "Head" if by.head_users[user] else "Tail"
        title = f"{group} user {known.users.external(np.array([user]))[0]}"
        cards.append(page.user(title, entry(target, target), lists))
    return page.joined([page.paragraph(RULE), *cards])


def _outcome(items: list[int], target: int) -> str:
    return (
        f"target at rank {items.index(target) + 1}" if target in items else f"target not among the first {len(items)}"
    )


def _names(known: Known) -> list[str]:
    """What people call each item, from internal id 1: its title, or else its id."""
    ids, column = known.items.ids.cast(pl.String), title_column(known.text)
    if column is None:
        return ids.to_list()
    titles = known.text[column].cast(pl.String).str.strip_chars()
    return pl.select(pl.when(titles.str.len_chars() > 0).then(titles).otherwise(ids)).to_series().to_list()
