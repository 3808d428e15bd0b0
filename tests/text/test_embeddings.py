"""Vectors are joined by id, and what is missing, broken or foreign is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

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


def test_all_vectors_in_their_order_are_mapped_and_not_copied(tmp_path: Path) -> None:
    """Others are copied, to the same values; what is mapped is fit for torch, which warns of memory it may not write."""
    made = embeddings(["b", "a", "c"])
    made.save(tmp_path)
    loaded = Embeddings.load(tmp_path)
    matrix = loaded.matrix(IdMap(made.ids), "items")
    assert isinstance(matrix, np.memmap) and np.shares_memory(matrix, loaded.vectors) and matrix.base is not None
    assert not matrix[0].any() and torch.from_numpy(matrix).shape == (4, 3)
    np.testing.assert_array_equal(matrix, made.matrix(["b", "a", "c"]))
    for order in (["a", "b", "c"], ["b", "a"], ["b"]):
        copied = loaded.matrix(order)
        assert not np.shares_memory(copied, loaded.vectors)
        np.testing.assert_array_equal(copied, made.matrix(order))
    again = loaded.subset(IdMap(made.ids)).matrix(["b", "a", "c"])
    assert np.shares_memory(again, loaded.vectors)
    subset = loaded.subset(IdMap(pl.Series(["c", "a"])))
    assert np.shares_memory(subset.matrix(["c", "a"]), subset.vectors)


def test_a_mapped_matrix_takes_no_memory(tmp_path: Path) -> None:
    """16 MB of vectors add less than 1 MB to the memory that is this process's alone."""
    ids = pl.Series([f"item {row}" for row in range(4000)])
    wide = np.random.default_rng(0).normal(size=(4000, 1024)).astype(np.float32)
    Embeddings(wide, ids, PROVENANCE, np.ones(4000, np.bool_)).save(tmp_path)
    loaded, known = Embeddings.load(tmp_path), IdMap(ids)
    loaded.matrix(known)
    before = own_memory()
    matrix = loaded.matrix(known)
    assert matrix.nbytes > 16e6 and own_memory() - before < 1e6
    del matrix


def own_memory() -> int:
    """Bytes of this process that no file stands behind."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_a_mapped_matrix_is_checked_too(tmp_path: Path) -> None:
    made = embeddings(["a", "b", "c"])
    made.save(tmp_path)
    loaded = Embeddings.load(tmp_path)
    loaded.vectors[1, 2] = np.nan  # this process's own copy of the page
    with pytest.raises(EmbeddingError, match="NaN or infinity: 'b'"):
        loaded.matrix(["a", "b", "c"])
    assert np.isfinite(Embeddings.load(tmp_path).vectors).all()


def test_other_readers_of_safetensors_read_the_vectors(tmp_path: Path) -> None:
    made = embeddings(["a", "b", "c"], width=5)
    made.save(tmp_path)
    arrays = load_file(tmp_path / "vectors.safetensors")
    np.testing.assert_array_equal(arrays["vectors"], made.vectors)
    assert arrays["padding"].tolist() == [0] * 20


@pytest.mark.parametrize("width", [3, 200])
def test_older_files_without_the_row_of_zeros_are_read(width: int, tmp_path: Path) -> None:
    """As the safetensors library writes them: before the vectors stands the header, or the file is not as long."""
    made = embeddings(["a", "b", "c"], width)
    made.save(tmp_path)
    mark = json.loads((tmp_path / "embeddings.json").read_text())["ids"]
    save_file({"vectors": made.vectors}, tmp_path / "vectors.safetensors", metadata={"ids": mark})
    loaded = Embeddings.load(tmp_path)
    assert isinstance(loaded.vectors, np.memmap) and loaded.padded is None
    np.testing.assert_array_equal(loaded.matrix(["a", "b", "c"]), made.matrix(["a", "b", "c"]))


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
