"""`hf:NAME`: any transformer of the hub, decoder LLMs above all, with a choice of pooling, instruction and length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
from pydantic import PositiveInt

from longtail.config import Config, Value, build
from longtail.errors import ConfigError, EmbeddingError
from longtail.text.embedders.base import Embedder, sources
from longtail.text.embedders.sentence import (
    CHARS_PER_TOKEN,
    INSTALL,
    fingerprint,
    hub_folder,
    native_precision,
)
from longtail.text.vector_files import Floats

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUDGET = {"cpu": 2048, "cuda": 65_536}  # tokens a batch, padding included
Pooling = Literal["mean", "last", "weighted", "first"]


class DecoderConfig(Config):
    """What follows the name: `hf:Qwen/Qwen3-Embedding-0.6B?pooling=last&instruction=Describe the product: `."""

    pooling: Pooling = "mean"
    """mean of the token states; the last one; the mean weighted by position, 1 to L (SGPT); or the first, as [CLS]."""
    instruction: str = ""
    """Put before every text as it stands, with its own space at the end; its tokens are pooled like the others."""
    max_tokens: PositiveInt = 512
    """Longer texts are cut, instruction and special tokens included."""
    end: bool = False
    """Put the tokenizer's end token behind every text, where it does not do so itself (e5-mistral wants it)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and arithmetic; auto is bfloat16 where the hardware multiplies it. Pooling is in float32."""


class Replica(NamedTuple):
    """The model on one device."""

    device: str
    model: PreTrainedModel


