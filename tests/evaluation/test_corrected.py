"""Corrected estimates against simulation, enumeration and a slow objective."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.evaluation import corrected as module
from longtail.evaluation.corrected import balanced, corrected, unbiased_rank
from longtail.evaluation.metrics import METRICS, hr, ndcg


@pytest.mark.parametrize("decay", [20.0, 60.0, 300.0])
@pytest.mark.parametrize("n", [1_500, 12_000])
def test_corrected_figures_are_closer_to_the_truth_than_raw_ones(n: int, decay: float) -> None:
    """Full ranks of 20,000 users with chance ~ 1 / (rank + decay), each with its rank among 100 uniform candidates."""
    generator = np.random.default_rng(int(decay))
    chance = 1 / (np.arange(n) + decay)
    full = generator.choice(n, size=20_000, p=chance / chance.sum())
    sampled = generator.hypergeometric(full, n - 1 - full, 100)
    found = corrected(sampled, np.full(20_000, n), 100, (10,))
    for name, metric in (("hr@10", hr), ("ndcg@10", ndcg)):
        truth = metric(full, 10).mean()
        raw, unbiased, balanced = (
            abs(values.mean() - truth)
            for values in (metric(sampled, 10), found["unbiased"][name], found["balanced"][name])
        )
        assert unbiased < 0.8 * raw and balanced < unbiased and balanced < raw / 10, name


@given(st.integers(2, 40), st.data())
def test_the_estimated_rank_is_right_in_the_mean(n: int, data: st.DataObject) -> None:
    """Over all samples of N of n - 1 others, by enumeration of the counts: E[(n - 1) r' / N] = r."""
    N, r = data.draw(st.integers(1, n - 1)), data.draw(st.integers(0, n - 1))
    of = [math.comb(r, j) * math.comb(n - 1 - r, N - j) / math.comb(n - 1, N) for j in range(min(N, r) + 1)]
    chances = module._hypergeometric(n, N, np.array([r]))[0]
    np.testing.assert_allclose(chances, of + [0.0] * (N + 1 - len(of)), atol=1e-9)
    assert (n - 1) * (chances @ np.arange(N + 1)) / N == pytest.approx(r, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_with_every_item_a_candidate_nothing_needs_correcting(name: str) -> None:
    ranks, metric = np.arange(30), METRICS[name]
    np.testing.assert_allclose(unbiased_rank(ranks, np.full(30, 30), 29, metric, 10), metric(ranks, 10))
    np.testing.assert_allclose(balanced(30, 29, [(metric, 10)])[0], metric(ranks, 10), atol=1e-6)


def test_a_rank_is_a_hit_only_if_its_estimate_is_within_k() -> None:
    """n = 91 and N = 20: each place is worth 4.5, so that sampled rank 1 is estimated as 4.5, counted from 0: out of the
    first five, whose last is 4, but in the first six."""
    assert unbiased_rank(np.array([0, 1, 2]), np.full(3, 91), 20, hr, 5).tolist() == [1, 0, 0]
    assert unbiased_rank(np.array([0, 1, 2]), np.full(3, 91), 20, hr, 6).tolist() == [1, 1, 0]


@pytest.mark.parametrize("gamma", [0.01, 0.1, 0.5])
def test_no_other_values_have_less_squared_bias_and_variance(gamma: float) -> None:
    n, N = 60, 12

    def objective(values: np.ndarray) -> float:
        total = 0.0
        for r in range(n):
            of = [math.comb(r, j) * math.comb(n - 1 - r, N - j) / math.comb(n - 1, N) for j in range(N + 1)]
            mean = sum(p * value for p, value in zip(of, values, strict=True))
            variance = sum(p * (value - mean) ** 2 for p, value in zip(of, values, strict=True))
            truth = 1 / math.log2(r + 2) if r < 10 else 0.0
            total += ((mean - truth) ** 2 + gamma * variance) / n
        return total

    found, generator = balanced(n, N, [(hr, 5), (ndcg, 10)], gamma)[1], np.random.default_rng(0)
    least = objective(found)
    for size in (1e-3, 1e-1):
        assert all(objective(found + size * generator.normal(size=N + 1)) > least for _ in range(20))


def test_ranks_taken_together_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = balanced(3_000, 50, [(ndcg, 10)])
    monkeypatch.setattr(module, "DENSE", 200)
    monkeypatch.setattr(module, "PARTS", 600)
    middles, p = module._ranks(3_000)
    assert len(middles) < 801 and p.sum() == pytest.approx(1) and (np.diff(middles) > 0).all()
    np.testing.assert_allclose(balanced(3_000, 50, [(ndcg, 10)]), exact, atol=1e-4)
