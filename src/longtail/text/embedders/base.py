"""What a text encoder is, and how a model's name finds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

from longtail.registry import Registry
from longtail.text.embeddings import Embeddings
from longtail.text.vector_files import Floats


class Embedder(ABC):
    """A text encoder. Nothing is loaded before the first `encode`: with a full cache it never is."""

    @property
    @abstractmethod
    def model(self) -> str:
        """The name that `parse` understands."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Kind, hash of the weights and settings: equal identities give equal vectors. Enters the cache's key."""

    @property
    @abstractmethod
    def max_chars(self) -> int | None:
        """Texts up to this length fit the encoder's window; None if it has none."""

    def fitted(self, texts: Callable[[], Sequence[str]]) -> Embedder:
        """This encoder for a catalogue with these item texts: itself, unless it is one that learns from them."""
        return self

    @abstractmethod
    def encode(self, texts: list[str]) -> Floats:
        """(n, E) float32, one row a text, in their order."""


Source: TypeAlias = Embedder | Embeddings
sources: Registry[Callable[[str], Source]] = Registry("embedding model", "longtail.text.embedders")


def parse(model: str) -> Source:
    """The encoder that 'minilm' or 'st:NAME' names, or the finished vectors of 'file:PATH'.

    A ConfigError names the nearest known prefix; an EmbeddingError says why a model cannot be used.
    """
    kind, _, rest = model.partition(":")
    return sources.get(kind)(rest)
