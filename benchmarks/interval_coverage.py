"""How often intervals over seeds and users hold the true mean, and if seeds were drawn again (docs/statistics.md)."""

from __future__ import annotations

import argparse

import numpy as np

from longtail.evaluation.statistics import Floats, resampled_means, seeds_and_users

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
    """Print the table of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000, help="simulations a cell")
    times, generator = parser.parse_args().times, np.random.default_rng(5)
    print("| deviation of seeds | " + " | ".join(f"{sd:g}" for sd, _ in DEVIATIONS) + " |")
    print("|" + " --- |" * (len(DEVIATIONS) + 1))
    for S in SEEDS:
        found = [coverage(S, sd, luck, times, generator) for sd, luck in DEVIATIONS]
        print(f"| {S} seeds | " + " | ".join(f"{ours:.3f} ({plain:.3f})" for ours, plain in found) + " |")


if __name__ == "__main__":
    main()
