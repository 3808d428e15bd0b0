"""Views joined: unit vectors side by side, and what an item lacks is marked and stands at the mean, never at zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.ids import IdMap
from longtail.errors import EmbeddingError
from longtail.text.embeddings import Embeddings, Provenance
from longtail.text.views import join_views

RNG = np.random.default_rng(0)


def made(ids: str, width: int, has_text: list[bool] | None = None) -> Embeddings:
    rows = RNG.normal(size=(len(ids), width)).astype(np.float32)
    return Embeddings(
        rows, pl.Series(list(ids)), Provenance(f"m{width}", f"sha{width}"), np.array(has_text or [True] * len(ids))
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_each_view_is_of_length_one_and_an_absent_one_the_mean_of_the_present() -> None:
    text, image = made("abcd", 3, [True, True, True, False]), made("xdca", 5)
    joined = join_views(text, image)
    assert joined.width == 8 and joined.views is not None and joined.views.widths == (3, 5)
    assert joined.views.lacking.tolist() == [[0, 0], [0, 1], [0, 0], [1, 0]]
    np.testing.assert_allclose(
        joined.vectors[0], np.concatenate([unit(text.vectors[0]), unit(image.vectors[3])]), rtol=1e-6
    )
    np.testing.assert_allclose(joined.vectors[1, 3:], unit(image.vectors[1:]).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(joined.vectors[3, :3], unit(text.vectors[:3]).mean(axis=0), atol=1e-6)
    assert joined.has_text.all() and (np.abs(joined.vectors).sum(axis=1) > 0.5).all()
    assert joined.provenance.spec == "m3 + m5" and joined.provenance.identity == "sha3 + sha5"
    assert join_views(text, made("xda", 5)).provenance.texts != joined.provenance.texts  # c lacks one more
    assert join_views(text) is text


def test_views_survive_reordering_saving_and_loading(tmp_path: Path) -> None:
    joined = join_views(made("abcd", 3), made("ca", 2))
    joined.save(tmp_path / "v")
    for one in (joined, Embeddings.load(tmp_path / "v")):
        part = one.subset(IdMap(pl.Series(["d", "a"])))
        assert part.views is not None and part.views.widths == (3, 2)
        assert part.views.lacking.tolist() == [[0, 1], [0, 0]]
        again = one.views_of(IdMap(pl.Series(["c", "b"])))
        assert again is not None and again.lacking.tolist() == [[0, 0], [0, 0], [0, 1]]
    made("ab", 3).save(tmp_path / "plain")
    assert Embeddings.load(tmp_path / "plain").views is None


def test_a_view_that_no_item_has_is_refused() -> None:
    with pytest.raises(EmbeddingError, match=r"m5 has a vector for none of the 2 items .such as 'a', 'b'."):
        join_views(made("ab", 3), made("xy", 5))
    text = made("ab", 3)
    with pytest.raises(EmbeddingError, match="do not make up vectors of shape"):
        Embeddings(text.vectors, text.ids, text.provenance, text.has_text, views=join_views(text, made("a", 5)).views)
