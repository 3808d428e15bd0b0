"""Decoder LLMs as text encoders: tiny real ones built here, against one text at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embedders.base import parse
from longtail.text.embedders.decoder import Decoder, DecoderConfig

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "tea", "cup", "green", "pot", "a", "the", "find", "mug", "red", "blue"]
TEXTS = ["tea", "a green tea pot", "", "the red cup and the blue mug", "cup " * 40, "pot"] * 3


def build(folder: Path, kind: str) -> Path:
    """A two-layer model with random weights, and its tokenizer, which pads on the left as many LLMs' do."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        BertConfig,
        BertModel,
        LlamaConfig,
        LlamaModel,
        PreTrainedTokenizerFast,
        Qwen3Config,
        Qwen3Model,
    )

    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    if kind != "bare":
        words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    ).save_pretrained(folder)
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    if kind == "qwen":
        model = Qwen3Model(Qwen3Config(**sizes, num_key_value_heads=1, head_dim=8, max_position_embeddings=64))
    elif kind == "bert":
        model = BertModel(BertConfig(**sizes, max_position_embeddings=32))
    else:
        model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=64))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "qwen", "bert", "bare")}


def slowly(
    folder: Path, texts: list[str], pooling: str, limit: int = 512
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """One text at a time, nothing padded."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    made = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:limit]
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        place = np.arange(1, len(ids) + 1)[:, None]
        weighted = (states * place).sum(0) / place.sum()
        made.append({"mean": states.mean(0), "last": states[-1], "first": states[0], "weighted": weighted}[pooling])
    return np.stack(made)


@pytest.mark.parametrize("pooling", ["mean", "last", "weighted", "first"])
@pytest.mark.parametrize("kind", ["llama", "qwen", "bert"])
def test_pooled_vectors_are_those_of_one_text_at_a_time(tiny: dict[str, Path], kind: str, pooling: str) -> None:
    config = DecoderConfig(pooling=pooling, precision="float32", max_tokens=20)
    made = Decoder(tiny[kind], "hf:tiny", config).encode(TEXTS)
    assert made.shape == (18, 16) and made.dtype == np.float32
    np.testing.assert_allclose(made, slowly(tiny[kind], TEXTS, pooling, 20), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_vector_depends_neither_on_its_batch_nor_on_the_device_it_fell_to(tiny: dict[str, Path], kind: str) -> None:
    config = DecoderConfig(pooling="last", precision="float32")
    alone = Decoder(tiny[kind], "hf:tiny", config, budget=1).encode(TEXTS)  # every text its own batch
    together = Decoder(tiny[kind], "hf:tiny", config, budget=10**6).encode(TEXTS)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    split = Decoder(tiny[kind], "hf:tiny", config, devices=("cpu", "cpu"), budget=64)
    np.testing.assert_allclose(split.encode(TEXTS), alone, atol=1e-5)
    assert len({id(replica.model) for replica in split._replicas}) == 2


def test_batches_are_of_similar_length_and_hold_the_budget(tiny: dict[str, Path]) -> None:
    lengths = [3, 50, 4, 60, 5, 200, 3]
    made = Decoder(tiny["llama"], "hf:tiny", budget=120)._batches(lengths)
    assert sorted(row for rows in made for row in rows) == list(range(7))
    assert [[lengths[row] for row in rows] for rows in made] == [[200], [60, 50], [5, 4, 3, 3]]


def test_the_instruction_stands_before_the_text_and_the_end_token_behind(tiny: dict[str, Path]) -> None:
    config = DecoderConfig(pooling="last", precision="float32", instruction="find a ", end=True, max_tokens=6)
    made = Decoder(tiny["llama"], "hf:tiny", config).encode(["tea", "cup " * 9])
    np.testing.assert_allclose(
        made, slowly(tiny["llama"], ["find a tea </s>", "find a cup cup </s>"], "last"), atol=1e-5
    )
    empty = Decoder(tiny["bare"], "hf:tiny", DecoderConfig(precision="float32")).encode(["", "tea"])
    assert np.isfinite(empty).all()  # a text of no token at all


def test_the_name_carries_every_setting_and_the_identity_all_that_changes_vectors(tiny: dict[str, Path]) -> None:
    folder = tiny["llama"]
    found = parse(f"hf:{folder}?pooling=last&instruction=find a %26 b: &max_tokens=99&end=true&precision=float32")
    assert isinstance(found, Decoder)
    assert found.config == DecoderConfig(
        pooling="last", instruction="find a & b: ", max_tokens=99, end=True, precision="float32"
    )
    names = ["", "?pooling=last", "?instruction=x", "?max_tokens=9", "?end=true", "?precision=bfloat16"]
    identities = {parse(f"hf:{folder}{name or '?precision=float32'}").identity for name in names}
    assert len(identities) == 6
    assert found.max_chars == int(99 * 3.125) - len("find a & b: ")


def test_bfloat16_is_close(tiny: dict[str, Path]) -> None:
    one, two = (
        Decoder(tiny["llama"], "hf:tiny", DecoderConfig(precision=kind)).encode(["a green tea pot"])[0]
        for kind in ("float32", "bfloat16")
    )
    assert not np.array_equal(one, two) and one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.999


def test_mistakes_are_told(tiny: dict[str, Path], tmp_path: Path) -> None:
    for name, problem in (
        ("hf:", "needs a model"),
        (f"hf:{tmp_path}?pooling=max", "'first'"),
        (f"hf:{tmp_path}?poling=last", "unknown key 'poling', did you mean 'pooling'"),
        (f"hf:{tmp_path}?last", "stand key=value pairs"),
    ):
        with pytest.raises(ConfigError, match=problem):
            parse(name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EmbeddingError, match=f"cannot load {tmp_path} as a transformer"):
        parse(f"hf:{tmp_path}").encode(["tea"])
