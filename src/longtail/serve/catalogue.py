"""The items a bundle knows, those added since among them: ids, titles, columns, and search. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longtail.errors import BundleError, some
from longtail.registry import nearest
from longtail.serve.arrays import Strings
from longtail.serve.bundle import Bundle
from longtail.serve.matrix import IntArray
from longtail.serve.tables import SEPARATOR

Mask = npt.NDArray[np.bool_]
MASKS = 256  # filters remembered
TITLE = 500  # characters of an added title that are kept


class Added(NamedTuple):
    """An item that came after training."""

    item: str
    title: str
    columns: dict[str, str]


class Catalogue:
    """Items by place, 1..I those of training, then the added ones."""

    def __init__(self, bundle: Bundle) -> None:
        self.items, self.first = bundle.items, bundle.manifest.items + 1
        self.added: list[Added] = []
        self._index: dict[str, int] = {}
        self._masks: dict[tuple[str, str], Mask] = {}
        self._titles: tuple[bytes, IntArray] | None = None

    def __len__(self) -> int:
        return self.first - 1 + len(self.added)

    def find(self, item: str) -> int:
        """The place of an id; 0 if there is no such item."""
        return self._index.get(item) or self.items.ids.find(item)

    def places(self, items: Sequence[str]) -> IntArray:
        """Those of ids (n,); a BundleError names the unknown ones."""
        found = np.array([self.find(item) for item in items], np.int64)
        if not found.all():
            unknown = [item for item, place in zip(items, found.tolist(), strict=True) if not place]
            known = some([self.items.ids[place] for place in range(1, min(self.first, 4))])
            raise BundleError(f"unknown item {some(unknown)}; the bundle knows {len(self):,} items, such as {known}")
        return found

    def item(self, place: int) -> str:
        """The id."""
        return self.items.ids[place] if place < self.first else self.added[place - self.first].item

    def title(self, place: int) -> str:
        """What people call it."""
        return self.items.titles[place - 1] if place < self.first else self.added[place - self.first].title

    def count(self, place: int) -> int:
        """Training interactions; none of an added item."""
        return int(self.items.counts[place]) if place < self.first else 0

    def counts(self, places: IntArray) -> IntArray:
        """(n,) of each."""
        return np.where(places < self.first, self.items.counts[np.where(places < self.first, places, 0)], 0)

    def head(self, places: IntArray) -> Mask:
        """(n,) whether it is a head item; an added one never is."""
        return (places < self.first) & self.items.head[np.where(places < self.first, places, 0)]

    def columns(self, place: int) -> dict[str, str]:
        """The values it has, by column."""
        if place >= self.first:
            return self.added[place - self.first].columns
        found = ((name, int(column.codes[place]), column.values) for name, column in self.items.columns.items())
        return {name: values[code - 1] for name, code, values in found if code}

    def add(self, item: str, title: str, columns: Mapping[str, str]) -> int:
        """Enter an item, whose place is the next."""
        self.added.append(Added(item, title[:TITLE] or item, dict(columns)))
        self._index[item] = len(self)
        self._masks.clear()
        return len(self)

    def where(self, wanted: Mapping[str, Sequence[str]]) -> Mask:
        """(count + 1,) which items have in each of the columns one of the values; [0] False."""
        mask = np.ones(len(self) + 1, np.bool_)
        mask[0] = False
        for column, values in wanted.items():
            if column not in self.items.columns:
                hint, known = nearest(column, self.items.columns), some(list(self.items.columns)) or "none"
                raise BundleError(f"no column {column!r} to filter by{hint}; there are: {known}")
            mask &= np.logical_or.reduce([self._having(column, value) for value in values])
        return mask

    def _having(self, column: str, value: str) -> Mask:
        """(count + 1,) which items have that value, or have it among several."""
        if (column, value) not in self._masks:
            if len(self._masks) >= MASKS:
                self._masks.clear()
            codes, values = self.items.columns[column]
            good = np.array([False, *(_has(one, value) for one in values)])
            more = [_has(one.columns.get(column, ""), value) for one in self.added]
            self._masks[column, value] = np.concatenate([good[codes], np.array(more, np.bool_)])
        return self._masks[column, value]

    def search(self, words: str, k: int) -> list[int]:
        """Items whose titles have all the words, most popular first, or whose id it is."""
        exact, wanted = self.find(words.strip()), [word for word in words.lower().split() if word]
        found: set[int] | None = None
        for word in wanted:
            having = self._titled(word)
            found = having if found is None else found & having
        ranked = sorted(found or (), key=lambda place: (-self.count(place), place))
        first = [exact] if exact else []
        return [*first, *(place for place in ranked if place != exact)][:k]

    def _titled(self, word: str) -> set[int]:
        """Items in whose titles a word occurs."""
        if self._titles is None:  # when it is first asked for: few bundles are searched
            lower = Strings.of(f"{title.lower()}\n" for title in self.items.titles)
            self._titles = lower.data.tobytes(), lower.offsets
        text, starts = self._titles
        key, at, hits = word.encode("utf-8", "replace"), 0, list[int]()
        while (at := text.find(key, at)) >= 0:
            hits.append(at)
            at += len(key)
        places = np.searchsorted(starts, np.array(hits, np.int64), side="right")
        added = {self.first + at for at, one in enumerate(self.added) if word in one.title.lower()}
        return {*places.tolist(), *added}


def _has(cell: str, value: str) -> bool:
    return cell == value or value in cell.split(SEPARATOR)
