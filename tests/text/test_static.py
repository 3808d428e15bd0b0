"""Static vectors: a tiny real model2vec model built here, against the mean of its token vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embedders.base import parse

WORDS = ["[UNK]", "tea", "cup", "green", "pot"]
VECTORS = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("static")
    StaticModel(VECTORS, words, max_length=16).save_pretrained(folder)
    return folder


def test_a_vector_is_the_mean_of_the_known_tokens(tiny: Path) -> None:
    made = parse(f"m2v:{tiny}").encode(["green tea", "tea", "xyz", "", "tea pot " * 30])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[0], VECTORS[[3, 1]].mean(0), atol=1e-6)
    np.testing.assert_allclose(made[1], VECTORS[1], atol=1e-6)
    assert not made[2:4].any()
    np.testing.assert_allclose(made[4], VECTORS[[1, 4]].mean(0), atol=1e-6)


def test_name_identity_and_window(tiny: Path) -> None:
    found = parse(f"m2v:{tiny}")
    assert found.model == f"m2v:{tiny}" and found.max_chars == 50
    assert found.identity.startswith("model2vec ") and found.identity == parse(f"m2v:{tiny}/").identity


def test_mistakes_are_told(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(ConfigError, match="'m2v:' needs a model"):
        parse("m2v:")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EmbeddingError, match=f"cannot load {tmp_path} as a model2vec model"):
        parse(f"m2v:{tmp_path}").encode(["tea"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EmbeddingError, match="'minishlab/no-such' is not on this machine"):
        parse("m2v:no-such")
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(EmbeddingError, match=r"pip install 'longtail\[embed\]'"):
        parse(f"m2v:{tiny}").encode(["tea"])
