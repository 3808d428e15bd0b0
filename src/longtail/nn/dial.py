"""What validation chooses: weights of terms, and the tail dial, between most accurate overall and most for the tail."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

DIAL = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # values that are looked at
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of each weight, to choose from
PRICE = 0.01  # of the overall, at most, that the knee pays for the tail
TINY = 1e-9  # a distance between the ends that is none


def knee(curve: Mapping[float, tuple[float, float]]) -> float:
    """The value whose point, (overall, tail), lies furthest above the line between the ends of the curve.

    Both axes are measured in the distance between the ends. Values that cost more than PRICE of the overall at the
    first are left out: where the curve bends late, its knee would be paid for by the head.

    >>> knee({0.0: (1.0, 0.0), 0.1: (0.998, 0.1), 0.2: (0.995, 0.6), 0.8: (0.98, 1.5), 1.0: (0.5, 1.6)})
    0.2
    """
    points = np.array(list(curve.values()))  # (n, 2)
    spans = np.abs(points[-1] - points[0])
    above = ((points - points[0]) / np.where(spans > TINY, spans, 1)).sum(1)
    above[points[:, 0] < (1 - PRICE) * points[0, 0]] = -np.inf
    return list(curve)[int(above.argmax())]


def best_weights(weights: Tensor, value: Callable[[], float]) -> None:
    """Leave weights (n,) at the FACTORS of theirs whose value is highest: one after the other, and once more.

    value: of the weights as they stand, asked once of each. A weight of 0 stays.
    """
    known: dict[tuple[float, ...], float] = {}

    def at() -> float:
        place = tuple(weights.tolist())
        if place not in known:
            known[place] = value()
        return known[place]

    begun, best = weights.clone(), at()
    for which in [*range(len(weights))] * 2:
        kept = weights[which].clone()
        for factor in FACTORS if begun[which] else ():
            weights[which] = factor * begun[which]
            if (found := at()) > best:
                best, kept = found, weights[which].clone()
        weights[which] = kept
