"""`st:NAME`: a sentence-transformers model, by its name on the hub or as a local folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from longtail.errors import ConfigError, EmbeddingError
from longtail.files import file_hash
from longtail.text.embedders.base import CHUNK, Embedder, sources
from longtail.text.vector_files import Floats

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

INSTALL = "pip install 'longtail[embed]'"
WEIGHTS = {".safetensors", ".bin"}
SHAPING = WEIGHTS | {".json", ".txt", ".model"}  # files that decide what a model answers
OTHER_FORMATS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.gguf"]
# The demo sets' prompts have 3.3 (names of places) to 4.3 (English) characters a token: 99 of 100 fit at 3.1.
CHARS_PER_TOKEN = 3.125
BATCH = {"cpu": 16}  # measured on 2 cores; longer batches leave the cache
GPU_BATCH = 256


class Sentence(Embedder):
    """A local folder in the format of sentence-transformers.

    precision: bfloat16 halves the time on processors with such arithmetic (cosine to float32 above 0.9999);
    'auto' uses it where the processor has it.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        revision: str = "",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> None:
        self.folder = folder
        self._model = model
        self._revision = revision
        self.precision = native_precision() if precision == "auto" else precision

    @property
    def model(self) -> str:
        return self._model

    @cached_property
    def identity(self) -> str:
        return f"sentence-transformers {self._revision or fingerprint(self.folder)} {self.precision}"

    @cached_property
    def max_chars(self) -> int | None:
        for name, key in (("sentence_bert_config.json", "max_seq_length"), ("config.json", "max_position_embeddings")):
            path = self.folder / name
            window = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
            if isinstance(window, int):
                return int(window * CHARS_PER_TOKEN)
        return None

    @property
    def chunk(self) -> int:
        return 16 * GPU_BATCH if _has_gpu() else CHUNK  # a GPU is done with one batch before it could be committed

    def encode(self, texts: list[str]) -> Floats:
        return self.encode_any(texts)

    def encode_any(self, inputs: Sequence[object]) -> Floats:
        """(n, E) of whatever the model reads: texts, Pillow's images, {"array": samples, "sampling_rate": Hz}."""
        import torch

        encoder = self._encoder
        device = encoder.device.type
        half = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            vectors = encoder.encode(  # sorts by length itself, so that similar lengths share a batch
                list(inputs), batch_size=BATCH.get(device, GPU_BATCH), show_progress_bar=False, convert_to_numpy=True
            )
        return np.asarray(vectors, dtype=np.float32)

    @cached_property
    def _encoder(self) -> SentenceTransformer:
        sentence_transformers = _package()
        from transformers.utils import logging as transformers_logging

        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # loading takes a second; the bar of the texts is ours
        try:
            encoder: SentenceTransformer = sentence_transformers.SentenceTransformer(
                str(self.folder), local_files_only=True
            )
        except Exception as error:  # a foreign loader: whatever it raises, the folder is what is wrong
            raise EmbeddingError(
                f"cannot load {self.folder} as a sentence-transformers model "
                f"({type(error).__name__}: {error}); it should be a folder written by SentenceTransformer.save"
            ) from error
        finally:
            if shown:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        return encoder


@sources.register("st")
def sentence(name: str) -> Sentence:
    """`st:folder` or `st:name`; a name is downloaded once and read from the local hub cache from then on."""
    if not name:
        raise ConfigError("'st:' needs a model, such as 'st:all-MiniLM-L6-v2' or 'st:models/my-encoder'")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Sentence(folder, f"st:{name}")
    _package()
    repository = name if "/" in name else f"sentence-transformers/{name}"
    snapshot = hub_folder(name, repository)
    return Sentence(snapshot, f"st:{name}", revision=f"{repository}@{snapshot.name}")


def hub_folder(name: str, repository: str) -> Path:
    """The folder of a hub model: from the local cache if it is there, else downloaded; an EmbeddingError if not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
        if any(path.suffix in WEIGHTS for path in folder.iterdir()):
            return folder
    except LocalEntryNotFoundError:
        pass  # not there yet
    except ValueError as error:  # not of the form owner/name
        raise EmbeddingError(f"no folder {name!r}, and no model's name either ({error}); check the path") from None
    try:
        return Path(snapshot_download(repository, ignore_patterns=OTHER_FORMATS))
    except Exception as error:  # offline, unknown name, gated, disk full, …: the hub's own words say which
        raise EmbeddingError(
            f"no folder {name!r}, and the model {repository!r} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}: {_first_line(error)}); check the name and the connection, or use 'minilm', "
            "which needs no download"
        ) from error


def fingerprint(folder: Path) -> str:
    """SHA-256 of a model's weights, settings and vocabulary, whatever its folder is called."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in SHAPING and path.is_file():
            total.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return total.hexdigest()


def _package() -> ModuleType:
    try:
        import sentence_transformers
    except ImportError as error:
        raise EmbeddingError(f"this text encoder needs a package that is not there ({error}); {INSTALL}") from error
    return sentence_transformers


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def native_precision() -> Literal["float32", "bfloat16"]:
    """bfloat16 where the hardware multiplies it; elsewhere it would be emulated, and slower."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
