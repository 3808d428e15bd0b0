"""`openai:MODEL`, `azure:DEPLOYMENT`, `http://HOST:PORT/v1#MODEL`: encoders behind OpenAI's HTTP interface."""

from __future__ import annotations

import base64
import binascii
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np

from longtail.errors import EmbeddingError
from longtail.text.client import Client, TooLargeError, gather
from longtail.text.embedders.base import Embedder, sources
from longtail.text.embedders.sentence import CHARS_PER_TOKEN
from longtail.text.endpoints import PREFIXES, Endpoint, HttpConfig, endpoint
from longtail.text.pace import Pace
from longtail.text.prices import Price, price_of, tokens_in
from longtail.text.vector_files import Floats

SHORTEST = 16  # characters that a text is never cut below
logger = logging.getLogger(__name__)


class Http(Embedder):
    """A text encoder on a server; nothing is connected before the first text.

    The identity is kind of server, model and dimensions, or what the settings say: not the address, so that a server
    may move. Two servers with different weights under one name need `text.http.identity`. pace: as of `Client`.
    """

    def __init__(self, at: Endpoint, config: HttpConfig | None = None, pace: Pace | None = None) -> None:
        self.endpoint, self.config, self.pace = at, config or HttpConfig(), pace
        self.tokens = 0
        """Read so far, as the server counts them, or as estimated where it does not."""
        self.requests = 0
        """Answered so far."""
        self._most = self.config.batch_items
        self._encoding: str = self.config.encoding

    @property
    def model(self) -> str:
        return self.endpoint.spec

    @property
    def identity(self) -> str:
        if self.config.identity:
            return self.config.identity
        dimensions = f" {self.config.dimensions}" if self.config.dimensions else ""
        return f"{self.endpoint.kind} API {self.endpoint.model}{dimensions}"

    @property
    def max_chars(self) -> int | None:
        return int(self.config.window * CHARS_PER_TOKEN) if self.config.window else None

    @property
    def remote(self) -> bool:
        return True

    @property
    def price(self) -> float:
        return self._price.read

    def requests_for(self, texts: int, size: int) -> int:
        return max(math.ceil(texts / self.config.batch_items), math.ceil(size / self.config.batch_chars))

    @property
    def spent(self) -> float:
        """Dollars so far, by the tokens that the server counted."""
        return self._price.of(self.tokens)

    @cached_property
    def _price(self) -> Price:
        return price_of(self.endpoint, self.config)

    def one_of(self, n: int, pace: Pace) -> Http:
        """One of n that share `pace` and this one's number of requests in flight."""
        share = self.config.model_copy(update={"concurrency": max(1, self.config.concurrency // n)})
        return Http(self.endpoint, share, pace)

    def encode(self, texts: list[str]) -> Floats:
        parts = list(self.stream(texts))
        width = parts[0][1].shape[1] if parts else 0
        vectors = np.zeros((len(texts), width), dtype=np.float32)
        for positions, made in parts:
            vectors[positions] = made
        return vectors

    def stream(self, texts: Iterable[str]) -> Iterator[tuple[list[int], Floats]]:
        """One request's answer after another, several in flight; see `client.gather` for failures."""
        client = Client(self.endpoint, self.config, self.pace)
        try:
            for batch, answer in gather(
                self._batches(texts), lambda batch: self._ask(client, batch), self._smaller, client
            ):
                self.tokens, self.requests = self.tokens + answer.tokens, self.requests + 1
                yield batch.positions, answer.vectors
        finally:
            client.close()

    def _batches(self, texts: Iterable[str]) -> Iterator[_Batch]:
        positions: list[int] = []
        held: list[str] = []
        size = 0
        for position, text in zip(count(), texts, strict=False):
            if held and (len(held) >= self._most or size + len(text) > self.config.batch_chars):
                yield _Batch(positions, held)
                positions, held, size = [], [], 0
            positions.append(position)
            held.append(text)
            size += len(text)
        if held:
            yield _Batch(positions, held)

    def _smaller(self, batch: _Batch, error: TooLargeError) -> list[_Batch]:
        """Two halves; of a single text, what may fit."""
        n, (text, *more) = len(batch.texts), batch.texts
        if more:
            if "batch" in str(error) or "array" in str(error) or "inputs" in str(error):
                self._most = min(self._most, max(1, n // 2))  # a limit of the server: the next need not find it again
            return [batch.part(0, n // 2), batch.part(n // 2, n)]
        if len(text) <= SHORTEST:
            raise EmbeddingError(f"{self.model} finds {text!r} too long ({error}); check the server's settings")
        cut = text[: max(SHORTEST, len(text) * 3 // 4)]
        logger.warning(
            "%s reads no more than part of a text of %s characters; trying its first %s: %r…",
            self.model, f"{len(text):,}", f"{len(cut):,}", text[:40],
        )  # fmt: skip
        return [_Batch(batch.positions, [cut])]

    def _ask(self, client: Client, batch: _Batch) -> _Answer:
        """One request, in any thread."""
        body: dict[str, object] = {"model": self.endpoint.model, "input": batch.texts}
        if self.config.dimensions:
            body["dimensions"] = self.config.dimensions
        if self._encoding == "base64":
            body["encoding_format"] = self._encoding
        guess = tokens_in(sum(len(text.encode("utf-8", "surrogatepass")) for text in batch.texts))
        try:
            answer = client.post("/embeddings", body, guess)
        except EmbeddingError as error:
            if "encoding_format" not in body or "encoding_format" not in str(error):
                raise
            self._encoding = "float"  # the server knows nothing else
            return self._ask(client, batch)
        try:
            return _Answer(_rows(answer, len(batch.texts), self.config.dimensions), _tokens(answer, guess))
        except ValueError as error:
            raise EmbeddingError(
                f"{self.model} answered {len(batch.texts)} texts with {error}; nothing of it is kept; check the server"
            ) from None


class _Batch(NamedTuple):
    """The texts of one request and their places in the stream."""

    positions: list[int]
    texts: list[str]

    def part(self, start: int, end: int) -> _Batch:
        return _Batch(self.positions[start:end], self.texts[start:end])


class _Answer(NamedTuple):
    vectors: Floats
    tokens: int


def _rows(answer: Mapping[str, object], n: int, dimensions: int | None) -> Floats:
    """(n, E) by the rows' `index`: servers may answer in any order. A ValueError says what is wrong."""
    data = answer.get("data")
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise ValueError(f"no list of rows under 'data' (there is {', '.join(map(repr, answer)) or 'nothing'})")
    if len(data) != n:
        raise ValueError(f"{len(data)} rows")
    places = [row.get("index") for row in data]
    if any(type(place) is not int for place in places) or sorted(places) != list(range(n)):
        raise ValueError(f"rows of index {places[:5]}, … that should be 0 to {n - 1}, each once")
    rows = [_vector(row.get("embedding")) for row in data]
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1 or widths[0] != (dimensions or widths[0]) or not widths[0]:
        raise ValueError(f"vectors of width {widths}" + (f", not {dimensions} as asked" if dimensions else ""))
    vectors = np.empty((n, widths[0]), dtype=np.float32)
    vectors[places] = rows
    return vectors


def _vector(embedding: object) -> Floats:
    if isinstance(embedding, str):
        try:
            return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"a vector that is not base64 of 32-bit floats ({error})") from None
    if not isinstance(embedding, list) or not all(type(number) in {float, int} for number in embedding):
        raise ValueError(f"a vector that is no list of numbers but {str(embedding)[:40]!r}")
    with np.errstate(over="ignore"):  # infinity is refused by name, with its text
        return np.asarray(embedding, dtype=np.float64).astype(np.float32)


def _tokens(answer: Mapping[str, object], guess: int) -> int:
    usage = answer.get("usage")
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return read if isinstance(read, int) and read > 0 else guess


def configured(model: str, config: HttpConfig) -> str | Http:
    """The encoder of that name with these settings, if it is on a server; else the name."""
    kind, _, rest = model.partition(":")
    return Http(endpoint(kind, rest, config), config) if kind in PREFIXES else model


@sources.register("openai")
def openai(rest: str) -> Http:
    """`openai:text-embedding-3-small`; the key is in OPENAI_API_KEY, another address in OPENAI_BASE_URL."""
    return Http(endpoint("openai", rest, HttpConfig()))


@sources.register("azure")
def azure(rest: str) -> Http:
    """`azure:DEPLOYMENT` at AZURE_OPENAI_ENDPOINT, with the key in AZURE_OPENAI_API_KEY."""
    return Http(endpoint("azure", rest, HttpConfig()))


@sources.register("http")
def http(rest: str) -> Http:
    """`http://localhost:8080/v1#MODEL`: a server of one's own."""
    return Http(endpoint("http", rest, HttpConfig()))


@sources.register("https")
def https(rest: str) -> Http:
    """`https://HOST/v1#MODEL`."""
    return Http(endpoint("https", rest, HttpConfig()))
