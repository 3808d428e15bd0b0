"""What a text encoder is, and how a model's name finds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from longtail.registry import Registry
from longtail.text.embeddings import Embeddings
from longtail.text.vector_files import Floats

CHUNK = 256  # texts embedded at once on a CPU: what an interruption can lose


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

    def stream(self, texts: Iterable[str]) -> Iterator[tuple[list[int], Floats]]:
        """Answers as they come: which of `texts`, counted from 0, and their vectors. Draws on `texts` as it goes."""
        rest, start = iter(texts), 0
        while chunk := list(islice(rest, self.chunk)):
            yield list(range(start, start + len(chunk))), self.encode(chunk)
            start += len(chunk)

    @property
    def chunk(self) -> int:
        """Texts that are embedded at once and then committed."""
        return CHUNK

    @property
    def remote(self) -> bool:
        """Whether texts go to a server."""
        return False

    @property
    def price(self) -> float:
        """Dollars for a million tokens."""
        return 0.0

    @property
    def spent(self) -> float:
        """Dollars so far."""
        return 0.0

    def requests_for(self, texts: int, size: int) -> int:
        """About how many requests so many texts of so many bytes together take."""
        return 0


class Wrapper(Embedder):
    """An encoder around another, by whose name and identity it goes: equal texts have equal vectors."""

    def __init__(self, inner: Embedder) -> None:
        self.inner = inner

    @property
    def model(self) -> str:
        """Of the other."""
        return self.inner.model

    @property
    def identity(self) -> str:
        """Of the other."""
        return self.inner.identity

    @property
    def max_chars(self) -> int | None:
        """Of the other."""
        return self.inner.max_chars


Source: TypeAlias = Embedder | Embeddings
sources: Registry[Callable[[str], Source]] = Registry("embedding model", "longtail.text.embedders")


def parse(model: str) -> Source:
    """The encoder that 'minilm' or 'st:NAME' names, or the finished vectors of 'file:PATH'.

    A ConfigError names the nearest known prefix; an EmbeddingError says why a model cannot be used.
    """
    kind, _, rest = model.partition(":")
    return sources.get(kind)(rest)
