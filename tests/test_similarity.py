"""Similar users by other measures than cosine, and among some users only, equal slow loops; cosine is in test_neighbors."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.neighbors import approximate_users, exact_users, similar_users
from longtail.similarity import Measure, points

Vectors = npt.NDArray[np.float32]


def slow(vectors: Vectors, measure: Measure) -> npt.NDArray[np.float64]:
    """Similarities of all pairs in float64, one pair at a time: what is compared, whatever its scale."""
    wide = vectors.astype(np.float64)
    values = np.full((len(wide), len(wide)), -np.inf)
    for a in range(1, len(wide)):
        for b in range(1, len(wide)):
            if a != b and wide[a].any() and wide[b].any():
                x, y = wide[a], wide[b]
                values[a, b] = {
                    "cosine": x @ y / np.linalg.norm(x) / np.linalg.norm(y),
                    "dot": x @ y,
                    "euclidean": -((x - y) ** 2).sum() / 2,
                }[measure]
    return values


def check(found: npt.NDArray[np.int64], values: npt.NDArray[np.float64], k: int, tolerance: float) -> None:
    """The neighbors found are the k of the highest values, up to ties, best first, none twice, and 0 where none is left."""
    for user, row in enumerate(found.tolist()):
        best = np.sort(values[user][np.isfinite(values[user])])[::-1][:k]
        given = [v for v in row if v]
        assert len(set(given)) == len(given) == len(best) and row[len(given) :] == [0] * (k - len(given))
        np.testing.assert_allclose(values[user, given], best, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from(["cosine", "dot", "euclidean"]),
    st.booleans(),
)
def test_neighbors_by_any_measure_equal_a_sort_of_all_pairs(
    users: int, seed: int, k: int, block: int, measure: Measure, some: bool
) -> None:
    """With zero rows and duplicates, from everybody or from a third of the users, in blocks of any size."""
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(users + 1, 3)) + 2).astype(np.float32)
    vectors[rng.random(users + 1) < 0.1] = 0
    vectors[rng.random(users + 1) < 0.1] = vectors[-1]
    teaching = rng.random(users + 1) < 1 / 3 if some else None
    values = slow(vectors, measure)
    if teaching is not None:
        values[:, ~teaching] = -np.inf
    check(exact_users(vectors, k, block, measure=measure, teaching=teaching), values, k, 3e-4)
    # An index of a few dozen users finds all of them.
    check(approximate_users(vectors, k, measure=measure, teaching=teaching).neighbors, values, k, 3e-4)


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean"])
def test_ties_go_to_the_lower_id_and_an_identical_user_is_a_neighbor(measure: Measure) -> None:
    vectors = np.array([[0, 0], [4, 1], [4, 1], [1, 2], [4, 1]], np.float32)
    found = exact_users(vectors, 2, measure=measure)
    assert found[1].tolist() == [2, 4] and found[2].tolist() == [1, 4] and found[4].tolist() == [1, 2]


def test_the_measures_differ_where_they_should() -> None:
    """User 1's nearest: 2 points the same way, 3 is long, 4 is close by."""
    vectors = np.array([[0, 0], [1, 0], [0.1, 0], [5, 5], [1.2, 0.3]], np.float32)
    nearest = {m: int(similar_users(vectors, 1, measure=m)[1, 0]) for m in ("cosine", "dot", "euclidean")}
    assert nearest == {"cosine": 2, "dot": 3, "euclidean": 4}


def test_euclidean_neighbors_are_the_nearest_however_far_away_all_users_are() -> None:
    """Squared lengths of 10^6 beside squared distances of 1: without the centre, float32 has no digits left for them."""
    vectors = (np.random.default_rng(0).normal(size=(101, 8)) + 300).astype(np.float32)
    check(exact_users(vectors, 3, measure="euclidean"), slow(vectors, "euclidean"), 3, 3e-4)


@pytest.mark.parametrize("measure", ["dot", "euclidean"])
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_an_index_finds_nearly_all_by_any_measure_and_tells_its_recall(measure: Measure, share: float) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 16))[rng.integers(50, size=3001)] + rng.normal(size=(3001, 16))
    vectors = (vectors * rng.uniform(0.5, 1.5, size=(3001, 1))).astype(np.float32)
    teaching = None if share == 1.0 else rng.random(3001) < share
    found, recall = approximate_users(vectors, 10, sample=3000, measure=measure, teaching=teaching)
    exact = exact_users(vectors, 10, measure=measure, teaching=teaching)
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found[1:].tolist(), exact[1:].tolist(), strict=True)])
    assert recall == pytest.approx(same, abs=5e-3) and recall > 0.95
    assert teaching is None or teaching[found[1:]].all()


def test_nobody_teaches_without_teachers_and_a_lone_teacher_has_none_herself() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    lone = np.array([False, False, True, False, False])
    for found in (exact_users(vectors, 2, teaching=lone), approximate_users(vectors, 2, teaching=lone).neighbors):
        assert found.tolist() == [[0, 0], [2, 0], [0, 0], [2, 0], [2, 0]]
    for find in (exact_users, lambda *args, teaching: approximate_users(*args, teaching=teaching).neighbors):
        assert not find(vectors, 2, teaching=np.zeros(5, bool)).any()


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean"])
def test_points_are_found_a_block_of_vectors_at_a_time_and_are_no_longer_than_one(measure: Measure) -> None:
    """20 MB of vectors, in blocks of 2 MB."""
    vectors = np.random.default_rng(0).normal(size=(80_001, 64)).astype(np.float32)
    made = points(vectors, measure)
    assert made.vectors is vectors  # nothing is kept of them
    tracemalloc.start()
    points(vectors, measure)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.7 * vectors.nbytes
    assert made.of(slice(0, 7)).norm(dim=1).max() <= 1 + 1e-6
    assert made.compared(torch.ones(2, 3, 64), torch.ones(2, 4, 64)).shape == (2, 3, 4)
