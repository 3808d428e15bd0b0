"""Where items occur in histories and what stands around them: the contexts that tail items are inferred from."""

from __future__ import annotations

import numpy as np

from longtail.data.histories import BoolArray, Histories, IntArray, offsets_of


def occurrences(histories: Histories, items: int) -> Histories:
    """For each item 1..I, as if it were a user, the places in `histories.items` where it occurs, ascending.

    >>> from longtail.data.histories import from_lists
    >>> occurrences(from_lists([[2, 1], [2]]), 2).of(2)
    array([0, 2])
    """
    return Histories(np.argsort(histories.items, kind="stable"), offsets_of(histories.counts(items)[1:]))


def ends(histories: Histories, places: IntArray) -> tuple[IntArray, IntArray]:
    """The first and the last place of the history that each of `places` (n,) belongs to."""
    owners = np.searchsorted(histories.offsets, places, side="right") - 1
    return histories.offsets[owners], histories.offsets[owners + 1] - 1


def passages(histories: Histories, places: IntArray, backwards: BoolArray, longest: int) -> Histories:
    """Of user k + 1, the items that lead up to `places[k]`, that one last: what came before it, oldest first, or, where
    `backwards`, what came after it, latest first. At most the `longest` nearest.

    >>> from longtail.data.histories import from_lists
    >>> both = passages(from_lists([[5, 6, 7, 8]]), np.array([1, 1]), np.array([False, True]), 9)
    >>> both.of(1), both.of(2)
    (array([5, 6]), array([8, 7, 6]))
    """
    first, last = ends(histories, places)
    lengths = np.minimum(np.where(backwards, last - places, places - first) + 1, longest)
    before = _counted(lengths) - np.repeat(lengths - 1, lengths)  # ..., -2, -1, 0
    step = np.repeat(np.where(backwards, -1, 1), lengths)
    return Histories(histories.items[np.repeat(places, lengths) + step * before], offsets_of(lengths))


def windows(histories: Histories, places: IntArray, reach: int) -> tuple[Histories, IntArray]:
    """Of user k + 1, the items at most `reach` places before or after `places[k]`, without that one; and how far
    (-reach..reach) from it each of them is.

    >>> from longtail.data.histories import from_lists
    >>> found, away = windows(from_lists([[5, 6, 7, 8]]), np.array([2]), 2)
    >>> found.of(1), away
    (array([5, 6, 8]), array([-2, -1,  1]))
    """
    first, last = ends(histories, places)
    before, after = np.minimum(places - first, reach), np.minimum(last - places, reach)
    lengths = before + after
    away = _counted(lengths) - np.repeat(before, lengths)
    away += away >= 0
    return Histories(histories.items[np.repeat(places, lengths) + away], offsets_of(lengths)), away


def some_of_each(groups: IntArray, sizes: IntArray, generator: np.random.Generator) -> IntArray:
    """Of n members of `groups` (n,), at random `sizes[g]` of each group g, or all if it has fewer: their places in
    0..n, ascending by group."""
    order = np.lexsort((generator.random(len(groups)), groups))
    group = groups[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    return order[rank < sizes[group]]


def _counted(lengths: IntArray) -> IntArray:
    """0..length - 1 for each of `lengths`, one after another."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
