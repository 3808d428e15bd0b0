"""Similar users equal ten slow lines of numpy, and nobody is her own neighbour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.neighbors import similar_users


def slow(vectors: npt.NDArray[np.float32], k: int) -> list[list[int]]:
    """Cosines of all pairs in float64, sorted; ties (to six digits) by lower id."""
    unit = vectors.astype(np.float64)
    norms = np.linalg.norm(unit, axis=1)
    rows = []
    for user in range(len(vectors)):
        others = [v for v in range(1, len(vectors)) if v != user and norms[v] > 0 and norms[user] > 0 and user > 0]
        cosine = {v: round(float(unit[v] @ unit[user] / norms[v] / norms[user]), 6) for v in others}
        nearest = sorted(others, key=lambda v: (-cosine[v], v))[:k]
        rows.append(nearest + [0] * (k - len(nearest)))
    return rows


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 70))
def test_neighbors_equal_a_sort_of_all_cosines(users: int, seed: int, k: int, block: int) -> None:
    """Coordinates -1, 0 and 1 give zero rows, duplicates, and ties of cosines -1, -.7071, 0, .7071 and 1 everywhere."""
    vectors = np.random.default_rng(seed).integers(-1, 2, size=(users + 1, 2)).astype(np.float32)
    vectors[0] = 7  # whatever stands in row 0 is nobody
    assert similar_users(vectors, k, block).tolist() == slow(vectors, k)


def test_neighbors_of_many_random_users_are_the_true_nearest() -> None:
    vectors = np.random.default_rng(0).normal(size=(3001, 24)).astype(np.float32)
    found = similar_users(vectors, 10, block=700)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    cosines[:, 0] = -2
    np.fill_diagonal(cosines, -2)
    expected = np.sort(cosines[1:], axis=1)[:, :-11:-1]
    np.testing.assert_allclose(np.take_along_axis(cosines[1:], found[1:], axis=1), expected, atol=2e-6)


def test_an_identical_user_is_a_neighbor_but_oneself_is_not() -> None:
    vectors = np.ones((6, 3), dtype=np.float32)
    assert similar_users(vectors, 3)[1:].tolist() == [[2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3], [1, 2, 3]]


def test_users_with_nothing_to_say_have_no_neighbors_and_are_nobodys() -> None:
    vectors = np.array([[9, 9], [1, 0], [0, 0], [1, 1], [0, 0]], dtype=np.float32)
    assert similar_users(vectors, 3).tolist() == [[0, 0, 0], [3, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("users", [0, 1])
def test_without_others_there_are_no_neighbors(users: int) -> None:
    assert similar_users(np.ones((users + 1, 2), dtype=np.float32), 2).tolist() == [[0, 0]] * (users + 1)


def test_the_length_of_a_vector_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 8)).astype(np.float32)
    stretched = vectors * rng.uniform(1e-3, 1e3, size=(200, 1)).astype(np.float32)
    np.testing.assert_array_equal(similar_users(vectors, 5), similar_users(stretched, 5))
