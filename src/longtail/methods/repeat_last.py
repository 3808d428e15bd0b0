"""Repeat-last: the user's own items again, the last one first. It asks how much of the data is habit.

It says nothing of an item that the user has not touched. Where seen items are left out, as in full ranking and in
recommendations, that leaves nothing: its figures are 0 on data without repeats, and it recommends nothing. On data with
repeats, a target that is a repeat is the one seen item that stays a candidate: its figure is then the share of repeats.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, Method, MethodConfig, Scores, methods, parts

log = logging.getLogger(__name__)


class RepeatLastConfig(MethodConfig):
    """Repeating has no settings."""

    name: Literal["repeat_last"] = "repeat_last"


class RepeatLast(Method):
    """score(u, i) = 1 / (1 + age of u's latest i), -inf without one; the age of the last item is 0."""

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Nothing is learned; a warning if nobody ever repeats."""
        pairs = train.owners() * (self.sizes.items + 1) + train.items
        if len(np.unique(pairs)) == len(pairs):
            log.warning(
                "repeat_last: no user of the training data comes back to an item; where seen items are left out "
                "it ranks and recommends nothing"
            )

    def scorer(self, rows: int) -> Callable[[Histories], Scores]:
        """Scores of what is in the history alone."""
        width = self.sizes.items + 1

        def score(histories: Histories) -> Scores:
            freshness = torch.from_numpy((1 / (1 + histories.ages())).astype(np.float32))
            for part in parts(histories.users, rows):
                own = slice(histories.offsets[part.start + 1], histories.offsets[part.stop + 1])
                cells = torch.from_numpy((histories.owners()[own] - 1 - part.start) * width + histories.items[own])
                scores = torch.full(((part.stop - part.start) * width,), -torch.inf)
                yield part, scores.scatter_reduce_(0, cells, freshness[own], "amax").view(-1, width)

        return score


methods.register("repeat_last")((RepeatLastConfig, RepeatLast))
