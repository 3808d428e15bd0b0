"""How often intervals over seeds and users hold the true mean, and if seeds were drawn again (docs/statistics.md)."""

from __future__ import annotations

import sys

import numpy as np

import measure
from longtail.evaluation.statistics import Floats, resampled_means, seeds_and_users
from measure import Claim

USERS, DRAWS = 100, 400
SEEDS, DEVIATIONS = (2, 3, 5), ((0.0, 1.0), (0.1, 1.0), (0.3, 1.0), (1.0, 0.01))  # of seeds, and of a seed's luck


def drawn_again(values: Floats, generator: np.random.Generator) -> tuple[float, float]:
    """The plain two-level bootstrap: users and seeds drawn with replacement. values (S, n)."""
    S = len(values)
    means = resampled_means(values.T, generator, DRAWS)
    chosen = np.take_along_axis(means, generator.integers(S, size=(DRAWS, S)), axis=1).mean(axis=1)
    low, high = np.quantile(chosen, [0.025, 0.975])
    return float(low), float(high)


def coverage(S: int, seed_sd: float, luck: float, times: int, generator: np.random.Generator) -> tuple[float, float]:
    """Shares of `times` simulations whose interval holds the true mean, zero: ours, and the plain bootstrap's."""
    hits = np.zeros(2)
    for _ in range(times):
        values = seed_sd * generator.normal(size=(S, 1)) + generator.normal(size=USERS)
        values = values + luck * generator.normal(size=(S, USERS))
        for at, (low, high) in enumerate((seeds_and_users(values, generator, DRAWS), drawn_again(values, generator))):
            hits[at] += low <= 0 <= high
    ours, plain = hits / times
    return float(ours), float(plain)


def main() -> None:
    """The cells of the table in docs/statistics.md, with a twentieth of the simulations if it has to be quick."""
    quick = measure.parser(__doc__).parse_args().quick
    times, generator = 50 if quick else 1000, np.random.default_rng(5)
    cells = []
    for S in SEEDS:
        for sd, luck in DEVIATIONS:
            ours, plain = coverage(S, sd, luck, times, generator)
            cells.append({"seeds": S, "deviation": sd, "ours": ours, "drawn_again": plain})
    measure.table(f"share of {times:,} 95% intervals that hold the true mean", cells)
    worst, plain = (min(float(cell[name]) for cell in cells) for name in ("ours", "drawn_again"))
    claims = [
        Claim(
            "lowest share of 95% intervals that hold the mean", worst, "share", None if quick else 0.85, at_most=False
        ),
        Claim("the same if seeds are drawn again", plain, "share"),
    ]
    measure.finish("interval_coverage", claims, {"simulations": times, "users": USERS, "cells": cells}, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
