"""Re-ranking against slow definitions, what must hold of every list, and propensities against simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.rerank import MIXED, calibrated, dpp, epsilon_greedy, mmr, plain, shares, ucb

Diverse = Callable[[np.ndarray, np.ndarray, int, float], np.ndarray]
DIVERSE = pytest.mark.parametrize("rerank", [mmr, dpp])
SEEDS, STRENGTHS = st.integers(0, 10**6), st.floats(0, 1)


def _request(seed: int, n: int, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) of any scale and unit vectors (n, width); some candidates are left out, by -inf."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n) * 10.0 ** rng.integers(-2, 3)
    scores[rng.random(n) < 0.1] = -np.inf
    vectors = rng.normal(size=(n, width))
    return scores, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _lists(seed: int, n: int, k: int, strength: float) -> dict[str, np.ndarray]:
    """What every re-ranker makes of one request."""
    scores, vectors = _request(seed, n)
    rng = np.random.default_rng(seed + 1)
    groups, counts = rng.integers(2, size=n), rng.integers(50, size=n)
    return {
        "plain": plain(scores, k),
        "mmr": mmr(scores, vectors, k, strength),
        "dpp": dpp(scores, vectors, k, strength),
        "calibrated": calibrated(scores, groups, np.array([0.3, 0.7]), k, strength),
        "epsilon": epsilon_greedy(scores, k, strength, np.random.default_rng(seed)).indices,
        "ucb": ucb(scores, counts, k, strength, np.random.default_rng(seed)).indices,
    }


def _relevance(scores: np.ndarray) -> dict[int, float]:
    """r of each candidate that is one."""
    real = {i: float(s) for i, s in enumerate(scores) if s > -math.inf}
    low, high = min(real.values(), default=0), max(real.values(), default=0)
    return {i: (s - low) / (high - low) if high > low else 0.0 for i, s in real.items()}


def _greedy(scores: np.ndarray, k: int, gain: Callable[[list[int], int], float]) -> list[int]:
    """The slow way: each place by looking at every candidate anew."""
    left, taken = sorted(_relevance(scores), key=lambda i: -scores[i]), []
    while left and len(taken) < k:
        taken.append(max(left, key=lambda i: gain(taken, i)))
        left.remove(taken[-1])
    return taken


@given(SEEDS, st.integers(1, 30), st.integers(1, 12), STRENGTHS)
def test_lists_hold_only_candidates_each_once_and_as_many_as_there_are(
    seed: int, n: int, k: int, strength: float
) -> None:
    scores, _ = _request(seed, n)
    for name, found in _lists(seed, n, k, strength).items():
        assert len(found) == len(set(found.tolist())) == min(k, int(np.isfinite(scores).sum())), name
        assert np.isfinite(scores[found]).all(), name


@given(SEEDS, st.integers(1, 30), st.integers(1, 12))
def test_no_strength_changes_nothing(seed: int, n: int, k: int) -> None:
    scores, _ = _request(seed, n)
    best = [i for i in sorted(range(n), key=lambda i: -scores[i]) if np.isfinite(scores[i])][:k]
    for name, found in _lists(seed, n, k, 0.0).items():
        assert found.tolist() == best, name


@given(SEEDS, st.integers(2, 25), st.integers(1, 8), st.floats(0, 0.9))
def test_the_order_of_candidates_does_not_matter(seed: int, n: int, k: int, strength: float) -> None:
    scores, vectors = _request(seed, n)
    rng = np.random.default_rng(seed + 2)
    groups, counts, turn, wanted = (
        rng.integers(3, size=n),
        rng.integers(9, size=n),
        rng.permutation(n),
        rng.dirichlet([1] * 3),
    )
    for one, other in (
        (mmr(scores, vectors, k, strength), mmr(scores[turn], vectors[turn], k, strength)),
        (dpp(scores, vectors, k, strength), dpp(scores[turn], vectors[turn], k, strength)),
        (calibrated(scores, groups, wanted, k, strength), calibrated(scores[turn], groups[turn], wanted, k, strength)),
    ):
        assert one.tolist() == turn[other].tolist()
    for explore in (
        lambda turn: epsilon_greedy(scores[turn], k, strength, np.random.default_rng(seed)),
        lambda turn: ucb(scores[turn], counts[turn], k, strength, np.random.default_rng(seed)),
    ):
        straight, turned = explore(np.arange(n)), explore(turn)
        assert straight.indices.tolist() == turn[turned.indices].tolist()
        np.testing.assert_allclose(straight.propensities, turned.propensities)


@given(SEEDS, st.integers(1, 25), st.integers(1, 8), STRENGTHS, st.floats(0.1, 100), st.floats(-50, 50))
def test_the_scale_of_a_models_scores_does_not_matter(
    seed: int, n: int, k: int, strength: float, by: float, more: float
) -> None:
    scores, vectors = np.round(_request(seed, n)[0], 3), _request(seed, n)[1]
    assert mmr(scores * by + more, vectors, k, strength).tolist() == mmr(scores, vectors, k, strength).tolist()


@given(SEEDS, st.integers(1, 20), st.integers(1, 8), STRENGTHS)
def test_mmr_equals_its_definition(seed: int, n: int, k: int, strength: float) -> None:
    scores, vectors = _request(seed, n)
    relevance = _relevance(scores)

    def gain(taken: list[int], i: int) -> float:
        redundant = max(float(vectors[i] @ vectors[j]) for j in taken) if taken else 0.0
        return (1 - strength) * relevance[i] - strength * redundant

    assert mmr(scores, vectors, k, strength).tolist() == _greedy(scores, k, gain)


@given(SEEDS, st.integers(1, 12), st.integers(1, 6), st.floats(0, 0.95))
def test_dpp_equals_greedy_growth_of_a_determinant(seed: int, n: int, k: int, strength: float) -> None:
    """log det of Diag(q) K Diag(q) over S, computed anew for each candidate; width 8, so that no K is singular."""
    scores, vectors = _request(seed, n, width=8)
    relevance = _relevance(scores)
    K = (1 + vectors @ vectors.T) / 2

    def gain(taken: list[int], i: int) -> float:
        S = [*taken, i]
        relevant = sum(relevance[j] for j in S)
        return (1 - strength) * relevant + strength * float(np.linalg.slogdet(K[np.ix_(S, S)])[1])

    assert dpp(scores, vectors, k, strength).tolist() == _greedy(scores, k, gain)


def test_dpp_takes_repeated_candidates_last_and_then_by_score() -> None:
    vectors = np.eye(3)[[0, 0, 0, 1, 2]]
    assert dpp(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), vectors, k=5, diversity=0.5).tolist() == [0, 3, 4, 1, 2]


@given(SEEDS, st.integers(1, 20), st.integers(1, 8), st.floats(0, 0.99), st.integers(1, 4))
def test_calibration_equals_its_definition(seed: int, n: int, k: int, strength: float, G: int) -> None:
    scores, _ = _request(seed, n)
    rng = np.random.default_rng(seed + 3)
    groups, wanted, relevance = rng.integers(G, size=n), rng.dirichlet(np.ones(G)), _relevance(scores)

    def gain(taken: list[int], i: int) -> float:
        """Of the whole list, as Steck has it: the scores of all it holds, and its divergence."""
        S = [*taken, i]
        found = [sum(groups[j] == g for j in S) / len(S) for g in range(G)]
        kl = sum(p * math.log(p / ((1 - MIXED) * q + MIXED * p)) for p, q in zip(wanted, found, strict=True) if p > 0)
        return (1 - strength) * sum(relevance[j] for j in S) - strength * kl

    assert calibrated(scores, groups, wanted, k, strength).tolist() == _greedy(scores, k, gain)


@given(SEEDS, st.integers(0, 10))
def test_full_calibration_gives_the_shares_of_the_history(seed: int, tail: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat([0, 1], 40)
    wanted = shares(np.repeat([0, 1], [10 - tail, tail]), 2)
    assert groups[calibrated(rng.normal(size=80), groups, wanted, 10, 1.0)].sum() == tail


def test_a_history_of_nothing_asks_for_no_calibration() -> None:
    scores, _ = _request(0, 20)
    nothing = shares(np.zeros(0, np.int64), 2)
    assert calibrated(scores, np.arange(20) % 2, nothing, 5, 0.9).tolist() == plain(scores, 5).tolist()


def _distance(vectors: np.ndarray, chosen: np.ndarray) -> float:
    return float(np.mean([1 - vectors[i] @ vectors[j] for i, j in combinations(chosen, 2)]))


@DIVERSE
@given(seed=SEEDS, n=st.integers(2, 25), low=STRENGTHS, high=STRENGTHS)
def test_of_two_places_more_diversity_never_brings_them_nearer(
    rerank: Diverse, seed: int, n: int, low: float, high: float
) -> None:
    """The first place is by score, the second the exchange of two terms: for two places this holds without exception."""
    scores, vectors = _request(seed, n)
    low, high = min(low, high), max(low, high)
    if np.isfinite(scores).sum() > 1 and rerank is mmr:
        assert (
            _distance(vectors, rerank(scores, vectors, 2, high))
            >= _distance(vectors, rerank(scores, vectors, 2, low)) - 1e-9
        )
    if np.isfinite(scores).sum() > 1 and rerank is dpp:  # whose distance is that to the squared similarity
        near = [float(np.prod(vectors[rerank(scores, vectors, 2, at)][[0, 1]], axis=0).sum()) for at in (low, high)]
        assert near[1] <= near[0] + 1e-9


def _volume(vectors: np.ndarray, chosen: np.ndarray) -> float:
    """log det of K: the diversity that DPP is after."""
    return float(np.linalg.slogdet((1 + vectors[chosen] @ vectors[chosen].T) / 2)[1])


@pytest.mark.parametrize(("rerank", "measure"), [(mmr, _distance), (dpp, _volume)])
def test_lists_are_more_diverse_the_more_is_asked_for(
    rerank: Diverse, measure: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    """Longer lists are greedy, so that one may be an exception: the mean of 200 requests is not.

    Near 1, where relevance says almost nothing, greed itself is (the volume of a list falls a little there).
    """
    requests = [_request(seed, 40) for seed in range(200)]
    means = [
        np.mean([measure(vectors, rerank(scores, vectors, 4, diversity)) for scores, vectors in requests])
        for diversity in (0.0, 0.1, 0.3, 0.6)
    ]
    assert means == sorted(means) and means[-1] > means[0] + 0.1


@pytest.mark.parametrize(("n", "k", "epsilon"), [(6, 4, 0.3), (3, 5, 0.8), (12, 3, 1.0), (5, 5, 0.5)])
def test_propensities_of_epsilon_greedy_are_what_simulation_finds(n: int, k: int, epsilon: float) -> None:
    scores, rng = np.arange(n, 0.0, -1.0), np.random.default_rng(0)
    _compare(lambda: epsilon_greedy(scores, k, epsilon, rng), n, min(n, k))


@pytest.mark.parametrize("strength", [0.05, 0.4, 1.0])
def test_propensities_of_ucb_are_what_simulation_finds(strength: float) -> None:
    rng = np.random.default_rng(0)
    scores, counts = rng.normal(size=12), rng.integers(40, size=12)
    _compare(lambda: ucb(scores, counts, 4, strength, rng), 12, 4)


def _compare(draw: Callable[[], tuple[np.ndarray, np.ndarray]], n: int, k: int, draws: int = 8000) -> None:
    """How often each item is at each place, within 5 standard errors of what was stated, which never varies."""
    shown, stated = np.zeros((n, k)), np.full((n, k), np.nan)
    for _ in range(draws):
        indices, propensities = draw()
        known = stated[indices, range(k)]
        np.testing.assert_allclose(np.where(np.isnan(known), propensities, known), propensities, atol=1e-12)
        stated[indices, range(k)] = propensities
        shown[indices, range(k)] += 1
    seen = shown > 0
    wrong = np.abs(shown / draws - stated)[seen]
    assert (wrong <= 5 * np.sqrt(stated * (1 - stated) / draws)[seen] + 1e-9).all()
    assert np.where(seen, stated, 0).sum(axis=0) == pytest.approx(1, abs=0.01)  # each place shows something


@given(SEEDS, st.integers(1, 8), st.integers(1, 8), st.floats(0.01, 1))
@settings(max_examples=50)
def test_propensities_of_a_place_sum_to_one_over_all_candidates(seed: int, n: int, k: int, epsilon: float) -> None:
    """Over enough draws every candidate with more than a trifle of probability is seen; over 300 at least that is a bound."""
    rng, found = np.random.default_rng(seed), {}
    for _ in range(300):
        indices, propensities = epsilon_greedy(np.arange(n, 0.0, -1), k, epsilon, rng)
        found |= {(place, int(i)): p for place, (i, p) in enumerate(zip(indices, propensities, strict=True))}
    for place in range(min(n, k)):
        assert 0 < sum(p for (at, _), p in found.items() if at == place) <= 1 + 1e-9


@given(SEEDS, STRENGTHS)
def test_a_seed_decides_what_is_explored(seed: int, strength: float) -> None:
    one, other = _lists(seed, 20, 6, strength), _lists(seed, 20, 6, strength)
    assert one["epsilon"].tolist() == other["epsilon"].tolist() and one["ucb"].tolist() == other["ucb"].tolist()


def test_ucb_brings_up_what_was_rarely_bought() -> None:
    """Equal scores but for a hair: the bonus decides, and with the largest Z the one that was never bought is first."""
    scores, counts = np.array([1.0, 0.999, 0.0]), np.array([100, 0, 100])
    firsts = {int(ucb(scores, counts, 1, 0.5, np.random.default_rng(seed)).indices[0]) for seed in range(40)}
    assert firsts == {0, 1}
