"""The best of scores, and products in parts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longtail.serve.matrix import CHUNK, Matrix, best, quantized, width_for


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=700), st.integers(1, 30))
def test_the_best_are_those_of_a_whole_sort_ties_by_place(values: list[int], k: int) -> None:
    scores = np.full(width_for(len(values)), -np.inf, np.float32)
    scores[: len(values)] = values
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k]
    assert best(scores, k).tolist() == expected
    assert len(scores) % CHUNK == 0


def test_products_are_those_of_the_rows() -> None:
    generator = np.random.default_rng(0)
    vectors, u = generator.normal(size=(70, 8)).astype(np.float32), generator.normal(size=(3, 8)).astype(np.float32)
    for matrix, tolerance in ((Matrix(vectors), 1e-6), (quantized(vectors), 0.05)):
        out = np.zeros((3, 70), np.float32)
        matrix.products(u, out)
        assert np.allclose(out, u @ matrix.rows(np.arange(70)).T, atol=1e-5)
        assert np.abs(matrix.rows(np.arange(70)) - vectors).max() <= tolerance
