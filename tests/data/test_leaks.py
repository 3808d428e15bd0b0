"""Columns whose contents count what users did."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from longtail.data.leaks import leak

GENERATOR = np.random.default_rng(0)
TRAIN = GENERATOR.poisson(8 * GENERATOR.random(2000) ** 2)
HELD_OUT = GENERATOR.poisson(0.3 * TRAIN + 0.2)
TOTAL = TRAIN + HELD_OUT


def kind(values: object) -> str | None:
    found = leak(pl.Series("column", values), TRAIN, HELD_OUT)
    return None if found is None else found.kind


def test_a_column_that_knows_the_held_out_interactions_is_told_from_one_that_knows_training_alone() -> None:
    assert kind(TOTAL) == "future"
    assert kind(-np.log1p(TOTAL)) == "future"  # a rank by sales falls as sales rise
    assert kind([str(count) for count in TOTAL]) == "future"
    assert kind(TRAIN) == kind(np.sqrt(TRAIN)) == "popularity"
    assert kind(TRAIN + GENERATOR.normal(size=2000)) == "popularity"
    assert kind(GENERATOR.random(2000)) is None


def test_the_correlations_are_told() -> None:
    found = leak(pl.Series(TOTAL * 3.0), TRAIN, HELD_OUT)
    assert found is not None
    assert found.correlation == pytest.approx(1.0) and found.beyond > 0.5
    explained = leak(pl.Series(TRAIN), TRAIN, HELD_OUT)
    assert explained is not None and abs(explained.beyond) < 1e-6


def test_missing_values_and_few_values_are_left_out() -> None:
    some = [int(count) if item % 3 else None for item, count in enumerate(TOTAL)]
    assert kind(some) == "future"
    assert kind([int(count) if item < 10 else None for item, count in enumerate(TOTAL)]) is None
    assert kind([None] * 2000) is None and kind([7.5] * 2000) is None


def test_words_and_stars_give_a_column_away() -> None:
    assert kind([f"Nice, {count} reviews" for count in TOTAL]) == "words"
    assert kind(["4.5 stars", *["a hotel"] * 3] * 500) == "words"
    assert kind(["A 5-star hotel for your stars", "120 g of rice"] * 1000) is None
    assert kind(GENERATOR.integers(2, 11, 2000) / 2) == "stars"
    assert kind(GENERATOR.integers(1, 6, 2000)) is None  # whole numbers from 1 to 5 may be anything
