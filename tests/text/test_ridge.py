"""The ridge regression from LLM embeddings to item vectors."""

from __future__ import annotations

import numpy as np
import pytest

from longtail.text import ridge


def test_a_linear_relation_is_found_and_items_without_interactions_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(300, 6)).astype(np.float32)
    vectors = embeddings @ generator.normal(size=(6, 3)).astype(np.float32) + np.float32(2)
    counts = generator.integers(0, 5, 300)
    wrong = np.where(counts[:, None] > 0, vectors, 1e3).astype(np.float32)
    made = ridge.fitted(embeddings, wrong, counts)
    assert np.abs(embeddings @ made.weight + made.bias - vectors).max() < 0.02


def test_the_weighted_ridge_is_the_solution_of_its_normal_equations() -> None:
    """min sum_i w_i |e_i W + b - v_i|^2 + s |W|^2: the gradient by W is 0 at the found map, for one of the strengths."""
    generator = np.random.default_rng(1)
    embeddings = generator.normal(size=(80, 4)).astype(np.float64)
    vectors = generator.normal(size=(80, 2))
    counts = generator.integers(1, 9, 80)
    made = ridge.fitted(embeddings.astype(np.float32), vectors.astype(np.float32), counts)
    share = counts / (counts + 4.0) / (counts / (counts + 4.0)).sum()
    residual = embeddings @ made.weight + made.bias - vectors
    assert np.abs(share @ residual).max() < 1e-5
    gradient = (embeddings * share[:, None]).T @ residual
    variance = ((embeddings - share @ embeddings) ** 2 * share[:, None]).sum() / 4
    strengths = -gradient / (variance * made.weight)
    assert min(np.abs(strengths - each).max() / each for each in ridge.RIDGES) == pytest.approx(0, abs=0.05)


def test_what_is_made_can_be_as_long_as_what_is_known() -> None:
    generator = np.random.default_rng(2)
    embeddings, noise = generator.normal(size=(200, 4)), generator.normal(size=(200, 3))
    vectors, counts = (embeddings[:, :3] + 2 * noise).astype(np.float32), np.full(200, 9)
    one, other = (
        ridge.fitted(embeddings.astype(np.float32), vectors, counts, full_length=full) for full in (False, True)
    )
    short, long = (np.linalg.norm(embeddings @ each.weight + each.bias, axis=1).mean() for each in (one, other))
    assert short < 0.6 * long and long == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-4)
    vectors[:20] *= 3  # of rare items, which new ones are like
    counts[:20] = 1
    like_rare = ridge.fitted(embeddings.astype(np.float32), vectors, counts, full_length=True)
    made = np.linalg.norm(embeddings[:20] @ like_rare.weight + like_rare.bias, axis=1).mean()
    assert made == pytest.approx(np.linalg.norm(vectors[:20], axis=1).mean(), rel=1e-4)
    np.testing.assert_allclose(other.weight / one.weight, long / short, rtol=1e-4)


def test_nothing_known_is_a_map_to_zero() -> None:
    made = ridge.fitted(np.ones((3, 2), np.float32), np.ones((3, 4), np.float32), np.zeros(3, np.int64))
    assert not made.weight.any() and not made.bias.any()
