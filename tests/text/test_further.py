"""Embedding only what stored vectors lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.dataset import Dataset
from longtail.errors import EmbeddingError
from longtail.text.embed import embed_further, embed_items
from longtail.text.embeddings import Embeddings

from .test_cache import Hashing


def dataset(titles: dict[str, str | None]) -> Dataset:
    """A user who bought all of them."""
    rows = pl.DataFrame({"user_id": ["u"] * len(titles), "item_id": list(titles), "timestamp": range(len(titles))})
    return Dataset.read(rows, pl.DataFrame({"item_id": list(titles), "title": list(titles.values())}))


OLD: dict[str, str | None] = {"a": "apple", "b": "bowl", "z": "zebra"}


def test_old_vectors_stay_and_new_texts_alone_are_embedded(tmp_path: Path) -> None:
    stored = embed_items(dataset(OLD), Hashing(), cache=tmp_path / "c")
    embedder = Hashing()
    data = dataset(OLD | {"b": "another bowl", "c": "cup", "d": None})
    made = embed_further(stored, data, embedder, cache=tmp_path / "c")
    assert [text for chunk in embedder.asked for text in chunk] == ["cup"]
    assert np.array_equal(made.matrix(stored.ids)[1:], stored.vectors)
    assert np.array_equal(made.matrix(["c"])[1], embedder.vector("cup"))
    np.testing.assert_allclose(made.matrix(["d"])[1], stored.vectors.mean(axis=0), rtol=1e-6)
    assert made.without_text == ["d"] and made.ids.to_list() == ["a", "b", "c", "d", "z"]


def test_new_vectors_get_what_was_done_to_the_old_ones(tmp_path: Path) -> None:
    stored = embed_items(dataset(OLD), Hashing(), cache=tmp_path / "c", transform=("center", "l2"))
    made = embed_further(stored, dataset(OLD | {"c": "cup"}), Hashing(), cache=tmp_path / "c")
    assert stored.transform is not None
    expected = stored.transform.apply(Hashing().vector("cup")[None])[0]
    np.testing.assert_array_equal(made.matrix(["c"])[1], expected)
    assert made.provenance.transform == stored.provenance.transform


def test_a_fitted_encoder_is_not_fitted_again(tmp_path: Path) -> None:
    old = dataset({"a": "red bowl", "b": "red cup", "z": "blue bowl"})
    stored = embed_items(old, "lexical:2", cache=tmp_path / "c")
    data = dataset({"a": "red bowl", "b": "red cup", "z": "blue bowl", "c": "blue cup", "d": "red bowl"})
    stored.save(tmp_path / "kept")
    made = embed_further(Embeddings.load(tmp_path / "kept"), data, f"lexical:{tmp_path / 'kept'}", cache=tmp_path / "c")
    np.testing.assert_allclose(made.matrix(["d"])[1], made.matrix(["a"])[1], atol=1e-6)
    with pytest.raises(EmbeddingError, match="bring the same weights and template, or fit again"):
        embed_further(stored, data, Hashing(), cache=tmp_path / "c")
    hashed = embed_items(old, Hashing(), cache=tmp_path / "c")
    with pytest.raises(EmbeddingError, match="template 'yelp'"):
        embed_further(hashed, data, Hashing(), "yelp", cache=tmp_path / "c")
