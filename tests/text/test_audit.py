"""The audit of vectors: every check finds what was planted, and nothing in sound vectors."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from longtail.data.findings import Finding
from longtail.text.audit import Vectors, audit, explained, nearest, samples

N, E = 300, 16


def sound(seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rows = np.random.default_rng(seed).normal(size=(N, E)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]], **more: object) -> dict[str, Finding]:
    """Findings by topic."""
    ids = more.pop("ids", pl.Series("id", [f"i{row}" for row in range(len(vectors))]))
    return {one.topic: one for one in audit(Vectors(vectors, ids, **more))}


def test_sound_vectors_have_nothing_against_them() -> None:
    wanted = pl.Series("id", [f"i{row}" for row in range(N)])
    found = of(sound(), has_text=np.ones(N, bool), wanted=wanted, counts=np.arange(N), texts=["x"] * N)
    assert {one.level for one in found.values()} == {"ok"}
    assert set(found) == {"values", "ids", "zeros", "duplicates", "norms", "anisotropy", "dimension", "popularity"}
    assert abs(float(found["anisotropy"].facts["mean_cosine"])) < 0.01
    assert 13 < float(found["dimension"].facts["effective"]) <= 16


def test_broken_vectors_are_named_and_do_not_hide_the_rest() -> None:
    vectors = sound()
    vectors[3, 2], vectors[4, 0], vectors[7], vectors[20:40] = np.nan, np.inf, 0, vectors[20]
    found = of(vectors, has_text=np.arange(N) != 8)
    assert found["values"].level == "error" and "'i3', 'i4'" in found["values"].text
    assert found["zeros"].facts == {"zeros": 1, "of_texts": 1} and "'i7'" in found["zeros"].text
    assert (
        found["duplicates"].facts == {"vectors": 20, "distinct": N - 2 - 1 - 19}
        and "has 20" in found["duplicates"].text
    )
    assert "'i8'" in found["no text"].text and found["dimension"].level == "ok"


def test_ids_that_repeat_are_missing_or_too_many_are_told() -> None:
    ids = pl.Series("id", ["i0", "i0", *(f"i{row}" for row in range(2, N))])
    found = [one for one in audit(Vectors(sound(), ids, wanted=pl.Series(["i0", "i1", "i2"]))) if one.topic == "ids"]
    assert ["more than one vector: 'i0'" in found[0].text, "1 of 3 items have no vector ('i1')" in found[1].text] == [
        True
    ] * 2
    assert found[1].facts == {"missing": 1, "unused": N - 3}


def test_equal_vectors_of_different_texts_are_told_from_those_of_equal_texts() -> None:
    vectors = sound()
    vectors[1], vectors[3] = vectors[0], vectors[2]
    wanted, texts = pl.Series([f"i{row}" for row in range(N)]), [f"t{row}" for row in range(N)]
    texts[1] = texts[0]
    found = of(vectors, wanted=wanted, texts=texts)["duplicates"]
    assert found.level == "warning" and found.facts["of_different_texts"] == 2
    texts[3] = texts[2]
    assert of(vectors, wanted=wanted, texts=texts)["duplicates"].level == "note"


def test_a_narrow_cone_a_flat_cloud_and_long_vectors_are_warned_of() -> None:
    assert of(sound() + 2)["anisotropy"].level == "warning"
    flat = np.zeros((N, 200), np.float32)
    flat[:, :2] = np.random.default_rng(0).normal(size=(N, 2))
    assert of(flat)["dimension"].level == "warning"
    vectors = sound()
    vectors[5] *= 100
    assert of(vectors)["norms"].level == "warning" and "'i5'" in of(vectors)["norms"].text
    same = of(np.ones((N, E), np.float32))
    assert same["duplicates"].level == same["dimension"].level == "error"


@pytest.mark.parametrize("wide", [16, 700])
def test_vectors_that_know_popularity_are_told_from_those_that_do_not(wide: int) -> None:
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(N, wide)).astype(np.float32)
    counts = generator.geometric(0.1, N)
    wanted = pl.Series([f"i{row}" for row in range(N)])
    assert of(vectors, wanted=wanted, counts=counts)["popularity"].level == "ok"
    vectors[:, 0] = 5 * np.log1p(counts)
    found = of(vectors, wanted=wanted, counts=counts)["popularity"]
    assert found.level == "warning" and float(found.facts["r2"]) > 0.9


def test_the_linear_map_is_judged_on_what_it_was_not_fitted_on() -> None:
    generator = np.random.default_rng(2)
    assert explained(generator.normal(size=(60, 100)).astype(np.float32), generator.normal(size=60)) < 0.1


def test_nearest_are_by_cosine_without_the_item_itself_and_samples_are_of_head_and_tail() -> None:
    vectors = sound()
    vectors[9] = vectors[4] * 3 + 0.01
    wanted, counts = pl.Series([f"i{row}" for row in range(N)]), np.arange(N)
    given = Vectors(vectors, wanted, wanted=wanted, counts=counts)
    (near,) = nearest(given, [4], k=3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.argsort(-(unit @ unit[4]))[1:4]
    assert near.nearest.tolist() == expected.tolist() and near.nearest[0] == 9
    drawn = samples(given)
    assert min(drawn[:3]) >= N * 0.8 and max(drawn[3:]) < N * 0.2
