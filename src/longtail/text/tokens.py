"""How many tokens a text encoder makes of a prompt, and whether it reads all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longtail.data.histories import BoolArray, IntArray
from longtail.errors import EmbeddingError
from longtail.text.embedders.base import Embedder, parse
from longtail.text.embedders.sentence import CHARS_PER_TOKEN, Sentence
from longtail.text.embeddings import Embeddings


class Counted(NamedTuple):
    """tokens (n,); cut (n,) whether the encoder reads only the beginning; window: its tokens, None if it has no end.

    by: the tokenizer that counted, or '' where tokens are estimated from characters.
    """

    tokens: IntArray
    cut: BoolArray
    window: int | None
    by: str


def count(prompts: Sequence[str], model: str) -> Counted:
    """Tokens of each prompt for the encoder of that name: by its own tokenizer if it is at hand, else estimated."""
    source, folder = _encoder(model), None
    longest = None if source is None else source.max_chars
    window = None if longest is None else math.ceil(longest / CHARS_PER_TOKEN)  # as max_chars was made of it
    if isinstance(source, Sentence) and (source.folder / "tokenizer.json").is_file():
        folder = source.folder
    if folder is None:
        tokens = np.array([math.ceil(len(prompt) / CHARS_PER_TOKEN) for prompt in prompts], dtype=np.int64)
    else:
        tokens = _tokens(prompts, folder / "tokenizer.json")
    cut = np.zeros(len(tokens), dtype=np.bool_) if window is None else tokens > window
    return Counted(tokens, cut, window, model if folder else "")


def max_chars(model: str) -> int | None:
    """Texts up to this length fit the window of the encoder of that name; None if it has none, or is not at hand."""
    source = _encoder(model)
    return None if source is None else source.max_chars


def _encoder(model: str) -> Embedder | None:
    """The encoder, or None for finished vectors and where it is not installed or not to be had."""
    try:
        source = parse(model)
    except EmbeddingError:
        return None
    return None if isinstance(source, Embeddings) else source


def _tokens(prompts: Sequence[str], path: Path) -> IntArray:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch([prompt for prompt in prompts if prompt])
    tokens = np.zeros(len(prompts), dtype=np.int64)
    tokens[[bool(prompt) for prompt in prompts]] = [len(one.ids) for one in encoded]
    return tokens
