"""Seconds that `longtail doctor` takes to examine a million interactions, with a filter, texts and planted ties."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

import longtail as lt
import measure
from longtail.data.doctor import examine
from measure import Claim


def generated(interactions: int, users: int, items: int) -> lt.Dataset:
    """Interactions at times to ten minutes, a few items far more popular than the rest, each with title and price."""
    generator = np.random.default_rng(0)
    bought = (items * generator.random(interactions) ** 2).astype(np.int64)
    times = 1_500_000_000 + generator.integers(0, 10**8, interactions) // 600 * 600
    log = pl.DataFrame(
        {"user_id": generator.integers(0, users, interactions), "item_id": bought, "timestamp": times}
    ).with_columns(pl.format("u{}", "user_id").alias("user_id"), pl.format("i{}", "item_id").alias("item_id"))
    named = pl.DataFrame({"item_id": [f"i{item}" for item in range(items)], "price": generator.random(items)})
    return lt.Dataset.read(log, named.with_columns(title=pl.format("Thing {}", "item_id")))


def main() -> None:
    """Time one size, or a tenth of it."""
    quick = measure.parser(__doc__).parse_args().quick
    sizes = (100_000, 10_000, 5_000) if quick else (1_000_000, 100_000, 50_000)
    data = generated(*sizes)
    took = measure.seconds(lambda: examine(data, min_user=5, min_item=5))
    name = f"examine {sizes[0]:,} interactions"
    details = {"interactions": sizes[0], "users": sizes[1], "items": sizes[2]}
    return measure.finish("doctor", [Claim(name, took, "s", 5)], details, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
