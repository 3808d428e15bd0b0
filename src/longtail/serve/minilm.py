"""all-MiniLM-L6-v2 in numpy: the vector of a new text where there is no torch; `text.embedders.minilm` has the weights.

BERT (Devlin et al., NAACL 2019) of 6 layers, the mean of its last states over the tokens, to unit length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.special import erf
from tokenizers import Tokenizer

from longtail.serve.arrays import map_arrays
from longtail.serve.matrix import Floats

Weights = dict[str, npt.NDArray[np.float32]]


class MiniLM:
    """Texts to vectors (n, 384), one after another."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        window = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        self.layers, self.heads, self.epsilon = (
            config[key] for key in ("num_hidden_layers", "num_attention_heads", "layer_norm_eps")
        )
        self.weights = cast("Weights", map_arrays(folder / "model.safetensors"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(window)
        self.tokenizer.no_padding()

    def encode(self, texts: list[str]) -> Floats:
        """(n, 384), unit rows."""
        return np.stack([self._encode(text) for text in texts])

    def _encode(self, text: str) -> Floats:
        w, ids = self.weights, self.tokenizer.encode(text).ids
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self.layers):
            x = self._layer(x, f"encoder.layer.{layer}")
        mean: Floats = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _layer(self, x: Floats, name: str) -> Floats:
        L, d = x.shape
        q, k, v = (
            self._linear(x, f"{name}.attention.self.{part}").reshape(L, self.heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        logits = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(d // self.heads))  # (heads, L, L)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        attended = self._linear(attended.transpose(1, 0, 2).reshape(L, d), f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
        h = self._linear(x, f"{name}.intermediate.dense")
        h = h * 0.5 * (1 + erf(h / np.float32(np.sqrt(2))))  # GELU
        return self._norm(x + self._linear(h.astype(np.float32), f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: Floats, name: str) -> Floats:
        made: Floats = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return made

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        made: Floats = centred / deviation * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return made
