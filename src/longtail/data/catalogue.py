"""What the doctor finds in the items: no metadata, no text, the same text, columns that know the future."""

from __future__ import annotations

import numpy as np
import polars as pl

from longtail.data.findings import Facts, Finding, Subject, share
from longtail.data.leaks import Leak, counts_the_future, leak
from longtail.errors import some

MANY = 0.05  # the share of items from which missing or equal texts are a warning


def metadata(subject: Subject) -> list[Finding]:
    """Items without a row in the item table, and rows without an interaction."""
    data, topic = subject.data, "metadata"
    if not data.text.width:
        text = "there is no item table: methods that read texts cannot be used; give one with --items"
        return [Finding("warning", topic, text, {"items": len(data.items)})]
    bare = data.text.select(pl.all_horizontal(pl.all().is_null()).alias("bare"))["bare"].to_numpy()
    rows = int(np.append(False, bare)[subject.items].sum())
    facts: Facts = {"items": int(bare.sum()), "interactions": rows}
    found = [Finding("ok", topic, "every item has a row in the item table", facts)]
    if bare.any():
        text = (
            f"{bare.sum():,} of {len(bare):,} items, with {rows:,} of {len(subject.items):,} interactions "
            f"({share(rows, len(subject.items))}), have no row in the item table, or an empty one "
            f"({subject.item(1 + int(bare.argmax()))}): check that both tables write ids the same way"
        )
        found = [Finding("warning" if rows > MANY * len(subject.items) else "note", topic, text, facts)]
    if data.unused:
        text = (
            f"{len(data.unused):,} items of the item table occur in no interaction ({some(data.unused, 3)}): they are "
            "left out and never recommended"
        )
        found.append(Finding("note", topic, text, {"unused": len(data.unused)}))
    return found


def texts(subject: Subject) -> list[Finding]:
    """Items whose prompt is empty."""
    if not subject.data.text.width:
        return []
    empty = np.array([not text for text in subject.read.texts], dtype=np.bool_)
    facts: Facts = {"items": int(empty.sum()), "share": float(empty.mean())}
    if not empty.any():
        return [Finding("ok", "texts", "every item has a text to embed", facts)]
    text = (
        f"{empty.sum():,} of {len(empty):,} items ({share(empty.sum(), len(empty))}) have no text to embed "
        f"({subject.item(1 + int(empty.argmax()))}): they get the mean of the other vectors; fill in their titles, or "
        "name the columns that hold text in a template of your own (--template FILE.toml)"
    )
    return [Finding("warning" if empty.mean() > MANY else "note", "texts", text, facts)]


def same_texts(subject: Subject) -> list[Finding]:
    """Items that share their prompt with another."""
    prompts = pl.DataFrame({"text": pl.Series(subject.read.texts, dtype=pl.String)}).with_row_index("item", offset=1)
    groups = prompts.filter(pl.col("text") != "").group_by("text").agg(pl.len().alias("items"), pl.col("item").min())
    shared = groups.filter(pl.col("items") > 1).sort("items", "item", descending=[True, False])
    total = int(shared["items"].sum())
    facts: Facts = {"items": total, "groups": shared.height}
    if not subject.data.text.width:
        return []
    if not total:
        return [Finding("ok", "same texts", "no two items have the same text", facts)]
    first, size, item = shared.row(0)
    shown = first if len(first) <= 60 else f"{first[:60]}…"
    text = (
        f"{total:,} of {prompts.height:,} items ({share(total, prompts.height)}) share their text with another, "
        f"{size:,} of them {shown!r} (such as {subject.item(item)}): their semantic vectors are equal, so only "
        "interactions tell them apart; add a column that differs, or merge the items if they are one"
    )
    many = total > MANY * prompts.height
    return [Finding("warning" if many else "note", "same texts", text, facts | {"largest": size})]


def leaking_columns(subject: Subject) -> list[Finding]:
    """Columns of the prompts, and beside them, that count what users did, by their names or by their contents."""
    data = subject.data
    if not data.text.width:
        return []
    split = subject.whole_split
    train, every = split.train.counts(split.items)[1:], split.everything().counts(split.items)[1:]
    named = [column for column in data.text.columns if counts_the_future(column)]
    found = []
    if named:
        text = f"columns {some(named)} count what users did, by their names: no prompt reads them, and none should"
        found.append(Finding("note", "leaks", text, {"columns": ", ".join(named)}))
    for column in data.text.iter_columns():
        if column.name not in named and (one := leak(column, train, every - train)) is not None:
            found.append(_leaking(column.name, one, column.name in subject.read.columns))
    if not found:
        found = [Finding("ok", "leaks", "no column of the item table looks like a count of what users did")]
    return found


def _leaking(column: str, found: Leak, read: bool) -> Finding:
    because = {
        "future": f"follows the number of an item's interactions (Spearman {found.correlation:.2f}), the held-out ones "
        f"too beyond what training tells (partial {found.beyond:.2f}): it knows the test period",
        "popularity": f"follows the number of an item's interactions (Spearman {found.correlation:.2f}), though no "
        "further than training tells: it is popularity in disguise",
        "words": "has texts that count, such as '120 reviews' or '4.5 stars'",
        "stars": "has numbers such as average ratings are shown with: halves from 1 to 5",
    }
    facts: Facts = {"column": column, "kind": found.kind}
    facts |= {"spearman": found.correlation, "beyond_training": found.beyond}
    if not read:
        return Finding("note", "leaks", f"column {column!r} {because[found.kind]}; no prompt reads it", facts)
    text = f"column {column!r} of the prompts {because[found.kind]}; leave it out of the item table or the template"
    return Finding("note" if found.kind == "popularity" else "warning", "leaks", text, facts)
