"""The tail dial: one number between most accurate overall and most exposure for the tail, and where its knee is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

DIAL = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # values that are looked at
TINY = 1e-9  # a distance between the ends that is none


def knee(curve: Mapping[float, tuple[float, float]]) -> float:
    """The value whose point, (overall, tail), lies furthest above the line between the ends of the curve.

    Both axes are measured in the distance between the ends.

    >>> knee({0.0: (1.0, 0.0), 0.5: (0.9, 0.6), 1.0: (0.0, 1.0)})
    0.5
    """
    points = np.array(list(curve.values()))  # (n, 2)
    spans = np.abs(points[-1] - points[0])
    above = ((points - points[0]) / np.where(spans > TINY, spans, 1)).sum(1)
    return list(curve)[int(above.argmax())]
