"""A chat model on a server: prompts to replies, through the same client and the same cache as vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pydantic import NonNegativeFloat, PositiveInt

from longtail.config import Config
from longtail.errors import ConfigError, EmbeddingError
from longtail.text.cache import Progress, Shelf, Texts, fill
from longtail.text.client import Client, TooLargeError, gather
from longtail.text.endpoints import PREFIXES, Endpoint, HttpConfig, endpoint
from longtail.text.prices import Price, price_of, tokens_in
from longtail.text.store import Store, opened

logger = logging.getLogger(__name__)


class ChatConfig(Config):
    """How a chat model writes."""

    max_tokens: PositiveInt = 200
    """Tokens of a reply at most."""
    temperature: NonNegativeFloat | None = 0.0
    """0 is the likeliest reply; None leaves it to models that take no temperature."""
    token_field: str = "max_tokens"
    """What the server calls the limit; newer models of OpenAI want max_completion_tokens."""


class Chat:
    """A chat model by its name, as encoders are named: `openai:gpt-4o-mini`, `http://localhost:8000/v1#qwen`."""

    def __init__(self, model: str, http: HttpConfig | None = None, config: ChatConfig | None = None) -> None:
        self.http, self.config = http or HttpConfig(), config or ChatConfig()
        kind, _, rest = model.partition(":")
        if kind not in PREFIXES:
            raise ConfigError(f"{model!r} is no chat model on a server; write it as openai:NAME or http://HOST/v1#NAME")
        self.endpoint: Endpoint = endpoint(kind, rest, self.http)
        self.read = self.written = 0
        """Tokens so far, as the server counts them, or as estimated where it does not."""

    @property
    def model(self) -> str:
        """As the user named it."""
        return self.endpoint.spec

    @property
    def identity(self) -> str:
        """Kind of server, model and settings; what replies are cached under."""
        name = self.http.identity or f"{self.endpoint.kind} API {self.endpoint.model}"
        return f"chat, {name}, {self.config.max_tokens} tokens, temperature {self.config.temperature}"

    @cached_property
    def price(self) -> Price:
        """Dollars for a million tokens, read and written."""
        return price_of(self.endpoint, self.http)

    @property
    def spent(self) -> float:
        """Dollars so far."""
        return self.price.of(self.read, self.written)

    def stream(self, prompts: Iterable[str]) -> Iterator[tuple[list[int], list[str]]]:
        """One reply after another: which of `prompts`, and what it is."""
        client = Client(self.endpoint, self.http)
        jobs = (_Prompt(position, prompt) for position, prompt in enumerate(prompts))
        try:
            for job, reply in gather(jobs, lambda job: self._ask(client, job), self._refuse, client):
                self.read, self.written = self.read + reply.read, self.written + reply.written
                yield [job.position], [reply.text]
        finally:
            client.close()

    def _ask(self, client: Client, job: _Prompt) -> _Reply:
        body: dict[str, object] = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": job.text}],
            self.config.token_field: self.config.max_tokens,
        }
        if self.config.temperature is not None:
            body["temperature"] = self.config.temperature
        guess = tokens_in(len(job.text.encode("utf-8", "surrogatepass")))
        answer = client.post("/chat/completions", body, guess + self.config.max_tokens)
        text = _content(answer)
        if not text:
            raise EmbeddingError(
                f"{self.model} wrote nothing for {job.text[:60]!r}…; raise chat.max_tokens (a model that reasons "
                "spends them on that first), or choose another model"
            )
        written = _count(answer, "completion_tokens", tokens_in(len(text)))
        return _Reply(text, _count(answer, "prompt_tokens", guess), written)

    def _refuse(self, job: _Prompt, error: TooLargeError) -> list[_Prompt]:
        raise EmbeddingError(
            f"{self.model} finds a prompt of {len(job.text):,} characters too long ({error}); shorten it"
        )


def replies(
    chat: Chat, prompts: Iterable[Texts], rows: int, cache: Path | None, progress: Progress | None = None
) -> list[str]:
    """(rows,) the reply to each prompt, '' for None; through the cache as `embed_blocks`, each one committed."""
    written = [""] * rows

    def keep(keys: list[bytes], asked: list[str], answer: list[str]) -> None:
        store.put(chat.identity, 0, ((key, text.encode()) for key, text in zip(keys, answer, strict=True)))

    def place(places: list[list[int]], answer: list[str]) -> None:
        for same, text in zip(places, answer, strict=True):
            for row in same:
                written[row] = text

    store: Store
    with opened(cache) as store:
        shelf = Shelf(store, chat.identity, lambda blobs: [blob.decode() for blob in blobs], keep, place)
        fill(shelf, prompts, rows, chat.stream, progress)
    return written


class _Prompt(NamedTuple):
    position: int
    text: str


class _Reply(NamedTuple):
    text: str
    read: int
    written: int


def _content(answer: Mapping[str, object]) -> str:
    """The text of the first choice, on one line."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return " ".join(content.split()) if isinstance(content, str) else ""


def _count(answer: Mapping[str, object], name: str, guess: int) -> int:
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else guess
