"""Leave-one-out: the last item of a history tests, the one before validates, the rest trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from longtail.data.histories import Histories, IntArray

if TYPE_CHECKING:
    from longtail.data.dataset import Dataset

MINIMUM = 3  # interactions a user needs to be evaluated


class Split(NamedTuple):
    """Training histories and one held-out target a user and split.

    train: Histories of U users. valid, test: (U + 1,) internal item ids, 0 where the user is not evaluated.
    items: I, the size of the catalogue. data: where it came from, with the external ids and the text.
    """

    train: Histories
    valid: IntArray
    test: IntArray
    items: int
    data: Dataset | None = None

    def targets(self, name: str) -> IntArray:
        """(U + 1,) the targets of 'valid' or 'test'."""
        return {"valid": self.valid, "test": self.test}[name]

    def history(self, name: str) -> Histories:
        """What is known when predicting the targets of 'valid' (train) or of 'test' (train and the valid item)."""
        known: dict[str, Callable[[], Histories]] = {
            "valid": lambda: self.train,
            "test": lambda: self.train.append(self.valid),
        }
        return known[name]()

    def everything(self) -> Histories:
        """All interactions again, for serving: train, valid and test."""
        return self.train.append(self.valid).append(self.test)

    def select(self, users: IntArray) -> Split:
        """The split of `users` (n,) alone, renumbered 1..n in the order given."""
        valid, test = (np.concatenate([[0], targets[users]]) for targets in (self.valid, self.test))
        return Split(self.train.select(users), valid, test, self.items)


def leave_one_out(histories: Histories, items: int) -> Split:
    """Users with fewer than three interactions only train (protocol of LLM-ESR, sec. 4.1).

    >>> from longtail.data.histories import from_lists
    >>> split = leave_one_out(from_lists([[5, 6, 7, 8], [1, 2]]), items=8)
    >>> split.train.of(1), split.valid, split.test, split.train.of(2)
    (array([5, 6]), array([0, 7, 0]), array([0, 8, 0]), array([1, 2]))
    """
    lengths = histories.lengths
    evaluated = lengths >= MINIMUM
    ends = histories.offsets[1:]
    test, valid = np.zeros_like(lengths), np.zeros_like(lengths)
    test[evaluated] = histories.items[ends[evaluated] - 1]
    valid[evaluated] = histories.items[ends[evaluated] - 2]
    held_out = np.concatenate([ends[evaluated] - 1, ends[evaluated] - 2])
    kept = np.delete(histories.items, held_out)
    train = Histories(kept, np.concatenate([[0], np.cumsum(lengths - 2 * evaluated)]))
    return Split(train, valid, test, items)
