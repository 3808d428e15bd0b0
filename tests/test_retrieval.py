"""Similar users as a config asks for them: by what vectors, and who may be found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

import longtail as lt
from longtail.data.histories import from_lists
from longtail.errors import ConfigError, EmbeddingError
from longtail.neighbors import similar_users
from longtail.pipeline import knowledge, run_config
from longtail.retrieval import DiscountedMeans, NeighborsConfig, retrieve
from tests.conftest import Planted, walks

LISTS = [[1, 2, 3], [1, 4], [], [1, 1, 4, 5], [6]]


def _vectors(rows: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)
    made[0] = 0
    return made


def test_discounted_means_equal_a_loop_over_users_and_items() -> None:
    items = _vectors(8)
    items[4] = 0  # an item whose vector says nothing
    means = DiscountedMeans(from_lists(LISTS), items)
    found = means[:]
    assert found.shape == means.shape == (len(means), 5)
    np.testing.assert_array_equal(means[np.array([4, 0, 4])], found[[4, 0, 4]])
    flat = [item for one in LISTS for item in one]
    for user, history in enumerate([[], *LISTS]):
        slow = np.zeros(5)
        for item in history:
            weight = math.log(1 + len(LISTS) / flat.count(item))
            slow += weight * items[item] / (np.linalg.norm(items[item]) or 1.0)
        np.testing.assert_allclose(found[user], slow, atol=1e-5)


def test_a_shared_rare_item_makes_users_more_alike_than_a_popular_one() -> None:
    """Users 1 and 3 share a rare item; users 4 to 23 have the popular item alone. Vectors of items at right angles."""
    train = from_lists([[1, 2], [1, 3], [2, 4, 5], *[[1]] * 20])
    items = np.eye(6, dtype=np.float32)
    items[0] = 0
    assert retrieve(NeighborsConfig(k=1, similarity="popularity"), train, items)[1, 0] == 3
    means = np.zeros((24, 6), np.float32)
    np.add.at(means, (train.owners(), train.items), 1.0)
    assert similar_users(means, 1)[1, 0] == 4  # where all items weigh the same


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_each_similarity_of_the_config_is_that_of_the_search(similarity: Literal["cosine", "dot", "euclidean"]) -> None:
    vectors = _vectors(41)
    train = from_lists([[1]] * 40)
    found = retrieve(NeighborsConfig(k=2, similarity=similarity), train, vectors)
    np.testing.assert_array_equal(found, similar_users(vectors, 2, measure=similarity))
    assert similarity == "cosine" or (found != similar_users(vectors, 2)).any()


def test_users_who_do_not_train_have_no_neighbors_and_are_nobodys() -> None:
    for similarity, rows in (("cosine", 6), ("popularity", 7)):
        found = retrieve(NeighborsConfig(k=4, similarity=similarity), from_lists(LISTS), _vectors(rows))
        assert not found[3].any() and not (found == 3).any() and (found[[1, 2, 4, 5]] > 0).sum() == 12


def test_only_users_with_enough_history_are_found_and_poor_ones_still_have_neighbors() -> None:
    vectors = _vectors(6)
    found = retrieve(NeighborsConfig(k=4, min_history=3), from_lists(LISTS), vectors)
    assert {user for user in found.ravel().tolist() if user} == {1, 4}
    assert set(found[5].tolist()) == {0, 1, 4} and found[1].tolist() == [4, 0, 0, 0]
    everybody = retrieve(NeighborsConfig(k=4, min_history=0), from_lists(LISTS), vectors)
    np.testing.assert_array_equal(everybody, retrieve(NeighborsConfig(k=4), from_lists(LISTS), vectors))


def test_more_history_than_anybody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"neighbors.min_history = 9: the longest training history has 4 .*set 4 at"):
        retrieve(NeighborsConfig(min_history=9), from_lists(LISTS), _vectors(6))


def test_popularity_needs_the_items_vectors_and_none_of_users(planted: Planted) -> None:
    settings = {
        "neighbors": {"k": 3, "similarity": "popularity"},
        "method": {"views": "collaborative", "fusion": "none", "start": "random"},
        "backbone": {"d": 8},
        "train": {"epochs": 1, "device": "cpu"},
    }
    with pytest.raises(EmbeddingError, match="needs item embeddings"):
        lt.Recommender("llmesr", settings=settings).fit(planted.split, users=planted.users)
    model = lt.Recommender("llmesr", settings=settings).fit(planted.split, items=planted.items)
    expected = retrieve(model.config.neighbors, planted.split.train, planted.items.matrix(planted.data.items))
    np.testing.assert_array_equal(model.method.neighbors, expected)


def test_a_run_by_popularity_embeds_no_users(planted: Planted, tmp_path: Path) -> None:
    """With vectors of items in a file and none of users: a run by cosine says what it lacks."""
    ids = planted.data.items.ids
    pl.DataFrame({"item_id": ids, "vector": planted.items.vectors}).write_parquet(tmp_path / "vectors.parquet")
    walks().write_parquet(tmp_path / "log.parquet")
    values = {
        "data": {"interactions": str(tmp_path / "log.parquet")},
        "text": {"model": f"file:{tmp_path / 'vectors.parquet'}"},
    }
    config = run_config(None, ["neighbors.similarity=popularity"], values=values, preset="llmesr")
    items, users = knowledge(config, planted.data, planted.split)
    assert items is not None and users is None
    with pytest.raises(EmbeddingError):
        knowledge(run_config(None, values=values, preset="llmesr"), planted.data, planted.split)
