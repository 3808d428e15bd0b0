"""Vectors of what is no text: of image and sound files that a column of the item table names, or made elsewhere."""

from __future__ import annotations

import logging
import wave
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from longtail.config import Config
from longtail.data.dataset import Dataset
from longtail.errors import ConfigError, EmbeddingError, some
from longtail.files import file_hash
from longtail.registry import nearest
from longtail.text.cache import default_cache, embed_cached
from longtail.text.embedders.base import Embedder, parse
from longtail.text.embedders.sentence import Sentence, sentence
from longtail.text.embeddings import Embeddings, Provenance
from longtail.text.vector_files import Floats
from longtail.text.working import working

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

BATCH = 16  # files open at a time: a photograph takes 36 MB
SECONDS = 30  # of a sound that are heard
INSTALL = "pip install 'longtail[images]'"
logger = logging.getLogger(__name__)


class ViewConfig(Config):
    """One more view of the items, beside their texts."""

    model: str
    """image:NAME, a sentence-transformers model such as CLIP; audio:NAME, a transformers model of sounds such as CLAP;
    or file:PATH, vectors made elsewhere."""
    column: str | None = None
    """Column of the item table that names each item's file, for image: and audio:."""
    folder: str = ""
    """Where these files are, if the names are not whole paths."""


def embed_view(data: Dataset, config: ViewConfig, cache: str | Path | None = None) -> Embeddings:
    """A vector of each item of `data` that has such a view; `join_views` takes it with those that lack one.

    Equal files are embedded once, and found in the cache by their content.
    """
    kind, _, name = config.model.partition(":")
    if kind == "file":
        made = parse(config.model)
        assert isinstance(made, Embeddings)
        return made
    if kind not in KINDS:
        known = [*KINDS, "file"]
        raise ConfigError(
            f"text.views: unknown kind {kind!r}{nearest(kind, known)} in {config.model!r}; known: {known}"
        )
    paths = _paths(data, config)
    hashes = [file_hash(Path(path)) for path in paths["path"]]
    source = sentence(name)
    assert isinstance(source, Sentence)
    encoder = Files(source, kind, dict(zip(hashes, paths["path"], strict=True)))
    with working(f"embedding files with {config.model}", lambda: 0.0, None) as report:
        vectors = embed_cached(encoder, hashes, Path(cache) if cache else default_cache(), report)
    provenance = Provenance(spec=config.model, identity=encoder.identity, texts=" ".join(hashes), data=data.hash)
    return Embeddings(vectors, paths["id"], provenance, np.ones(len(hashes), dtype=np.bool_))


def _paths(data: Dataset, config: ViewConfig) -> pl.DataFrame:
    """id, path of the items whose file is there; says in the log of how many it is not."""
    column = config.column
    if column is None or column not in data.text.columns:
        raise ConfigError(
            f"text.views: {config.model!r} needs a column of the item table with the files' names, not {column!r}; it "
            f"has {some(data.text.columns)}"
        )
    named = pl.DataFrame({"id": data.items.ids, "name": data.text[column].cast(pl.String)}).drop_nulls()
    paths = [str(Path(config.folder).expanduser() / name) for name in named["name"]]
    named = named.with_columns(path=pl.Series(paths, dtype=pl.String))
    there = pl.Series([Path(path).is_file() for path in paths], dtype=pl.Boolean)
    if not there.any():
        first = f"such as {paths[0]}" if paths else "the column is empty"
        raise EmbeddingError(
            f"none of the {len(paths):,} files in column {column!r} is there ({first}); set view.folder"
        )
    if not there.all():
        gone = named.filter(~there)["name"].to_list()
        logger.warning("files that are not there, whose items lack the view: %s", some(gone))
    return named.filter(there)


class Files(Embedder):
    """A model of images or sounds; the texts it is given are hashes of files' contents, which it knows the paths of.

    So the cache finds a file wherever it lies, and never takes a changed one for what it was.
    """

    def __init__(self, encoder: Sentence, kind: str, paths: Mapping[str, str]) -> None:
        self.encoder, self.kind, self.paths = encoder, kind, paths
        self.read = KINDS[kind](encoder)

    @property
    def model(self) -> str:
        return f"{self.kind}:{self.encoder.model.removeprefix('st:')}"

    @property
    def identity(self) -> str:
        return f"{self.kind} {self.encoder.identity}"

    @property
    def max_chars(self) -> int | None:
        return None

    def encode(self, texts: list[str]) -> Floats:
        paths = [Path(self.paths[text]) for text in texts]
        return np.concatenate([self.read(paths[start : start + BATCH]) for start in range(0, len(paths), BATCH)])


