"""`lexical`: TF-IDF and truncated SVD (latent semantic analysis), fitted to the catalogue's own texts; no download."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longtail.errors import ConfigError, EmbeddingError
from longtail.files import read_safetensors, write_safetensors
from longtail.text.embedders.base import Embedder, sources
from longtail.text.vector_files import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WIDTH = 512  # chosen on validation (docs/embeddings.md), as the next three are
GRAM = 3  # characters of a term: whole words, pairs of words and longer pieces were no better
RARE = 2  # texts a term must be in to count
POWER = 1.0  # of the singular values that the axes are divided by: 1 is whitened, 0 plain LSA
TERMS = 2**18  # at most so many, the most frequent
ROUNDS, SPARE = 4, 32  # of the subspace iteration, and directions beside those that are kept
FILE = "encoder.safetensors"  # beside the vectors that it made
NAME = f"lexical 1 gram {GRAM} rare {RARE} power {POWER:g}"  # changes with anything that changes a vector
WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Weights:
    """What was fitted. terms: V of them, sorted; idf (V,); axes (V, E), the terms' vectors."""

    terms: tuple[str, ...]
    idf: Floats
    axes: Floats


@dataclass(frozen=True, eq=False)
class Lexical(Embedder):
    """Vectors x = t V S^-p of unit TF-IDF rows t; T = U S V' are the rows of all item texts.

    idf = ln((1 + n) / (1 + df)) + 1, tf = 1 + ln(count). A text without a known term gets zeros. Its identity has the
    hash of the texts it is fitted to: another catalogue is another space. source: where the texts are, if they are
    known; kept: what was fitted, if it was read from a file, with the hash of its texts.
    """

    width: int = WIDTH
    source: Callable[[], Sequence[str]] | None = None
    kept: Weights | None = None
    kept_corpus: str = ""
    name: str = "lexical"

    @property
    def model(self) -> str:
        return self.name

    @property
    def max_chars(self) -> int | None:
        return None

    def fitted(self, texts: Callable[[], Sequence[str]]) -> Lexical:
        return self if self.kept is not None else replace(self, source=texts)

    @property
    def identity(self) -> str:
        return f"{NAME} width {self.width} corpus {self.corpus}"

    @cached_property
    def corpus(self) -> str:
        """A hash of the distinct texts it is fitted to, whatever their order."""
        if self.kept is not None:
            return self.kept_corpus
        total = hashlib.sha256()
        for text in self._texts:
            total.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
        return total.hexdigest()

    @cached_property
    def weights(self) -> Weights:
        """Fitted when they are first needed: with a full cache they never are."""
        return self.kept or fit(self._texts, self.width)

    def encode(self, texts: list[str]) -> Floats:
        weights = self.weights
        rows: Floats = _rows(texts, weights.terms, weights.idf) @ weights.axes
        return rows

    def save(self, folder: Path) -> None:
        """Write what was fitted into `folder`; `lexical:FOLDER` reads it."""
        weights = self.weights
        facts = {"name": NAME, "width": self.width, "corpus": self.corpus, "terms": weights.terms}
        told = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
        write_safetensors(folder / FILE, {"facts": told, "idf": weights.idf, "axes": weights.axes})

    @cached_property
    def _texts(self) -> list[str]:
        if self.source is None:
            raise EmbeddingError(
                "'lexical' learns from the item texts; use it through embed_items, or name a folder of vectors it "
                "has made: lexical:data/embeddings/items"
            )
        return sorted({text for text in self.source() if text})


