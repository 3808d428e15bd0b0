"""The lexical encoder: TF-IDF and its singular vectors, fitted to the catalogue, the same for new items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.dataset import Dataset
from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embed import embed_items, embed_users
from longtail.text.embedders.base import parse
from longtail.text.embedders.lexical import FILE, GRAM, Lexical, fit, lexical
from longtail.text.embeddings import Embeddings

KINDS = ["red shampoo", "blue shampoo", "red lipstick", "blue lipstick", "green soap", "red soap", "hair brush", "nail"]
TEXTS = [f"{kind} {size}" for kind in KINDS for size in ("small", "large", "extra large")]


def slow_rows(texts: list[str], corpus: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """TF-IDF of character n-grams, written out."""

    def terms(text: str) -> list[str]:
        words = [f" {word} " for word in text.split()]
        return [word[at : at + GRAM] for word in words for at in range(len(word) - GRAM + 1)]

    known = sorted({term for text in corpus for term in terms(text) if sum(term in terms(one) for one in corpus) > 1})
    rows = []
    for text in texts:
        found = terms(text)
        row = [
            (1 + math.log(found.count(term)))
            * (math.log((1 + len(corpus)) / (1 + sum(term in terms(one) for one in corpus))) + 1)
            if term in found
            else 0.0
            for term in known
        ]
        length = math.sqrt(sum(value**2 for value in row))
        rows.append([value / length for value in row])
    return np.array(rows)


def test_vectors_are_whitened_tf_idf_rows_up_to_a_rotation() -> None:
    encoder = Lexical(6).fitted(lambda: TEXTS)
    made = encoder.encode(TEXTS)
    left, _, _ = np.linalg.svd(slow_rows(TEXTS, TEXTS), full_matrices=False)
    assert made.shape == (24, 6) and made.dtype == np.float32
    np.testing.assert_allclose(made @ made.T, left[:, :6] @ left[:, :6].T, atol=1e-4)  # signs cancel


def test_the_same_texts_in_another_order_are_the_same_encoder_and_others_are_not() -> None:
    one, two = Lexical(4).fitted(lambda: TEXTS), Lexical(4).fitted(lambda: [*TEXTS[::-1], "", TEXTS[0]])
    assert one.identity == two.identity
    np.testing.assert_array_equal(one.encode(TEXTS), two.encode(TEXTS))
    assert (
        one.identity != Lexical(4).fitted(lambda: TEXTS[1:]).identity != Lexical(5).fitted(lambda: TEXTS[1:]).identity
    )


def test_nothing_is_fitted_before_it_is_needed() -> None:
    asked: list[int] = []

    def texts() -> list[str]:
        asked.append(1)
        return TEXTS

    encoder = Lexical(4).fitted(texts)
    assert not asked
    assert encoder.identity and "weights" not in vars(encoder) and len(asked) == 1


def test_words_of_no_item_give_zeros_and_shared_pieces_are_near() -> None:
    vectors = Lexical(8).fitted(lambda: TEXTS).encode(["zzz", "", "shampoos", "red shampoo"])
    assert not vectors[:2].any()
    near = vectors[2] @ vectors[3] / np.linalg.norm(vectors[2]) / np.linalg.norm(vectors[3])
    assert near > 0.5


def test_new_items_get_the_map_that_was_stored_beside_the_vectors(tmp_path: Path) -> None:
    ids = [f"i{row}" for row in range(len(TEXTS))]
    rows = pl.DataFrame({"user_id": ["u", "v"] * 12, "item_id": ids, "timestamp": range(24)})
    data = Dataset.read(rows, pl.DataFrame({"item_id": ids, "title": TEXTS}))
    items = embed_items(data, "lexical:6", cache=tmp_path / "c")
    items.save(tmp_path / "items")
    assert (tmp_path / "items" / FILE).is_file() and Embeddings.load(tmp_path / "items").model == "lexical:6"
    stored = parse(f"lexical:{tmp_path / 'items'}")
    assert isinstance(stored, Lexical) and stored.fitted(lambda: ["others"]) is stored
    assert stored.identity == items.provenance.identity
    fresh = lexical("6").fitted(lambda: TEXTS).encode(["green shampoo"])
    np.testing.assert_array_equal(stored.encode(["green shampoo"]), fresh)
    users = embed_users(data.leave_one_out().train, data.text, data.users, "lexical:6", cache=tmp_path / "c")
    assert users.provenance.identity == items.provenance.identity and users.width == 6


def test_it_tells_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="learns from the item texts; use it through embed_items"):
        lexical("").encode(["a"])
    with pytest.raises(
        EmbeddingError, match=r"'lexical:90' needs as many texts and terms; there are 24 distinct texts"
    ):
        fit(TEXTS, 90)
    for rest in ("0", "many", str(tmp_path)):
        with pytest.raises(ConfigError, match=f"'lexical:{rest}' is neither a width"):
            lexical(rest)
    (tmp_path / FILE).write_bytes(b"noise")
    with pytest.raises(EmbeddingError, match="corrupt"):
        lexical(str(tmp_path))