class Seeing:
    """Pictures to vectors, by a sentence-transformers model such as CLIP."""

    def __init__(self, encoder: Sentence) -> None:
        self.encoder = encoder

    def __call__(self, paths: Sequence[Path]) -> Floats:
        """(n, E)."""
        return self.encoder.encode_any([read_image(path) for path in paths])


class Extractor(Protocol):
    """What makes a model's input of samples."""

    sampling_rate: int

    def __call__(self, samples: Floats, *, sampling_rate: int, return_tensors: str) -> Mapping[str, Tensor]:
        """Tensors by the names of the model's arguments."""


class Hearing:
    """Sounds to vectors, by a transformers model: what it projects them to (CLAP), or the mean over time (wav2vec 2.0).

    One after the other: padded to one length, their vectors would depend on each other.
    """

    def __init__(self, encoder: Sentence) -> None:
        self.folder = encoder.folder

    @cached_property
    def _loaded(self) -> tuple[Extractor, PreTrainedModel]:
        from transformers import AutoFeatureExtractor, AutoModel

        try:
            extractor: Extractor = AutoFeatureExtractor.from_pretrained(self.folder, local_files_only=True)  # type: ignore[no-untyped-call]
            return extractor, AutoModel.from_pretrained(self.folder, local_files_only=True).eval()
        except Exception as error:  # a foreign loader: whatever it raises, the folder is what is wrong
            raise EmbeddingError(
                f"cannot load {self.folder} as a model of sounds ({type(error).__name__}: {error}); it should be a "
                "transformers model with a feature extractor of samples"
            ) from error

    def __call__(self, paths: Sequence[Path]) -> Floats:
        """(n, E)."""
        import torch

        extractor, model = self._loaded
        rate, rows = extractor.sampling_rate, []
        project = getattr(model, "get_audio_features", None)
        with torch.inference_mode():
            for path in paths:
                made = extractor(read_sound(path, rate), sampling_rate=rate, return_tensors="pt")
                if project is not None:
                    told = project(**made)
                    rows.append((told if isinstance(told, torch.Tensor) else told.pooler_output)[0])
                else:
                    rows.append(model(**made).last_hidden_state[0].mean(0))
        return np.stack([row.float().numpy() for row in rows])


def read_image(path: Path) -> object:
    """A picture in red, green and blue, as Pillow has it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EmbeddingError(f"images need the package Pillow ({error}); {INSTALL}") from error
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EmbeddingError(f"cannot read the image {path} ({error}); mend it, or remove it") from None


def read_sound(path: Path, rate: int) -> Floats:
    """The first seconds of a WAV file (PCM), its channels' mean, from -1 to 1, at `rate` samples a second."""
    try:
        with wave.open(str(path), "rb") as opened:
            own, width, channels = opened.getframerate(), opened.getsampwidth(), opened.getnchannels()
            frames = opened.readframes(SECONDS * own)
    except (OSError, EOFError, wave.Error) as error:
        raise EmbeddingError(f"cannot read the sound {path} ({error}); write it as a WAV file of PCM samples") from None
    if width == 1:
        samples = np.frombuffer(frames, dtype=np.uint8).astype(np.float32) / 128 - 1
    else:  # little-endian whole numbers; three bytes become four, whose lowest is zero
        raw = np.frombuffer(frames, dtype=np.uint8).reshape(-1, width)
        raw = np.concatenate([np.zeros((len(raw), 4 - width), np.uint8), raw], axis=1)
        samples = (raw.view("<i4")[:, 0] / 2**31).astype(np.float32)
    mono: Floats = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1)
    if not len(mono):
        raise EmbeddingError(f"the sound {path} has no samples; mend it, or remove it")
    if rate != own:
        from scipy.signal import resample_poly

        mono = resample_poly(mono, rate // gcd(rate, own), own // gcd(rate, own)).astype(np.float32)
    return mono


KINDS: dict[str, type[Seeing | Hearing]] = {"image": Seeing, "audio": Hearing}
