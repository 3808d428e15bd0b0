"""Vectors are joined by id, and what is missing, broken or foreign is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.ids import IdMap
from longtail.errors import EmbeddingError
from longtail.text.embeddings import Embeddings, Provenance

PROVENANCE = Provenance("minilm", "identity", "generic", 1, "abc", "def", "data", "2025-01-01")


def embeddings(ids: list[str] | list[int], width: int = 3) -> Embeddings:
    vectors = np.random.default_rng(len(ids)).normal(size=(len(ids), width)).astype(np.float32)
    return Embeddings(vectors, pl.Series(ids), PROVENANCE, np.arange(len(ids)) % 3 > 0)


@given(st.permutations(["b", "a", "12", "ü"]), st.integers(1, 4))
def test_rows_are_joined_by_id_and_never_by_position(order: list[str], n: int) -> None:
    made = embeddings(["a", "b", "12", "ü"])
    matrix = made.matrix(order[:n])
    assert matrix.shape == (n + 1, 3) and matrix.dtype == np.float32 and not matrix[0].any()
    for row, name in enumerate(order[:n]):
        np.testing.assert_array_equal(matrix[row + 1], made.vectors[["a", "b", "12", "ü"].index(name)])


def test_numbers_and_their_digits_are_the_same_ids() -> None:
    np.testing.assert_array_equal(embeddings([7, 5]).matrix(["5", "7"])[1:], embeddings([7, 5]).vectors[::-1])
    np.testing.assert_array_equal(embeddings(["7", "5"]).matrix(pl.Series([5]))[1], embeddings(["7", "5"]).vectors[1])


def test_missing_ids_are_counted_and_named() -> None:
    ids = IdMap(pl.Series(["a", "b", "B00X1"]), "item")
    with pytest.raises(EmbeddingError) as error:
        embeddings(["b", "a"]).matrix(ids)
    message = "embeddings cover 2 of 3 items (missing 'B00X1'); run 'longtail embed' again on this dataset"
    assert str(error.value) == message
    with pytest.raises(EmbeddingError, match="cover 0 of 2 users"):
        embeddings(["b", "a"]).matrix(["x", "y"], "users")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_named(bad: float, tmp_path: Path) -> None:
    made = embeddings(["a", "b", "c"])
    made.vectors[1, 2] = bad
    for use in (lambda: made.matrix(["c", "b"]), lambda: made.save(tmp_path)):
        with pytest.raises(EmbeddingError, match="NaN or infinity: 'b'"):
            use()
    made.matrix(["a", "c"])
    assert not list(tmp_path.iterdir())


def test_ids_and_vectors_must_fit_together() -> None:
    vectors = np.ones((2, 3), dtype=np.float32)
    marks = np.ones(2, dtype=np.bool_)
    for ids, problem in (
        (["a"], "1 ids and vectors of shape"),
        (["a", "a"], "more than one vector: 'a'"),
        (["a", None], "1 of 2 ids are missing"),
        ([1.5, 2.0], "ids are Float64"),
    ):
        with pytest.raises(EmbeddingError, match=problem):
            Embeddings(vectors, pl.Series(ids), PROVENANCE, marks)
    with pytest.raises(EmbeddingError, match="float64; convert"):
        Embeddings(vectors.astype(np.float64), pl.Series(["a", "b"]), PROVENANCE, marks)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [["a", "ü", "c"], [3, 1, 2]])
def test_what_is_saved_is_loaded_and_memory_mapped(ids: list[str] | list[int], tmp_path: Path) -> None:
    made = embeddings(ids)
    made.save(tmp_path / "items")
    made.save(tmp_path / "items")  # again, over the old one
    loaded = Embeddings.load(tmp_path / "items")
    assert isinstance(loaded.vectors, np.memmap)
    np.testing.assert_array_equal(loaded.vectors, made.vectors)
    assert loaded.ids.to_list() == ids and loaded.provenance == PROVENANCE
    assert loaded.without_text == made.without_text == [ids[0]]
    assert loaded.model == "minilm" and loaded.width == 3 and len(loaded) == 3
    assert sorted(path.name for path in (tmp_path / "items").iterdir()) == [
        "embeddings.json",
        "ids.parquet",
        "vectors.safetensors",
    ]


def test_a_subset_keeps_the_order_asked_for() -> None:
    made = embeddings(["a", "b", "c"])
    subset = made.subset(IdMap(pl.Series(["c", "a"])))
    np.testing.assert_array_equal(subset.vectors, made.vectors[[2, 0]])
    assert subset.ids.to_list() == ["c", "a"] and subset.without_text == ["a"]


def test_files_of_two_runs_are_not_taken_together(tmp_path: Path) -> None:
    embeddings(["a", "b"]).save(tmp_path / "one")
    embeddings(["c", "d"]).save(tmp_path / "two")
    (tmp_path / "two" / "vectors.safetensors").replace(tmp_path / "one" / "vectors.safetensors")
    with pytest.raises(EmbeddingError, match="do not belong together; run 'longtail embed' again"):
        Embeddings.load(tmp_path / "one")


@pytest.mark.parametrize("name", ["embeddings.json", "ids.parquet", "vectors.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "noise"])
def test_a_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    embeddings([f"item {row}" for row in range(50)]).save(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        noise = bytes(np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8))
        path.write_bytes({"cut": whole[: len(whole) - 40], "empty": b"", "noise": noise}[damage])
    with pytest.raises(EmbeddingError, match=f"{name}.*run "):
        Embeddings.load(tmp_path)


def test_a_newer_format_and_foreign_facts_are_refused(tmp_path: Path) -> None:
    embeddings(["a"]).save(tmp_path)
    path = tmp_path / "embeddings.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(EmbeddingError, match="has format 2, this longtail reads 1; upgrade longtail"):
        Embeddings.load(tmp_path)
    path.write_text(json.dumps({**facts, "provenance": {"model": 3}}))
    with pytest.raises(EmbeddingError, match="is not what this longtail wrote"):
        Embeddings.load(tmp_path)
    path.write_text("[]")
    with pytest.raises(EmbeddingError, match="does not describe embeddings"):
        Embeddings.load(tmp_path)
