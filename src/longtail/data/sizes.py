"""What the doctor finds in the counts: what the filter and the split leave, and how uneven popularity is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longtail.data.dataset import Dataset
from longtail.data.findings import Facts, Finding, Subject, share
from longtail.data.histories import IntArray
from longtail.data.split import MINIMUM

HEAD = 80.0  # percentile of the counts from which items and users are head, as in reports


class Removed(NamedTuple):
    """What a filter takes away; of the tail: items and users under the 80th percentile of the counts before."""

    users: int
    items: int
    interactions: int
    tail_users: int
    tail_items: int


def filtering(subject: Subject) -> list[Finding]:
    """What min_user and min_item remove in one pass, and at the fixed point."""
    if max(subject.min_user, subject.min_item) < 2:
        return [Finding("ok", "filter", "no filter was asked for: all users and items stay")]
    data, asked = subject.data, f"min_user={subject.min_user}, min_item={subject.min_item}"
    once, fixed = subject.filtered(repeat=False), subject.filtered(repeat=True)
    left = fixed if subject.repeat else once
    if left is None or once is None:
        text = f"{asked} leaves nothing of {data.interactions.height:,} interactions; lower them"
        return [Finding("error", "filter", text, {"interactions": data.interactions.height})]
    taken = {"one_pass": _removed(data, once)}
    if fixed is not None:
        taken["fixed_point"] = _removed(data, fixed)
    facts: Facts = {
        f"{name}_{key}": value for name, removed in taken.items() for key, value in removed._asdict().items()
    }
    below = int((_counts(once, "user") < subject.min_user).sum()), int((_counts(once, "item") < subject.min_item).sum())
    facts |= {"one_pass_users_below": below[0], "one_pass_items_below": below[1]}
    end = _told(data, taken["fixed_point"]) if "fixed_point" in taken else "everything"
    text = (
        f"{asked} removes {_told(data, taken['one_pass'])} in one pass (and leaves {below[0]:,} users and {below[1]:,} "
        f"items with fewer), {end} when repeated until nothing changes"
    )
    removed = _removed(data, left)
    if not removed.interactions:
        return [Finding("ok", "filter", text, facts)]
    tail = _tail(data, "item"), _tail(data, "user")
    text += (
        f". That takes {share(removed.tail_items, int(tail[0].sum()))} of the tail items and "
        f"{share(removed.tail_users, int(tail[1].sum()))} of the tail users, whom this library is for: figures of what "
        "is left are not figures of all"
    )
    many = removed.tail_items > tail[0].sum() / 2 or removed.tail_users > tail[1].sum() / 2
    return [Finding("warning" if many else "note", "filter", text, facts)]


def short_users(subject: Subject) -> list[Finding]:
    """Users with fewer than three interactions, who only train."""
    kept = subject.kept
    if kept is None:
        return []
    lengths = kept.histories().lengths[1:]
    short = lengths < MINIMUM
    facts: Facts = {"users": int(short.sum()), "share": float(short.mean())}
    if not short.any():
        return [Finding("ok", "short histories", f"all {len(lengths):,} users can be evaluated", facts)]
    who = repr(kept.users.ids[int(short.argmax())])
    text = (
        f"{short.sum():,} of {len(lengths):,} users ({share(short.sum(), len(lengths))}; {who}) have fewer than "
        f"{MINIMUM} interactions: leave-one-out trains on them and evaluates none of them"
    )
    if short.all():
        text += "; nobody can be evaluated: check the column of the user"
        return [Finding("error", "short histories", text, facts)]
    if short.mean() <= 0.2:
        return [Finding("note", "short histories", text, facts)]
    text += ", so figures speak for the others only; --min-user 3 says so openly"
    return [Finding("warning", "short histories", text, facts)]


def cold_targets(subject: Subject) -> list[Finding]:
    """Test items that never occur in training."""
    split, kept = subject.split, subject.kept
    if split is None or kept is None or not split.test.any():
        return []
    targets = split.test[split.test > 0]
    known = split.train.counts(split.items) > 0
    cold = ~known[targets]
    facts: Facts = {"targets": len(targets), "cold": int(cold.sum())}
    facts |= {"items": int((~known[1:]).sum())}
    if not cold.any():
        return [Finding("ok", "cold items", "every test item occurs in training", facts)]
    item = repr(kept.items.ids[int(targets[cold][0]) - 1])
    text = (
        f"{cold.sum():,} of {len(targets):,} test items ({share(cold.sum(), len(targets))}; {item}) never occur in "
        f"training, as {facts['items']:,} of {split.items:,} items: only methods that read texts can rank "
        "them, and they bound what others can reach; report them as a group of their own, or use --min-item 3"
    )
    return [Finding("warning" if cold.mean() > 0.05 else "note", "cold items", text, facts)]


def popularity(subject: Subject) -> list[Finding]:
    """How unevenly interactions fall on items."""
    counts = _counts(subject.data, "item")
    ordered, n = np.sort(counts), len(counts)
    gini = float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))
    head = float(ordered[n - max(round(0.2 * n), 1) :].sum() / ordered.sum())
    facts: Facts = {"gini": gini, "share_of_head": head, "most": int(ordered[-1])}
    text = (
        f"the most popular 20% of items have {share(head, 1)} of the interactions (Gini {gini:.2f}; item "
        f"{subject.item(1 + int(counts.argmax()))} alone {share(int(ordered[-1]), int(ordered.sum()))})"
    )
    if gini < 0.8:
        return [Finding("ok", "popularity", text, facts)]
    more = "recommending what is popular will look good; read the figures by tail and head groups"
    return [Finding("note", "popularity", f"{text}: {more}", facts)]


def _counts(data: Dataset, noun: str) -> IntArray:
    """(U,) or (I,) interactions of each user or item."""
    total = len(data.users if noun == "user" else data.items)
    return np.bincount(data.interactions[noun], minlength=total + 1)[1:].astype(np.int64)


def _tail(data: Dataset, noun: str) -> IntArray:
    """(U,) or (I,) 1 where the count is under the percentile, else 0."""
    counts = _counts(data, noun)
    return (counts < np.percentile(counts, HEAD)).astype(np.int64)


def _removed(data: Dataset, left: Dataset) -> Removed:
    gone = {
        "user": ~data.users.ids.is_in(left.users.ids.implode()).to_numpy(),
        "item": ~data.items.ids.is_in(left.items.ids.implode()).to_numpy(),
    }
    tail = {noun: int(_tail(data, noun)[where].sum()) for noun, where in gone.items()}
    interactions = data.interactions.height - left.interactions.height
    return Removed(int(gone["user"].sum()), int(gone["item"].sum()), interactions, tail["user"], tail["item"])


def _told(data: Dataset, removed: Removed) -> str:
    counts = (removed.users, len(data.users)), (removed.items, len(data.items))
    users, items = (f"{part:,} of {whole:,}" for part, whole in counts)
    gone = share(removed.interactions, data.interactions.height)
    return f"{users} users, {items} items and {removed.interactions:,} interactions ({gone})"