def fit(texts: Sequence[str], width: int) -> Weights:
    """From distinct texts; an EmbeddingError if they are too few or too alike for that width."""
    documents = Counter(term for text in texts for term in set(_terms(text)))
    frequent = sorted((-count, term) for term, count in documents.items() if count >= RARE)[:TERMS]
    terms = tuple(sorted(term for _, term in frequent))
    most = min(len(texts), len(terms))
    if width > most:
        raise EmbeddingError(
            f"'lexical:{width}' needs as many texts and terms; there are {len(texts):,} distinct texts and "
            f"{len(terms):,} terms that {RARE} of them share: ask for lexical:{max(most // 2, 1)}"
        )
    counts = np.array([documents[term] for term in terms])
    idf = (np.log((1 + len(texts)) / (1 + counts)) + 1).astype(np.float32)
    return Weights(terms, idf, _axes(_rows(texts, terms, idf), width))


def _axes(rows: csr_array, width: int) -> Floats:
    """(V, width) right singular vectors over singular values^POWER, by subspace iteration (Halko et al., 2011, 4.5)."""
    most = min(rows.shape)
    basis = rows @ np.random.default_rng(0).normal(size=(rows.shape[1], min(width + SPARE, most))).astype(np.float32)
    for _ in range(ROUNDS):
        basis = rows @ (rows.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    _, values, right = np.linalg.svd((rows.T @ basis).T, full_matrices=False)
    axes = right[:width].T
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])  # equal texts give equal signs anywhere
    floor = values[0] * 1e-6  # beyond the rank there is nothing but rounding
    axes = np.where(values[:width] > floor, axes / np.maximum(values[:width], floor) ** POWER, 0)
    made: Floats = np.ascontiguousarray(axes, dtype=np.float32)
    return made


def _rows(texts: Sequence[str], terms: Sequence[str], idf: Floats) -> csr_array:
    """(n, V) TF-IDF rows of length 1, or 0 where no term is known."""
    from scipy.sparse import csr_array

    place = {term: column for column, term in enumerate(terms)}
    offsets, columns, values = [0], [], []
    for text in texts:
        found = Counter(place[term] for term in _terms(text) if term in place)
        columns += sorted(found)
        values += [found[column] for column in sorted(found)]
        offsets.append(len(columns))
    at: npt.NDArray[np.int64] = np.array(columns, dtype=np.int64)
    weighted = (1 + np.log(np.array(values, dtype=np.float64))) * idf[at]
    owners = np.repeat(np.arange(len(texts)), np.diff(offsets))
    norms = np.sqrt(np.bincount(owners, weighted**2, minlength=len(texts)))
    return csr_array((np.float32(weighted / norms[owners]), at, offsets), shape=(len(texts), len(terms)))


def _terms(text: str) -> Iterable[str]:
    """The character n-grams of its words, with a space at either end of a word."""
    for word in WORD.findall(text.lower()):
        padded = f" {word} "
        yield from (padded[start : start + GRAM] for start in range(len(padded) - GRAM + 1))


@sources.register("lexical")
def lexical(rest: str) -> Lexical:
    """`lexical`, `lexical:256` for another width, or `lexical:FOLDER`, which holds what was fitted before."""
    if not rest:
        return Lexical()
    if rest.isdecimal() and int(rest):
        return Lexical(int(rest), name=f"lexical:{rest}")
    path = Path(rest).expanduser() / FILE
    if not path.is_file():
        raise ConfigError(f"'lexical:{rest}' is neither a width, such as lexical:256, nor a folder with {FILE}")
    arrays = read_safetensors(path, EmbeddingError)
    try:
        facts = json.loads(arrays["facts"].tobytes())
        name, width, corpus, terms = facts["name"], facts["width"], facts["corpus"], tuple(facts["terms"])
        weights = Weights(terms, arrays["idf"].astype(np.float32), arrays["axes"].astype(np.float32))
    except (KeyError, ValueError, TypeError) as error:
        raise EmbeddingError(f"{path} is not a fitted lexical encoder ({error!r}); embed the items again") from None
    if name != NAME or weights.axes.shape != (len(terms), width):
        raise EmbeddingError(f"{path} is of {name!r}, this longtail fits {NAME!r}; embed the items again")
    return Lexical(width, kept=weights, kept_corpus=corpus, name=f"lexical:{rest}")
