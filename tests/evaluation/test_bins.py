"""Five groups by training count against a slow loop; points of a plane."""

from __future__ import annotations

import importlib.machinery
import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.evaluation import projection
from longtail.evaluation.bins import ITEM_EDGES, USER_EDGES, binned, labels

PAIRS = st.lists(st.tuples(st.integers(0, 130), st.floats(0, 1)), max_size=40)


@given(PAIRS, st.sampled_from([USER_EDGES, ITEM_EDGES]))
def test_groups_equal_a_slow_loop(pairs: list[tuple[int, float]], edges: tuple[int, ...]) -> None:
    counts, values = (np.array([pair[at] for pair in pairs], dtype) for at, dtype in ((0, np.int64), (1, np.float64)))
    found = binned(counts, values, edges)
    lows, highs = (0, *edges), (*edges, 10**9)
    for at, (low, high) in enumerate(zip(lows, highs, strict=True)):
        inside = [value for count, value in pairs if low <= count < high]
        assert found.n[at] == len(inside)
        assert np.isnan(found.means[at]) if not inside else np.isclose(found.means[at], sum(inside) / len(inside))


def test_groups_are_called_by_the_counts_they_hold() -> None:
    assert labels(USER_EDGES) == ("<5", "5-9", "10-14", "15-19", "≥20")
    assert labels(ITEM_EDGES) == ("<10", "10-29", "30-59", "60-99", "≥100")


def test_a_projection_keeps_clusters_apart_and_is_the_same_on_every_call() -> None:
    pytest.importorskip("sklearn")
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    rows[30:] += 20
    first, again = projection.project(rows), projection.project(rows)
    assert first.how == "t-SNE" and (first.places == again.places).all() and first.places.shape == (60, 2)
    a, b = first.places[:30], first.places[30:]
    within = max(np.linalg.norm(one - one.mean(0), axis=1).mean() for one in (a, b))
    assert np.linalg.norm(a.mean(0) - b.mean(0)) > 2 * within


def test_without_scikit_learn_the_plane_is_that_of_the_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def none(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        return None if name == "sklearn" else find(name, package)

    monkeypatch.setattr(projection, "find_spec", none)
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * np.array([9, 5, 1, 1, 1, 1], np.float32)
    found = projection.project(rows)
    assert found.how == "principal components"
    variances = np.sort(np.linalg.eigvalsh(np.cov(rows.astype(np.float64).T)))[::-1]
    assert np.allclose(found.places.var(0, ddof=1), variances[:2])
    assert projection.project(rows[:2, :1]).places.shape == (2, 2)
