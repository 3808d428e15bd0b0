"""Tests and intervals against scipy and slow loops, and by simulation: uniform p-values, nominal coverage."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from longtail.evaluation import statistics
from longtail.evaluation.statistics import (
    Floats,
    Outcome,
    bootstrap,
    d_z,
    holm,
    paired_t,
    rank_biserial,
    resampled_means,
    seeds_and_users,
    seeds_part,
    spread,
    stars,
    welch,
    wilcoxon,
)

GAINS = 1 / np.log2(np.arange(10) + 2.0)


def ndcg_values(generator: np.random.Generator, n: int, hit: float = 0.08) -> Floats:
    """NDCG@10 as full ranking gives it: zero for most users."""
    return np.where(generator.random(n) < hit, GAINS[generator.integers(10, size=n)], 0.0)


@pytest.mark.parametrize("test", [paired_t, wilcoxon])
def test_permuted_labels_give_uniform_p_values(test: Callable[[Floats], Outcome]) -> None:
    generator = np.random.default_rng(1)
    differences = ndcg_values(generator, 2000, 0.12) - ndcg_values(generator, 2000, 0.06)
    ps = [test(differences * generator.choice([-1.0, 1.0], size=len(differences))).p for _ in range(500)]
    assert stats.kstest(ps, "uniform").pvalue > 0.05
    assert test(differences).p < 1e-4  # the labels as they were do tell the two apart


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 60), st.floats(0.05, 1.0))
def test_t_wilcoxon_and_welch_equal_scipys(seed: int, n: int, hit: float) -> None:
    generator = np.random.default_rng(seed)
    first, second = ndcg_values(generator, n, hit), ndcg_values(generator, n, hit)
    if np.ptp(first - second) and first.var() + second.var():
        expected = stats.ttest_rel(first, second)
        assert paired_t(first - second) == pytest.approx((expected.statistic, expected.pvalue, n))
        expected = stats.ttest_ind(first, second[1:], equal_var=False) if n > 2 and second[1:].var() else None
        if expected is not None:
            assert welch(first, second[1:])[:2] == pytest.approx((expected.statistic, expected.pvalue))
    if (first != second).any():
        method = {"zero_method": "pratt", "correction": False, "method": "asymptotic"}
        assert wilcoxon(first - second).p == pytest.approx(stats.wilcoxon(first, second, **method).pvalue)


@given(st.lists(st.sampled_from([-0.5, -0.1, 0.0, 0.1, 0.5, 0.7]), min_size=1, max_size=30))
def test_rank_biserial_equals_a_slow_loop_over_midranks(values: list[float]) -> None:
    plus = minus = 0.0
    for value in values:
        smaller = sum(abs(other) < abs(value) for other in values)
        rank = smaller + (sum(abs(other) == abs(value) for other in values) + 1) / 2
        plus, minus = plus + rank * (value > 0), minus + rank * (value < 0)
    slow = (plus - minus) / (plus + minus) if plus + minus else 0.0
    assert rank_biserial(np.array(values)) == pytest.approx(slow)


def test_rounding_makes_no_rank() -> None:
    """(a + b + c) / 3 depends on the order of the sum; users alike but for that are alike."""
    generator = np.random.default_rng(0)
    seeds = GAINS[generator.integers(10, size=(3, 500))]
    noise = seeds.mean(axis=0) - (seeds[1] + seeds[2] + seeds[0]) / 3
    assert noise.any()
    assert wilcoxon(noise).p == 1.0 and rank_biserial(noise) == 0.0


def test_a_model_compared_with_itself_never_differs() -> None:
    none = np.zeros(50)
    assert paired_t(none).p == wilcoxon(none).p == welch(none, none).p == 1.0
    assert d_z(none) == rank_biserial(none) == 0.0 and stars(paired_t(none).p) == ""
    assert np.isnan([paired_t(none[:1]).p, welch(none, none[:1]).p]).all()  # one value says nothing


def test_effect_sizes_have_the_sign_and_size_of_the_difference() -> None:
    differences = np.array([1.0, 2.0, 3.0])
    assert d_z(differences) == 2.0 and d_z(-differences) == -2.0
    assert rank_biserial(differences) == 1.0 and rank_biserial(-differences) == -1.0
    assert d_z(np.ones(3)) == np.inf


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12))
def test_holm_equals_the_textbook_loop(ps: list[float]) -> None:
    order = sorted((p, at) for at, p in enumerate(ps) if not np.isnan(p))
    slow, before = list(ps), 0.0
    for step, (p, at) in enumerate(order):
        before = max(before, (len(order) - step) * p)
        slow[at] = min(before, 1.0)
    assert holm(ps) == pytest.approx(np.array(slow), nan_ok=True)


def test_holm_gives_published_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Wikipedia, Holm-Bonferroni
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])  # R's p.adjust


def test_spread_divides_by_one_less_and_one_value_has_none() -> None:
    assert spread([0.1, 0.2, 0.6]) == pytest.approx((0.3, np.std([0.1, 0.2, 0.6], ddof=1), 3))
    assert np.isnan(spread([0.1]).sd)


@pytest.mark.parametrize("cells", [64, 2**20])
def test_resampled_means_are_those_of_rows_drawn_with_replacement(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against drawing whole rows: mean, deviation and correlation of two columns, most rows of which are zero."""
    monkeypatch.setattr(statistics, "CELLS", cells)
    generator = np.random.default_rng(0)
    values = np.stack([ndcg_values(generator, 200, 0.2), np.zeros(200)], axis=1)
    values[:, 1] = np.where(generator.random(200) < 0.5, values[:, 0], 0.0)
    found = resampled_means(values, generator, 20_000)
    plain = values[generator.integers(200, size=(20_000, 200))].mean(axis=1)
    assert found.mean(axis=0) == pytest.approx(values.mean(axis=0), rel=0.02)
    assert found.std(axis=0) == pytest.approx(plain.std(axis=0), rel=0.04)
    assert np.corrcoef(found.T)[0, 1] == pytest.approx(np.corrcoef(plain.T)[0, 1], abs=0.03)
    for quantile in (0.025, 0.5, 0.975):
        assert stats.percentileofscore(plain[:, 0], np.quantile(found[:, 0], quantile)) == pytest.approx(
            100 * quantile, abs=2
        )


