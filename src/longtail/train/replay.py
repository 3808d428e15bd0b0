"""Batches of what is new, and of a share of what is old, so that it is not forgotten."""

from __future__ import annotations

import math

import numpy as np

from longtail.data.histories import BoolArray, IntArray
from longtail.nn.batch import TrainingBatches


class Replay(TrainingBatches):
    """An epoch of every new target, each after what came before it, and of others, drawn anew each time.

    whole: the batches of all of training. new: (n,) which items of its histories are new. share: old targets an epoch,
    as a share of the new ones. size: targets a step. Of batches that are not of prefixes (`TrainingBatches`), the same
    with users in place of targets: those who have a new item, and others. The steps of an epoch depend on how much is
    new, and not on how much there is.
    """

    def __init__(self, whole: TrainingBatches, new: BoolArray, *, share: float, size: int) -> None:
        every = whole.users if whole.places is None else whole.places
        news = np.unique(whole.histories.owners()[new]) if whole.places is None else np.flatnonzero(new)
        self.new, self.old = np.intersect1d(every, news), np.setdiff1d(every, news)
        self.replayed, self.size = min(round(share * len(self.new)), len(self.old)), size
        super().__init__(
            whole.histories,
            whole.sampler,
            batch_size=whole.batch_size,
            max_len=whole.window - 1,
            masked=whole.masked,
            last_only=whole.last_only,
            drop_last=whole.drop_last,
            prefixes=whole.places is not None,
        )

    def __len__(self) -> int:
        return max(math.ceil((len(self.new) + self.replayed) / self.size), 1)

    def dealt(self, generator: np.random.Generator) -> list[IntArray]:
        """The new users or places in random company with old ones, which are others every time."""
        drawn = generator.choice(self.old, self.replayed, replace=False)
        chosen = generator.permutation(np.concatenate([self.new, drawn]))
        return [part for part in np.array_split(chosen, len(self)) if len(part)]
