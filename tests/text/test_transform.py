"""What is done to vectors after the encoder, against plain linear algebra, and the same for new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embeddings import Embeddings, Provenance
from longtail.text.transform import FILE, Transform, fit_transform, parse_step


def cloud(n: int = 400, E: int = 12, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Vectors with a large mean and directions of very different spread."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.normal(size=(E, E)))[0]
    return (generator.normal(size=(n, E)) * np.geomspace(4, 0.2, E) @ turn + 3).astype(np.float32)


def test_steps_do_what_their_names_say() -> None:
    x = cloud()
    centred = x - x.mean(0)
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    np.testing.assert_allclose(fit_transform(["center"], x)[1], centred, atol=1e-4)
    np.testing.assert_allclose(fit_transform(["l2"], x)[1], x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-5)
    components = fit_transform(["pca:3"], x)[1]
    np.testing.assert_allclose(np.abs(components), np.abs(centred @ axes[:, ::-1][:, :3]), atol=1e-3)
    white = fit_transform(["whiten"], x)[1]
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(12), atol=1e-3)
    half = fit_transform(["whiten:5:0.5"], x)[1]
    np.testing.assert_allclose(np.cov(half.T, bias=True), np.diag(np.sqrt(values[::-1][:5])), atol=1e-2)
    removed = fit_transform(["remove:2"], x)[1]
    assert removed.shape == x.shape
    np.testing.assert_allclose(removed @ axes[:, -2:], 0, atol=1e-3)
    np.testing.assert_allclose(removed @ axes[:, :-2], centred @ axes[:, :-2], atol=1e-3)


def test_a_chain_is_fitted_step_by_step_and_does_the_same_to_new_vectors(tmp_path: Path) -> None:
    x, new = cloud(), cloud(seed=5)
    steps = ("remove:1", "l2", "whiten:4", "l2")
    fitted, made = fit_transform(steps, x)
    np.testing.assert_array_equal(fitted.apply(x), made)
    assert made.shape == (400, 4) and made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    one_by_one = x
    for step in steps:
        one_by_one = fit_transform([step], one_by_one)[1]
    np.testing.assert_allclose(one_by_one, made, atol=1e-5)
    fitted.save(tmp_path / FILE)
    again = Transform.load(tmp_path / FILE)
    np.testing.assert_array_equal(again.apply(new), fitted.apply(new))
    assert again.name == fitted.name != fit_transform(steps, new)[0].name
    first, second = fit_transform(steps[:2], x)[0], fit_transform(steps[2:], fit_transform(steps[:2], x)[1])[0]
    np.testing.assert_allclose(first.then(second).apply(new), fitted.apply(new), atol=1e-5)


def test_zero_vectors_stay_zero_under_unit_length() -> None:
    x = np.zeros((3, 2), dtype=np.float32)
    np.testing.assert_array_equal(fit_transform(["l2"], x)[1], x)


@pytest.mark.parametrize(
    "step", ["whitten", "pca", "pca:x", "pca:0", "center:3", "whiten:4:2", "whiten:4:0", "pca:4:1"]
)
def test_bad_steps_are_refused_by_name(step: str) -> None:
    with pytest.raises(ConfigError, match=f"step {step!r} of a transform.*whiten:256"):
        parse_step(step)


def test_more_directions_than_there_are_and_other_widths_are_refused(tmp_path: Path) -> None:
    x = cloud(n=5)
    with pytest.raises(EmbeddingError, match=r"'pca:8': the 5 vectors, 12 wide, vary in 4 directions"):
        fit_transform(["pca:8"], x)
    assert fit_transform(["whiten"], x)[1].shape == (5, 4)
    with pytest.raises(EmbeddingError, match="for vectors 12 wide, these are 3 wide"):
        fit_transform(["center"], x)[0].apply(x[:, :3])
    (tmp_path / FILE).write_bytes(b"noise")
    with pytest.raises(EmbeddingError, match="corrupt"):
        Transform.load(tmp_path / FILE)


def test_vectors_are_saved_and_loaded_with_their_transform_and_no_other(tmp_path: Path) -> None:
    fitted, made = fit_transform(["center", "l2"], cloud(n=4))
    provenance = Provenance("x", "x", transform=fitted.name)
    stored = Embeddings(made, pl.Series(["a", "b", "c", "d"]), provenance, np.ones(4, bool), transform=fitted)
    stored.save(tmp_path)
    found = Embeddings.load(tmp_path)
    assert found.transform is not None and found.transform.name == fitted.name
    assert found.subset(found._map).transform is found.transform
    fit_transform(["center", "l2"], cloud(n=4, seed=1))[0].save(tmp_path / FILE)
    with pytest.raises(EmbeddingError, match=r"is 'center l2 .*', but the vectors beside it had 'center l2 "):
        Embeddings.load(tmp_path)