def test_resampling_many_users_holds_no_matrix_of_users_by_draws() -> None:
    values = np.random.default_rng(0).random((400_000, 1))
    tracemalloc.start()
    resampled_means(values, np.random.default_rng(0), 40)  # 400,000 x 40 numbers are 128 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipys(kind: str) -> None:
    values = ndcg_values(np.random.default_rng(3), 150, 0.3)
    mine = bootstrap(values, np.random.default_rng(0), 20_000, kind=kind)  # type: ignore[arg-type]
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=kind, rng=np.random.default_rng(1))
    width = mine.high - mine.low
    assert mine == pytest.approx(tuple(expected.confidence_interval), abs=0.02 * width)


def test_bca_equals_the_textbook_with_a_jackknife_loop() -> None:
    values = ndcg_values(np.random.default_rng(3), 60)
    means = resampled_means(values[:, None], np.random.default_rng(0), 3000)[:, 0]
    left_out = np.array([np.delete(values, at).mean() for at in range(60)])
    off = left_out.mean() - left_out
    a = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    z0 = stats.norm.ppf((np.mean(means < values.mean()) + np.mean(means <= values.mean())) / 2)
    z = stats.norm.ppf([0.025, 0.975])
    levels = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    assert abs(z0) > 0.01 and a > 0.05  # both corrections matter here
    found = bootstrap(values, np.random.default_rng(0), 3000, kind="bca")
    assert found == pytest.approx(tuple(np.quantile(means, levels)))


@given(st.integers(0, 10**6), st.integers(2, 80), st.floats(0.0, 1.0), st.integers(1, 4))
@settings(max_examples=60)
def test_intervals_contain_the_mean(seed: int, n: int, hit: float, S: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.stack([ndcg_values(generator, n, hit) for _ in range(S)])
    low, high = seeds_and_users(values, generator, 300)
    assert low <= values.mean() + 1e-12 and values.mean() <= high + 1e-12
    low, high = bootstrap(values[0], generator, 300)
    assert low <= values[0].mean() + 1e-12 and values[0].mean() <= high + 1e-12


def test_one_user_has_no_interval() -> None:
    generator = np.random.default_rng(0)
    assert np.isnan([*bootstrap(np.ones(1), generator), *seeds_and_users(np.ones((3, 1)), generator)]).all()


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_intervals_over_users_cover_the_true_mean_about_as_often_as_they_say(kind: str) -> None:
    generator = np.random.default_rng(0)
    truth, hits = 0.08 * GAINS.mean(), 0
    for _ in range(500):
        low, high = bootstrap(ndcg_values(generator, 600), generator, 400, kind=kind)  # type: ignore[arg-type]
        hits += low <= truth <= high
    assert 0.92 <= hits / 500 <= 0.98


@pytest.mark.parametrize(
    ("S", "seed_sd", "luck"),
    [(3, 0.0, 0.01), (3, 0.0, 1.0), (3, 0.1, 1.0), (3, 1.0, 0.01), (5, 0.3, 1.0), (2, 0.1, 1.0)],
)
def test_intervals_over_seeds_and_users_cover_the_true_mean_about_as_often_as_they_say(
    S: int, seed_sd: float, luck: float
) -> None:
    """seed_sd: how much seeds differ; luck: how much a seed's luck with a user; users differ by 1, there are 100."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(400):
        values = seed_sd * generator.normal(size=(S, 1)) + generator.normal(size=100)
        values = values + luck * generator.normal(size=(S, 100))
        low, high = seeds_and_users(values, generator, 400)
        hits += low <= 0 <= high
    assert 0.90 <= hits / 400 <= 0.985


def test_the_spread_of_seeds_leaves_out_their_luck_with_users() -> None:
    """Seeds deviate by 0.5, so that the mean of three has variance 0.25 / 3; luck alone would add 4 / 50 / 3."""
    generator = np.random.default_rng(0)
    made = 0.5 * generator.normal(size=(2000, 3, 1)) + 2 * generator.normal(size=(2000, 3, 50))
    parts = [seeds_part(values, generator, 100) for values in made]
    assert np.mean([part.variance for part in parts]) == pytest.approx(0.25 / 3, rel=0.1)
    assert np.mean([part.draws.var() for part in parts]) == pytest.approx(0.25 / 3, rel=0.1)


def test_few_seeds_that_differ_much_widen_the_interval_and_seeds_alike_do_not() -> None:
    generator = np.random.default_rng(0)
    users = ndcg_values(generator, 1000)
    alone = seeds_and_users(users[None], np.random.default_rng(0))
    alike = seeds_and_users(np.stack([users] * 3), np.random.default_rng(0))
    apart = seeds_and_users(users + np.array([[-0.02], [0.0], [0.02]]), np.random.default_rng(0))
    assert alike == pytest.approx(alone)
    assert apart.high - apart.low > 3 * (alone.high - alone.low)
