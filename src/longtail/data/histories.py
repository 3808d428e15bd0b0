"""Histories of all users as two flat arrays (CSR): the items, oldest first, and where each user's begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Histories(NamedTuple):
    """`items[offsets[u]:offsets[u + 1]]` is the history of user `u`, oldest first.

    items: (n,) int64 internal item ids (1..I). offsets: (U + 2,) int64; user 0 is padding and has no items.
    """

    items: IntArray
    offsets: IntArray

    @property
    def users(self) -> int:
        """U, the number of users; their ids are 1..U."""
        return len(self.offsets) - 2

    @property
    def lengths(self) -> IntArray:
        """(U + 1,) the number of items of each user; [0] is 0."""
        return np.diff(self.offsets)

    def of(self, user: int) -> IntArray:
        """The items of one user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def owners(self) -> IntArray:
        """(n,) the user each entry of `items` belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def ages(self) -> IntArray:
        """(n,) how many items of the same history come after each entry of `items`."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))

    def last(self, n: int) -> Histories:
        """The last `n` items of each."""
        return Histories(self.items[self.ages() < n], offsets_of(np.minimum(self.lengths[1:], n)))

    def counts(self, items: int) -> IntArray:
        """(I + 1,) how often each item occurs; [0] is 0."""
        return np.bincount(self.items, minlength=items + 1).astype(np.int64)

    def select(self, users: IntArray) -> Histories:
        """The histories of `users` (n,), renumbered 1..n in the order given; an id may repeat."""
        begins = self.offsets[users]
        lengths = self.offsets[users + 1] - begins  # of these alone: there may be a hundred million others
        starts = np.repeat(begins, lengths)
        offsets = offsets_of(lengths)
        within = np.arange(lengths.sum()) - np.repeat(offsets[1:-1], lengths)
        return Histories(self.items[starts + within], offsets)

    def keep(self, kept: BoolArray) -> Histories:
        """Of the same users, the entries of `items` where `kept` (n,) is true."""
        lengths = np.bincount(self.owners()[kept], minlength=len(self.lengths))
        return Histories(self.items[kept], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def append(self, items: IntArray) -> Histories:
        """With one more item for each user whose entry in `items` (U + 1,) is not 0."""
        more = items > 0
        last = np.repeat(self.offsets[1:], more)  # insert at the end of each user's range
        return Histories(
            np.insert(self.items, last, items[more]), np.concatenate([[0], np.cumsum(self.lengths + more)])
        )


def offsets_of(lengths: IntArray) -> IntArray:
    """(n,) lengths of users 1..n to (n + 2,) offsets, with the empty user 0 in front.

    >>> offsets_of(np.array([2, 0, 3]))
    array([0, 0, 2, 2, 5])
    """
    return np.concatenate([[0, 0], np.cumsum(lengths)]).astype(np.int64)


def from_lists(lists: list[list[int]]) -> Histories:
    """Histories of users 1..n from Python lists.

    >>> from_lists([[3, 1], [2]]).of(1)
    array([3, 1])
    """
    lengths = np.array([len(one) for one in lists], dtype=np.int64)
    return Histories(np.array([item for one in lists for item in one], dtype=np.int64), offsets_of(lengths))
