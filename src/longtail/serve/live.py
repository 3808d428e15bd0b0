"""A bundle with what it was told since: added items and events, replayed from the journal. No torch here."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from longtail.errors import BundleError, some
from longtail.serve.bundle import Bundle
from longtail.serve.catalogue import Catalogue
from longtail.serve.journal import Record
from longtail.serve.matrix import Floats, IntArray
from longtail.serve.runtime import Runtime

log = logging.getLogger(__name__)
EMPTY = np.zeros(0, np.int64)


class Live:
    """What answers: the scores, the items, and the histories of users. Changed and read by one thread."""

    def __init__(self, bundle: Bundle, records: Sequence[Record] = ()) -> None:
        self.bundle, self.facts = bundle, bundle.manifest
        self.runtime, self.items = Runtime(bundle), Catalogue(bundle)
        self.events: dict[str, list[int]] = {}
        self.skipped = 0
        for record in records:
            try:
                self.apply(record)
            except BundleError as error:  # of another bundle that stood here before
                self.skipped += 1
                log.warning("a record of the journal is left out: %s", error)

    @property
    def name(self) -> str:
        """As requests call it."""
        return self.facts.name

    def history(self, user: str) -> IntArray | None:
        """A user's items, oldest first; None of a user of whom nothing is known."""
        users, more = self.bundle.users, self.events.get(user)
        at = users.ids.find(user) if users else 0
        if not at and more is None:
            return None
        known = users.history(at) if users and at else EMPTY
        return known if more is None else np.concatenate([known, np.array(more, np.int64)])

    def item_record(self, item: str, title: str, columns: Mapping[str, str], vector: Floats) -> Record:
        """What the journal keeps of a new item, by the LLM vector that the encoder gave."""
        kept, read = self.items.items.columns.keys(), self.facts.text.columns if self.facts.text else ()
        if unknown := columns.keys() - kept - set(read):
            raise BundleError(f"no column {sorted(unknown)[0]!r}; there are: {some(sorted({*kept, *read})) or 'none'}")
        self.runtime.additions.prepared(vector)
        coded = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        space = self.facts.text.identity if self.facts.text else ""
        stored = {name: value for name, value in columns.items() if name in kept}
        named: Record = {"kind": "item", "item": item, "title": title, "columns": stored}
        return {**named, "vector": coded, "space": space}

    def event_record(self, user: str, items: Sequence[str]) -> Record:
        """What the journal keeps of events; a BundleError names unknown items."""
        self.items.places(items)
        return {"kind": "event", "user": user, "items": list(items), "bundle": self.bundle.key}

    def apply(self, record: Record) -> None:
        """Do what a record says; a BundleError if this bundle cannot."""
        if record.get("kind") == "item":
            self._apply_item(record)
        elif record.get("kind") == "event":
            self._apply_event(record)
        else:
            raise BundleError(f"the journal has a record of kind {record.get('kind')!r}; upgrade longtail")

    def same(self, record: Record) -> bool:
        """Whether an item was added just so before."""
        place = self.items.find(str(record["item"]))
        if place < self.items.first:
            return False
        mine = self.runtime.additions.vectors.rows(np.array([place - self.items.first]))[0]
        semantic, added = self.runtime.additions.need(), self.items.added[place - self.items.first]
        asked = self.runtime.additions.prepared(_vector(record)) @ semantic.weight + semantic.bias
        return np.array_equal(mine, asked) and added.columns == record["columns"] and added.title == _title(record)

    def _apply_item(self, record: Record) -> None:
        item = str(record["item"])
        if self.items.find(item):
            return  # it is trained now, or the record was written twice
        text = self.facts.text
        if text is None or record["space"] != text.identity:
            raise BundleError(f"item {item!r} has a vector of {record['space']!r}, which this bundle does not read")
        self.runtime.additions.add(self.runtime.additions.prepared(_vector(record)))
        self.items.add(item, _title(record), cast("dict[str, str]", record["columns"]))

    def _apply_event(self, record: Record) -> None:
        user, items = str(record["user"]), cast("list[str]", record["items"])
        places = [place for place in map(self.items.find, items) if place]
        if record["bundle"] != self.bundle.key:  # a later bundle may have been trained on them
            places = unseen(self.history(user), places)
        if places:
            self.events.setdefault(user, []).extend(places)


def unseen(history: IntArray | None, events: list[int]) -> list[int]:
    """The events that a history does not have yet: those after the longest run of them that stands in it.

    >>> unseen(np.array([1, 2, 3]), [2, 3, 4])
    [4]
    """
    known = [] if history is None else history.tolist()
    for length in range(len(events), 0, -1):
        if any(known[at : at + length] == events[:length] for at in range(len(known) - length + 1)):
            return events[length:]
    return events


def _vector(record: Record) -> Floats:
    return np.frombuffer(base64.b64decode(str(record["vector"])), dtype="<f4").astype(np.float32)


def _title(record: Record) -> str:
    return str(record["title"]) or str(record["item"])