class Decoder(Embedder):
    """A transformer's states, pooled over a text's own tokens.

    Tokens are padded on the right whatever the tokenizer's habit, under a mask: a causal model never sees ahead to the
    padding, another one is kept from it by the mask, and positions count from a text's first token, so that a vector
    does not depend on its batch. Texts of similar length share a batch of at most `budget` tokens. devices: where
    replicas of the model stand, each fed by a thread; all GPUs, or the CPU, if not given.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        config: DecoderConfig | None = None,
        revision: str = "",
        devices: Sequence[str] = (),
        budget: int | None = None,
    ) -> None:
        self.folder, self._model, self._revision = folder, model, revision
        self.config = config or DecoderConfig()
        self._devices, self._budget = tuple(devices), budget

    @property
    def model(self) -> str:
        return self._model

    @cached_property
    def precision(self) -> str:
        """float32 or bfloat16."""
        return native_precision() if self.config.precision == "auto" else self.config.precision

    @cached_property
    def identity(self) -> str:
        settings = self.config.model_dump(exclude={"precision"})
        told = " ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"transformers {self._revision or fingerprint(self.folder)} {self.precision} {told}"

    @property
    def max_chars(self) -> int | None:
        return max(int(self.config.max_tokens * CHARS_PER_TOKEN) - len(self.config.instruction), 1)

    def encode(self, texts: list[str]) -> Floats:
        replicas = self._replicas  # and with them the tokenizer: made once, before there are threads
        tokens = self._tokens(texts)
        batches = deque(self._batches([len(one) for one in tokens]))
        out: list[Floats | None] = [None] * len(texts)

        def work(replica: Replica) -> None:
            while batches:
                try:
                    rows = batches.popleft()
                except IndexError:  # another device took the last one
                    return
                made = _pooled(replica, [tokens[row] for row in rows], self.config.pooling)
                for row, vector in zip(rows, made, strict=True):
                    out[row] = vector

        with ThreadPoolExecutor(len(replicas)) as threads:
            for done in [threads.submit(work, replica) for replica in replicas]:
                done.result()
        return np.stack([row for row in out if row is not None])

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, the instruction before it; at least one, so that there is something to pool."""
        tokenizer = self._tokenizer
        end = [tokenizer.eos_token_id] if self.config.end else []
        if None in end:
            raise EmbeddingError(f"{self.folder} has a tokenizer without an end token; leave 'end' out of {self.model}")
        encoded = tokenizer(
            [self.config.instruction + text for text in texts],
            truncation=True,
            max_length=self._longest - len(end),
            return_attention_mask=False,
        )
        found: list[list[int]] = [ids if end and ids[-1:] == end else [*ids, *end] for ids in encoded["input_ids"]]
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        nothing = next((one for one in special if one is not None), 0)
        return [ids or [nothing] for ids in found]

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Rows by length, longest first, as many a batch as the budget holds, but one at least."""
        budget = self._budget or BUDGET[self._replicas[0].device.partition(":")[0]]
        made: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if not made or (len(made[-1]) + 1) * lengths[made[-1][0]] > budget:
                made.append([])
            made[-1].append(row)
        return made

    @cached_property
    def _longest(self) -> int:
        """Tokens that are read of a text: no more than the model has positions for."""
        positions = getattr(self._replicas[0].model.config, "max_position_embeddings", None)
        return min(self.config.max_tokens, self._tokenizer.model_max_length, positions or self.config.max_tokens)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        with _telling(self.folder):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder)
            return tokenizer

    @cached_property
    def _replicas(self) -> list[Replica]:
        with _telling(self.folder):
            import torch
            from transformers import AutoModel

            gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
            kind = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
            devices = self._devices or gpus or ["cpu"]
            loaded = [(device, AutoModel.from_pretrained(self.folder, dtype=kind)) for device in devices]
            return [Replica(device, model.to(device).eval()) for device, model in loaded]


def _pooled(replica: Replica, tokens: list[list[int]], pooling: Pooling) -> Floats:
    """(b, E) of a batch, on one device."""
    import torch

    lengths = torch.tensor([len(ids) for ids in tokens])
    place = torch.arange(int(lengths.max()))
    real = place < lengths[:, None]  # (b, L)
    items = torch.zeros(real.shape, dtype=torch.long)  # whatever stands at padding is masked
    items[real] = torch.tensor([one for ids in tokens for one in ids])
    with torch.inference_mode():
        given = {"input_ids": items.to(replica.device), "attention_mask": real.long().to(replica.device)}
        states = replica.model(**given).last_hidden_state.float()  # (b, L, E)
        weights = (
            real
            * {
                "mean": 1.0 / lengths[:, None],
                "last": (place == lengths[:, None] - 1).float(),
                "first": (place == 0).float(),
                "weighted": (place + 1) / (lengths * (lengths + 1) / 2)[:, None],
            }[pooling]
        )
        vectors: Floats = torch.einsum("bl,ble->be", weights.to(replica.device, torch.float32), states).cpu().numpy()
    return vectors


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Troubles of loading as EmbeddingErrors; no bar of the loader's own, for loading takes seconds."""
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise EmbeddingError(f"'hf:' needs the package transformers ({error}); {INSTALL}") from error
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except Exception as error:  # a foreign loader: whatever it raises, the folder is what is wrong
        raise EmbeddingError(
            f"cannot load {folder} as a transformer with its tokenizer ({type(error).__name__}: {error}); it should be "
            "a folder written by save_pretrained"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@sources.register("hf")
def decoder(rest: str) -> Decoder:
    """`hf:folder` or `hf:owner/name`, with `?key=value&…` for DecoderConfig; a name is downloaded once."""
    name, _, query = rest.partition("?")
    if not name:
        raise ConfigError("'hf:' needs a model, such as 'hf:Qwen/Qwen3-Embedding-0.6B?pooling=last'")
    try:
        settings: dict[str, Value] = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ConfigError(f"'hf:{rest}': after '?' stand key=value pairs with '&' between; %26 is '&' itself") from None
    config = build(DecoderConfig, settings, f"'hf:{rest}'")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Decoder(folder, f"hf:{rest}", config)
    snapshot = hub_folder(name, name)
    return Decoder(snapshot, f"hf:{rest}", config, revision=f"{name}@{snapshot.name}")
