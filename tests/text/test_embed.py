"""From a data set to vectors of its items and users, the whole way."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.dataset import Dataset
from longtail.errors import DataError, EmbeddingError
from longtail.neighbors import similar_users
from longtail.text.embed import embed_items, embed_users
from longtail.text.embeddings import Embeddings
from longtail.text.prompts import read_template

from .test_cache import Hashing


def dataset(titles: dict[str, str | None]) -> Dataset:
    """Users u1 to u4 with four items each; u4 buys z alone, again and again."""
    bought = {"u1": "abcd", "u2": "abdc", "u3": "dcba", "u4": "zzzz"}
    rows = [(user, item, time) for user, items in bought.items() for time, item in enumerate(items)]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame(
        {"item_id": list(titles), "title": list(titles.values())}, schema_overrides={"title": pl.String}
    )
    return Dataset.read(interactions, items)


@pytest.fixture
def data() -> Dataset:
    return dataset({"b": "bowl", "a": "apple", "d": "dish", "c": "cup", "z": None})


def test_items_get_vectors_of_their_prompts_and_those_without_text_the_mean(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = Hashing()
    with caplog.at_level(logging.WARNING):
        made = embed_items(data, embedder, cache=tmp_path / "c")
    expected = np.stack([embedder.vector(word) for word in ("apple", "bowl", "cup", "dish")])
    np.testing.assert_array_equal(made.matrix(["a", "b", "c", "d"])[1:], expected)
    np.testing.assert_allclose(made.matrix(["z"])[1], expected.mean(axis=0), rtol=1e-6)
    assert made.without_text == ["z"] and "without text, which get the mean vector: 'z'" in caplog.text
    assert made.matrix(data.items).shape == (6, 4)


def test_users_get_vectors_of_their_training_titles_and_those_without_none(data: Dataset, tmp_path: Path) -> None:
    embedder = Hashing()
    users = embed_users(
        data.leave_one_out().train, items_text=data.text, users=data.users, model=embedder, cache=tmp_path / "c"
    )
    assert sorted(text for chunk in embedder.asked for text in chunk) == [
        "The user has bought: apple; bowl. Summarise the user's preference.",  # u1 and u2, embedded once
        "The user has bought: dish; cup. Summarise the user's preference.",
    ]
    matrix = users.matrix(data.users, "users")
    assert users.without_text == ["u4"] and not matrix[4].any()
    assert similar_users(matrix, 2).tolist() == [[0, 0], [2, 3], [1, 3], [1, 2], [0, 0]]  # u4 has none and is nobody's
    numbered = embed_users(data.leave_one_out().train, data.text, model=embedder, cache=tmp_path / "c")
    assert numbered.ids.to_list() == [1, 2, 3, 4] and len(embedder.asked) == 1


def test_provenance_tells_model_template_texts_and_data(data: Dataset, tmp_path: Path) -> None:
    made = embed_items(data, Hashing(), cache=tmp_path / "c").provenance
    assert (made.spec, made.identity, made.template, made.data) == ("hashing", "hashing", "generic", data.hash)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(made.date)) < timedelta(minutes=1)
    assert made.template_hash == read_template("generic", "item").hash and made.template_version == 1
    other = embed_items(dataset({"a": "axe"}), Hashing(), cache=tmp_path / "c").provenance
    assert other.texts != made.texts and other.template_hash == made.template_hash
    users = embed_users(data.leave_one_out().train, data.text, model=Hashing(), cache=tmp_path / "c", data_hash="h")
    assert users.provenance.data == "h" and users.provenance.template == "user"


def test_a_file_of_vectors_stands_in_for_an_encoder(data: Dataset, tmp_path: Path) -> None:
    ids = ["z", "extra", "d", "c", "b", "a"]
    table = pl.DataFrame({"item_id": ids, "v": [[float(row), 1.0] for row in range(6)]})
    table.write_parquet(tmp_path / "v.parquet")
    made = embed_items(data, f"file:{tmp_path / 'v.parquet'}")
    assert made.ids.to_list() == ["a", "b", "c", "d", "z"] and made.vectors[:, 0].tolist() == [5, 4, 3, 2, 0]
    table.head(3).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(EmbeddingError, match=r"cover 2 of 5 items .missing 'a', 'b', 'c'."):
        embed_items(data, f"file:{tmp_path / 'v.parquet'}")
    with pytest.raises(EmbeddingError, match="cover 0 of 4 users"):
        embed_users(data.leave_one_out().train, data.text, data.users, f"file:{tmp_path / 'v.parquet'}")


def test_items_vectors_saved_and_loaded_are_a_file_of_vectors_too(data: Dataset, tmp_path: Path) -> None:
    made = embed_items(data, Hashing(), cache=tmp_path / "c")
    made.save(tmp_path / "items")
    again = embed_items(data, f"file:{tmp_path / 'items'}")
    np.testing.assert_array_equal(again.matrix(data.items), made.matrix(data.items))
    assert again.provenance == made.provenance and again.without_text == ["z"]
    assert Embeddings.load(tmp_path / "items").model == "hashing"


def test_a_data_set_without_any_text_and_foreign_ids_are_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="none of the 5 items has text"):
        embed_items(dataset({"a": None}), Hashing(), cache=tmp_path / "c")
    with pytest.raises(DataError, match="5 user ids for 4 histories"):
        embed_users(data.leave_one_out().train, data.text, data.items, Hashing(), cache=tmp_path / "c")


def test_long_work_shows_a_bar_on_stderr(data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import time

    class Slow(Hashing):
        def encode(self, texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
            time.sleep(1.1)
            return super().encode(texts)

    titles = {name: f"title {name}" for name in "abcdz"} | {f"i{row}": f"item {row}" for row in range(600)}
    rows = pl.DataFrame({"user_id": ["u"] * len(titles), "item_id": list(titles)})
    many = Dataset.read(rows, pl.DataFrame({"item_id": list(titles), "title": list(titles.values())}))
    embed_items(many, Slow(), cache=tmp_path / "c")
    captured = capsys.readouterr()
    assert "embedding items with hashing" in captured.err and not captured.out
    embed_items(data, Hashing(), cache=tmp_path / "c")
    assert capsys.readouterr().err == ""
