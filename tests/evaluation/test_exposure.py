"""Figures of lists against slow definitions, and their bounds."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.evaluation import exposure
from longtail.evaluation.exposure import coverage, diversity, gini, list_figures, novelty, popularity, tail_share

ITEMS = 9
ROW = st.lists(st.integers(1, ITEMS), unique=True, max_size=4).map(lambda row: row + [0] * (4 - len(row)))
LISTS = st.lists(ROW, min_size=1, max_size=8)
COUNTS = st.lists(st.integers(0, 30), min_size=ITEMS, max_size=ITEMS).map(lambda counts: np.array([0, *counts]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@given(LISTS, COUNTS, st.integers(0, 9))
def test_figures_of_lists_equal_slow_loops(rows: list[list[int]], counts: np.ndarray, seed: int) -> None:
    lists, real = np.array(rows), [[item for item in row if item] for row in rows]
    vectors = np.random.default_rng(seed).normal(size=(ITEMS + 1, 5)).astype(np.float32)
    vectors[[0, 3]] = 0  # padding, and an item without a text
    head = counts >= 10
    total = counts.sum() + ITEMS

    def cosine(one: int, other: int) -> float:
        a, b = vectors[one].astype(float), vectors[other].astype(float)
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) if a.any() and b.any() else 0.0

    slow = {
        popularity: [_mean([counts[item] for item in row]) for row in real],
        novelty: [_mean([-math.log2((counts[item] + 1) / total) for item in row]) for row in real],
    }
    for function, expected in slow.items():
        np.testing.assert_allclose(function(lists, counts), expected)
    np.testing.assert_allclose(tail_share(lists, head), [_mean([counts[item] < 10 for item in row]) for row in real])
    pairs = [_mean([1 - cosine(*pair) for pair in combinations(row, 2)]) for row in real]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exposure, "LISTS", 3)
        np.testing.assert_allclose(diversity(lists, vectors), pairs, atol=1e-5)
    shown = [sum(row.count(item) for row in real) for item in range(1, ITEMS + 1)]
    assert coverage(lists, ITEMS) == pytest.approx(sum(times > 0 for times in shown) / ITEMS)
    # Half the relative mean absolute difference, over all ordered pairs: the definition that lkpy tests with too.
    differences = sum(abs(one - other) for one in shown for other in shown)
    assert gini(lists, ITEMS) == pytest.approx(differences / (2 * ITEMS * sum(shown)) if sum(shown) else 0.0)


@given(LISTS, COUNTS)
def test_figures_of_lists_keep_their_bounds(rows: list[list[int]], counts: np.ndarray) -> None:
    lists, vectors = np.array(rows), np.random.default_rng(0).normal(size=(ITEMS + 1, 3)).astype(np.float32)
    assert 0 <= coverage(lists, ITEMS) <= 1 and -1e-12 <= gini(lists, ITEMS) < 1
    assert (popularity(lists, counts) >= 0).all() and (popularity(lists, counts) <= counts.max()).all()
    shares = tail_share(lists, counts >= 10)
    assert (shares >= 0).all() and (shares <= 1).all()
    least, most = (-math.log2((count + 1) / (counts.sum() + ITEMS)) for count in (counts.max(), counts[1:].min()))
    given_any = (lists > 0).any(1)
    surprise = novelty(lists, counts)[given_any]
    assert (surprise >= least - 1e-9).all() and (surprise <= most + 1e-9).all()
    assert (diversity(lists, vectors) >= -1e-5).all() and (diversity(lists, vectors) <= 2 + 1e-5).all()


def test_equal_items_are_not_diverse_and_opposite_ones_are_most() -> None:
    vectors = np.array([[0, 0], [3, 0], [1, 0], [-2, 0]], np.float32)
    np.testing.assert_allclose(diversity(np.array([[1, 2], [1, 3], [2, 0]]), vectors), [0, 2, 0], atol=1e-6)


def test_lists_are_cut_at_each_k_and_averaged_over_groups_of_users() -> None:
    lists, counts = np.array([[1, 2], [3, 1]]), np.array([0, 8, 4, 2])
    users = {"tail_users": np.array([True, False]), "nobody": np.array([False, False])}
    made = {(f.group, f.metric): f for f in list_figures(lists, counts, counts >= 8, None, users, (1, 2))}
    assert {f.protocol for f in made.values()} == {"full"}
    assert made["all", "coverage@1"].value == pytest.approx(2 / 3) and made["all", "coverage@2"].value == 1
    assert made["tail_users", "popularity@1"].value == 8 and made["tail_users", "popularity@2"].value == 6
    assert made["all", "tail_share@1"].value == 0.5 and made["nobody", "novelty@2"].value is None
    assert not any("diversity" in metric for _, metric in made)
