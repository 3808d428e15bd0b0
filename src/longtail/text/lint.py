"""What is wrong with a template, by itself and on a table of items: above all, fields that count the future."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data.findings import Finding, share
from longtail.data.histories import IntArray
from longtail.data.leaks import Leak, counts_the_future, leak
from longtail.errors import some
from longtail.text.prompts import OTHERS, PLACEHOLDER, Template, columns_read, mistakes

NEARLY = 0.9  # |Spearman| with the count of interactions from which a column is that count in disguise
MANY = 0.5  # the share of items without a value from which a field is named


class Counts(NamedTuple):
    """(I,) interactions of each item of the table, those that train and those held out."""

    train: IntArray
    held_out: IntArray


def lint(
    template: Template, name: str, text: pl.DataFrame | None = None, counts: Counts | None = None
) -> list[Finding]:
    """Findings, the worst kinds first: 'error' where the template is refused, or its prompts would know the future.

    name: as `read_template` takes it. text: a table of items, one row each; counts: of the same items, if there are
    interactions to compare its columns with. Templates of users are looked at by themselves.
    """
    refused = [Finding("error", "template", f"{name!r} {one}") for one in mistakes(template)]
    found = [*refused, *_unused(template)]
    if text is not None and template.kind == "item" and not refused:
        found += [*_fields(template, text), *_by_name(text), *_by_contents(text, columns_read(text, name), counts)]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda one: order.index(one.level)) or [Finding("ok", "template", "nothing to object to")]


def _unused(template: Template) -> list[Finding]:
    idle = sorted(set(template.fields) - set(PLACEHOLDER.findall(template.text)))
    if not idle:
        return []
    return [Finding("warning", "template", f"declares {some(idle)}, which its text does not use; remove it, or use it")]


def _fields(template: Template, text: pl.DataFrame) -> list[Finding]:
    """Fields that the table has nothing for, or seldom."""
    columns = {column.lower(): column for column in reversed(text.columns)}
    found = []
    for name, field in template.fields.items():
        have = [columns[column] for column in field.columns if column in columns]
        told = "nothing" if field.lead is not None else repr(template.missing)
        if not have and name != OTHERS and field.lead is None:
            problem = f"field {name!r} finds none of {some(field.columns)} in the table: every prompt says {told} there"
            found.append(Finding("warning", "fields", problem))
        elif have and (missing := text[have[0]].null_count() / max(text.height, 1)) >= MANY:
            problem = f"field {name!r} reads {have[0]!r}, which {share(missing, 1)} of the items lack: they say {told}"
            found.append(Finding("note", "fields", problem, {"missing": missing}))
    return found


def _by_name(text: pl.DataFrame) -> list[Finding]:
    named = [column for column in text.columns if counts_the_future(column)]
    problem = f"columns {some(named)} count what users did, by their names: no prompt reads them"
    return [Finding("note", "leaks", problem)] if named else []


def _by_contents(text: pl.DataFrame, read: list[str], counts: Counts | None) -> list[Finding]:
    """Columns that the prompts read and whose contents count what users did, of lists their lengths too."""
    none = np.zeros(text.height, dtype=np.int64)
    known = counts or Counts(none, none)
    found = []
    for name in read:
        column = text[name]
        lengths = isinstance(column.dtype, pl.List)
        one = leak(column.list.len().cast(pl.Float64) if lengths else column, *known)
        if one is None or (lengths and one.kind == "stars"):
            continue
        certain = one.kind in {"future", "words"} or abs(one.correlation) >= NEARLY
        because = (
            f"{'the lengths of its lists follow' if lengths else 'it follows'} the number of an item's interactions"
        )
        problem = (
            f"column {name!r} is read by the prompts, and {_why(one, because)}; leave it out of the table or template"
        )
        facts: dict[str, int | float | str] = {"column": name, "kind": one.kind, "spearman": one.correlation}
        found.append(Finding("error" if certain else "warning", "leaks", problem, facts))
    return found


def _why(one: Leak, because: str) -> str:
    return {
        "future": f"{because} (Spearman {one.correlation:.2f}), the held-out ones beyond what training tells",
        "popularity": f"{because} (Spearman {one.correlation:.2f})",
        "words": "its texts count, such as '120 reviews' or '4.5 stars'",
        "stars": "its numbers are halves from 1 to 5, as averages of ratings are shown",
    }[one.kind]
