"""Pooled user vectors are means of the vectors of training items, and find similar users as prompts do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail import pipeline
from longtail.config import build, override
from longtail.data.histories import from_lists
from longtail.data.ids import IdMap
from longtail.errors import ConfigError, DataError
from longtail.text.embeddings import Embeddings, Provenance
from longtail.text.pooled import pool_users
from tests.conftest import Planted

RNG = np.random.default_rng(0)
ITEMS = IdMap(pl.Series([f"i{row}" for row in range(1, 7)]))
HAS_TEXT = np.array([True, True, False, True, True, True])
EMBEDDINGS = Embeddings(RNG.normal(size=(6, 4)).astype(np.float32), ITEMS.ids, Provenance("m", "sha"), HAS_TEXT)


@given(st.lists(st.lists(st.integers(1, 6), max_size=9), min_size=1, max_size=5), st.sampled_from([1.0, 0.5]))
def test_a_pooled_vector_is_the_weighted_mean_of_the_unit_vectors_of_items_with_text(
    lists: list[list[int]], decay: float
) -> None:
    users = IdMap(pl.Series([f"u{row}" for row in range(len(lists))]))
    made = pool_users(from_lists(lists), EMBEDDINGS, ITEMS, users, decay)
    for row, history in enumerate(lists):
        total, weight = np.zeros(4), 0.0
        for age, item in enumerate(reversed(history)):  # one at a time
            vector = EMBEDDINGS.vectors[item - 1]
            if HAS_TEXT[item - 1]:
                total, weight = total + decay**age * vector / np.linalg.norm(vector), weight + decay**age
        np.testing.assert_allclose(made.vectors[row], total / weight if weight else total, atol=1e-6)
        assert made.has_text[row] == (weight > 0)
    assert made.ids.to_list() == users.ids.to_list()


def test_where_pooled_vectors_come_from_is_told() -> None:
    users = IdMap(pl.Series(["u"]))
    plain, recent = (pool_users(from_lists([[1]]), EMBEDDINGS, ITEMS, users, decay).provenance for decay in (1.0, 0.5))
    assert plain.spec == "m" and plain.identity == "pooled decay=1 of sha" and recent.identity != plain.identity
    with pytest.raises(DataError, match="1 user ids for 2 histories"):
        pool_users(from_lists([[1], [2]]), EMBEDDINGS, ITEMS, users)


def test_a_run_pools_its_users_where_it_is_asked_to_and_needs_no_vectors_of_users(
    planted: Planted, tmp_path: Path
) -> None:
    planted.data.save(tmp_path / "data")
    planted.items.save(tmp_path / "vectors")
    base = {"data": {"interactions": str(tmp_path / "data")}, "method": {"name": "llmesr", "teacher": "bank"}}
    settings = ["text.users=pooled", "text.pool_decay=0.5", f"text.model=file:{tmp_path / 'vectors'}"]
    settings += ["backbone.d=8", "backbone.max_len=8", "train.epochs=1", "neighbors.k=2"]
    config = build(pipeline.RunConfig, override(base, settings))
    split = planted.data.leave_one_out()
    items, users = pipeline.knowledge(config, planted.data, split)
    assert items is not None and users is not None
    expected = pool_users(split.train, items, planted.data.items, planted.data.users, 0.5)
    np.testing.assert_array_equal(users.vectors, expected.vectors)
    assert users.provenance.data == planted.data.hash
    model = pipeline.fit(config, tmp_path / "run")
    assert model.recommend(users=["u000"], k=3).height == 3
    with pytest.raises(ConfigError, match=r"pool_decay = 0\.5 is read for text\.users = 'pooled'"):
        build(pipeline.RunConfig, override(base, ["text.pool_decay=0.5"]))
