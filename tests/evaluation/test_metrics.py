"""Metrics against ten slow lines, and their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.evaluation.metrics import METRICS, figures


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(1, 50))
def test_metrics_equal_a_slow_ranked_list(ranks: list[int], k: int) -> None:
    slow = {"hr": 0.0, "ndcg": 0.0, "mrr": 0.0}
    for rank in ranks:
        relevance = [1.0 if position == rank else 0.0 for position in range(100)][:k]
        slow["hr"] += sum(relevance) / len(ranks)
        slow["ndcg"] += sum(gain / math.log2(place + 2) for place, gain in enumerate(relevance)) / len(ranks)
        slow["mrr"] += sum(gain / (place + 1) for place, gain in enumerate(relevance)) / len(ranks)
    found = {f.metric: f.value for f in figures("full", np.array(ranks), {"all": np.ones(len(ranks), bool)}, [k])}
    assert found == {f"{name}@{k}": pytest.approx(value) for name, value in slow.items()}
    assert 0 <= found[f"mrr@{k}"] <= found[f"ndcg@{k}"] <= found[f"hr@{k}"] <= 1


def test_an_empty_group_has_no_value_and_says_so() -> None:
    inside = {"all": np.array([True, True]), "nobody": np.array([False, False])}
    made = figures("full", np.array([0, 30]), inside, [10])
    assert {(f.group, f.n) for f in made} == {("all", 2), ("nobody", 0)}
    assert {f.value for f in made if f.group == "nobody"} == {None}
    assert len(made) == 2 * len(METRICS)
