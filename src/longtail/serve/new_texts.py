"""The LLM vector of a new item's text, by the encoder of the bundle's own items. Loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import polars as pl

from longtail.errors import BundleError, LongtailError
from longtail.serve.manifest import Manifest, TextFacts
from longtail.serve.matrix import Floats
from longtail.text.embedders.base import Embedder, parse
from longtail.text.prompts import item_prompts, read_template

WITHOUT_TORCH = {"openai", "azure", "http", "https", "m2v"}  # encoders that need none
GIVE = "give a vector of that encoder instead"


class Encoder(Protocol):
    """What makes vectors of texts."""

    def encode(self, texts: list[str]) -> Floats:
        """(n, E) float32."""


class NewTexts:
    """Texts to vectors (E,) as the encoder gives them, before the bundle's transform."""

    def __init__(self, manifest: Manifest) -> None:
        self.facts = manifest.text
        self._encoder: Encoder | None = None

    def vector(self, text: str | None, title: str, columns: Mapping[str, str]) -> Floats:
        """Of a text, or of the prompt that training would have made; a BundleError says why there is none."""
        if self.facts is None:
            raise BundleError("this bundle has no semantic path for new items; export the run with its embeddings")
        prompt = text if text is not None else _prompt(self.facts, title, columns)
        if not prompt.strip():
            raise BundleError("there is no text in title and columns; give a text, or a vector")
        if self._encoder is None:
            self._encoder = _encoder(self.facts)
        vector: Floats = self._encoder.encode([prompt])[0]
        return vector


def _prompt(facts: TextFacts, title: str, columns: Mapping[str, str]) -> str:
    if not facts.template or read_template(facts.template, "item").hash != facts.template_hash:
        raise BundleError(f"the prompt template {facts.template!r} is not here as it was in training; give a text")
    given = {**columns, facts.title: title or None}
    row = {name: given.get(name) for name in facts.columns or (facts.title, *columns)}
    table = pl.DataFrame({name: [value] for name, value in row.items()}, schema=dict.fromkeys(row, pl.String))
    return item_prompts(table, facts.template)[0]


def _encoder(facts: TextFacts) -> Encoder:
    if facts.spec != "minilm" and facts.spec.partition(":")[0] not in WITHOUT_TORCH:
        raise BundleError(f"the items' texts were embedded by {facts.spec!r}, which needs torch; {GIVE}")
    try:
        if facts.spec == "minilm":
            return _minilm()
        source = parse(facts.spec)
    except LongtailError as error:
        raise BundleError(f"the encoder {facts.spec!r} is not here ({error}); {GIVE}") from None
    if not isinstance(source, Embedder) or source.identity != facts.identity:
        raise BundleError(f"the encoder {facts.spec!r} is not the one of training ({facts.identity}); {GIVE}")
    return source


def _minilm() -> Encoder:
    from longtail.text.embedders.minilm import package_folder

    try:
        from longtail.serve.minilm import MiniLM
    except ImportError as error:
        raise BundleError(f"reading texts needs a package that is not there ({error}); {GIVE}") from None
    return MiniLM(package_folder())
