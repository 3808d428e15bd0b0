"""`m2v:NAME`: static vectors of model2vec, a mean of token vectors: no network runs, thousands of texts a second."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embedders.base import Embedder, sources
from longtail.text.embedders.sentence import CHARS_PER_TOKEN, INSTALL, fingerprint, hub_folder
from longtail.text.vector_files import Floats

if TYPE_CHECKING:
    from model2vec import StaticModel

LONGEST = 512  # tokens, where a model says nothing else
OWNER = "minishlab"  # of names on the hub that have none, e.g. potion-base-8M


class Static(Embedder):
    """A local folder in the format of model2vec. A text without a known token gets zeros."""

    def __init__(self, folder: Path, model: str, revision: str = "") -> None:
        self.folder, self._model, self._revision = folder, model, revision

    @property
    def model(self) -> str:
        return self._model

    @cached_property
    def identity(self) -> str:
        return f"model2vec {self._revision or fingerprint(self.folder)}"

    @property
    def max_chars(self) -> int | None:
        """Of as many tokens as the model itself cuts a text to."""
        path = self.folder / "config.json"
        longest = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}).get("max_length", LONGEST)
        return int(longest * CHARS_PER_TOKEN) if longest else None

    def encode(self, texts: list[str]) -> Floats:
        return np.asarray(self._encoder.encode(texts, use_multiprocessing=False), dtype=np.float32)

    @cached_property
    def _encoder(self) -> StaticModel:
        try:
            from model2vec import StaticModel
        except ImportError as error:
            raise EmbeddingError(f"'m2v:' needs the package model2vec ({error}); {INSTALL}") from error
        try:
            return StaticModel.from_pretrained(self.folder, force_download=False)
        except Exception as error:  # a foreign loader: whatever it raises, the folder is what is wrong
            raise EmbeddingError(
                f"cannot load {self.folder} as a model2vec model ({type(error).__name__}: {error}); it should be a "
                "folder written by StaticModel.save_pretrained"
            ) from error


@sources.register("m2v")
def static(name: str) -> Static:
    """`m2v:folder` or `m2v:name`; a name is downloaded once and read from the local hub cache from then on."""
    if not name:
        raise ConfigError("'m2v:' needs a model, such as 'm2v:potion-base-8M' or 'm2v:models/my-vectors'")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Static(folder, f"m2v:{name}")
    repository = name if "/" in name else f"{OWNER}/{name}"
    snapshot = hub_folder(name, repository)
    return Static(snapshot, f"m2v:{name}", revision=f"{repository}@{snapshot.name}")
