"""Images and sounds: real PNG and WAV files through tiny real models built here."""

from __future__ import annotations

import json
import logging
import shutil
import wave
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.dataset import Dataset
from longtail.errors import ConfigError, EmbeddingError
from longtail.text.media import ViewConfig, embed_view, read_sound
from longtail.text.views import join_views
from tests.conftest import Planted, catalogue, vectors, walks

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RATE = 16_000


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of one layer a side, 8 wide, that reads pictures of 32 by 32."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {
        **SMALL,
        "vocab_size": 4,
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    shape = CLIPConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8}, projection_dim=8)
    CLIPModel(shape).save_pretrained(folder)
    tokenizer = CLIPTokenizerFast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wav2vec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec 2.0 of one layer, 16 wide, at 16,000 samples a second."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    folder = tmp_path_factory.mktemp("wav2vec")
    layers = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL, **layers, **positions, vocab_size=6)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


def write_sound(path: Path, samples: np.ndarray, rate: int = RATE, width: int = 2, channels: int = 1) -> None:
    """A WAV file of samples from -1 to 1, (n,) or (n, channels)."""
    with wave.open(str(path), "wb") as opened:
        opened.setnchannels(channels)
        opened.setsampwidth(width)
        opened.setframerate(rate)
        if width == 1:
            frames = ((samples + 1) * 127.5).astype(np.uint8).tobytes()
        else:
            whole = (samples * (2 ** (8 * width - 1) - 1)).astype("<i4").reshape(-1, 1).view(np.uint8)
            frames = whole.reshape(-1, 4)[:, :width].tobytes()
        opened.writeframes(frames)


@pytest.fixture
def shop(tmp_path: Path) -> Dataset:
    """The planted walks; a third of the items name no picture or sound, and one names a file that is not there."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = []
    for item, name in enumerate(catalogue()["item_id"]):
        picture = sound = None
        if item % 3:
            picture, sound = f"{name}.png", f"{name}.wav"
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / picture)
            write_sound(tmp_path / sound, rng.uniform(-0.5, 0.5, 800))
        rows.append((name, f"Thing {item}", "gone.png" if item == 0 else picture, sound))
    shutil.copy(tmp_path / "i01.png", tmp_path / "i02.png")  # two items with one picture
    items = pl.DataFrame(rows, schema=["item_id", "title", "photo", "sound"], orient="row")
    return Dataset.read(walks(), items)


def test_pictures_are_embedded_once_by_content_and_found_in_the_cache(
    clip: Path, shop: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ViewConfig(model=f"image:{clip}", column="photo", folder=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        made = embed_view(shop, config, tmp_path / "cache")
    assert "files that are not there, whose items lack the view: 'gone.png'" in caplog.text
    assert made.width == 8 and len(made) == 13 and made.provenance.identity.startswith("image sentence-transformers")
    place = {name: row for row, name in enumerate(made.ids)}
    np.testing.assert_array_equal(made.vectors[place["i01"]], made.vectors[place["i02"]])
    assert np.abs(made.vectors[place["i01"]] - made.vectors[place["i04"]]).max() > 1e-4
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "elsewhere" / path.name)
    moved = config.model_copy(update={"folder": str(tmp_path / "elsewhere")})
    again = embed_view(shop, moved, tmp_path / "cache")
    np.testing.assert_array_equal(again.vectors, made.vectors)


def test_the_vector_of_a_picture_is_that_of_the_model_itself(clip: Path, shop: Dataset, tmp_path: Path) -> None:
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    config = ViewConfig(model=f"image:{clip}", column="photo", folder=str(tmp_path))
    made = embed_view(shop, config, tmp_path / "cache")
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    with Image.open(tmp_path / "i04.png") as opened, torch.no_grad():
        pixels = processor(images=opened.convert("RGB"), return_tensors="pt")["pixel_values"]
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)[0].numpy()
    np.testing.assert_allclose(made.matrix(["i04"])[1], expected, rtol=0.05, atol=0.05)  # bfloat16, where it is native


def test_the_vector_of_a_sound_is_the_models_mean_over_time_whatever_is_heard_beside_it(
    wav2vec: Path, shop: Dataset, tmp_path: Path
) -> None:
    import torch
    from transformers import Wav2Vec2Model

    config = ViewConfig(model=f"audio:{wav2vec}", column="sound", folder=str(tmp_path))
    made = embed_view(shop, config, tmp_path / "cache")
    assert made.width == 16 and len(made) == 13
    samples = read_sound(tmp_path / "i05.wav", RATE)
    normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    with torch.no_grad():
        states = Wav2Vec2Model.from_pretrained(wav2vec).eval()(torch.from_numpy(normal)[None]).last_hidden_state
    np.testing.assert_allclose(made.matrix(["i05"])[1], states[0].mean(0).numpy(), atol=1e-5)


def test_a_run_from_real_pictures_and_sounds_that_a_third_of_the_items_lack(
    clip: Path, wav2vec: Path, shop: Dataset, planted: Planted, tmp_path: Path
) -> None:
    import longtail as lt

    views = [
        embed_view(shop, ViewConfig(model=f"{kind}:{model}", column=column, folder=str(tmp_path)), tmp_path / "cache")
        for kind, model, column in (("image", clip, "photo"), ("audio", wav2vec, "sound"))
    ]
    items = join_views(vectors(shop.items.ids, 12, 1), *views)
    assert items.views is not None and items.views.widths == (12, 8, 16)
    assert items.views.lacking.sum(axis=0).tolist() == [0, 7, 7]
    settings = {
        "method": {"alpha": 0, "view_adapters": "each"},
        "backbone": {"d": 8, "max_len": 8},
        "train": {"epochs": 2, "batch_size": 16},
    }
    split = shop.leave_one_out()
    model = lt.Recommender("llmesr", "sasrec", settings).fit(split, items=items)  # type: ignore[arg-type]
    report = lt.evaluate(model, split, protocol=lt.ProtocolConfig(ks=(10,), sampled=0))
    assert 0 < report.value("hr@10") <= 1
    model.save(tmp_path / "run")
    again = lt.load(tmp_path / "run")
    assert again.recommend(users=["u003"], k=4).equals(model.recommend(users=["u003"], k=4))
    assert again.method.semantic.absent.shape == (3, 8)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_sounds_of_every_width_are_read_as_one_channel_at_the_models_rate(width: int, tmp_path: Path) -> None:
    wave_of = np.sin(2 * np.pi * 100 * np.arange(4000) / 8000) * 0.5
    write_sound(tmp_path / "s.wav", np.stack([wave_of, -0.5 * wave_of], axis=1), 8000, width, 2)
    heard = read_sound(tmp_path / "s.wav", RATE)
    assert heard.shape == (8000,)
    expected = 0.25 * np.sin(2 * np.pi * 100 * np.arange(8000) / RATE) * 0.5
    np.testing.assert_allclose(heard[100:-100], expected[100:-100], atol=0.02)


def test_broken_files_and_wrong_settings_are_named(shop: Dataset, tmp_path: Path) -> None:
    (tmp_path / "s.wav").write_bytes(b"RIFF....")
    with pytest.raises(EmbeddingError, match=r"cannot read the sound .*s\.wav .*PCM"):
        read_sound(tmp_path / "s.wav", RATE)
    with pytest.raises(ConfigError, match=r"unknown kind 'imag', did you mean 'image'"):
        embed_view(shop, ViewConfig(model="imag:x", column="photo"))
    with pytest.raises(ConfigError, match="needs a column of the item table with the files' names, not 'foto'"):
        embed_view(shop, ViewConfig(model="image:x", column="foto"))
    with pytest.raises(EmbeddingError, match=r"none of the 14 files in column 'photo' is there .such as .*gone.png."):
        embed_view(shop, ViewConfig(model="image:x", column="photo", folder=str(tmp_path / "no")))


def test_a_broken_picture_is_named(clip: Path, shop: Dataset, tmp_path: Path) -> None:
    (tmp_path / "i04.png").write_bytes(b"not a picture")
    with pytest.raises(EmbeddingError, match=r"cannot read the image .*i04\.png"):
        embed_view(shop, ViewConfig(model=f"image:{clip}", column="photo", folder=str(tmp_path)), tmp_path / "cache")
