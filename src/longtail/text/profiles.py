"""Profiles: what a chat model writes of an item or of a user's training history, for an encoder to read (RLMRec)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import polars as pl

from longtail.config import Config
from longtail.data.dataset import Dataset
from longtail.data.histories import Histories
from longtail.errors import ConfigError, EmbeddingError
from longtail.text.cache import missing
from longtail.text.chat import Chat, ChatConfig, replies
from longtail.text.endpoints import HttpConfig
from longtail.text.estimates import Estimate, within
from longtail.text.prices import tokens_in
from longtail.text.prompt_blocks import Prompts, prompts_of_items, prompts_of_users
from longtail.text.prompts import read_template
from longtail.text.store import default_cache
from longtail.text.working import working

COLUMN = "profile"


class ProfileConfig(Config):
    """Who writes users' profiles, and how."""

    model: str | None = None
    """The chat model, as encoders are named; without one, the encoder reads the titles themselves."""
    template: str = "user-profile"
    """The prompt made of a user's training history."""
    chat: ChatConfig = ChatConfig()
    """How it writes."""
    http: HttpConfig = HttpConfig(batch_items=1)
    """How its server is asked."""


class Writer:
    """A chat model with the prompt it is given, and how much it may spend."""

    def __init__(self, chat: Chat, template: str, cache: str | Path | None = None, budget: float | None = None) -> None:
        self.chat, self.template, self.budget = chat, template, budget
        self.cache = Path(cache) if cache else default_cache()

    @classmethod
    def of(cls, config: ProfileConfig, budget: float | None = None, cache: str | Path | None = None) -> Writer | None:
        """As configured; None where there is no model."""
        if config.model is None:
            return None
        return cls(Chat(config.model, config.http, config.chat), config.template, cache, budget)

    @property
    def name(self) -> str:
        """For the provenance of vectors."""
        return f"{self.template} by {self.chat.model}"

    @property
    def hash(self) -> str:
        """SHA-256 of all that shapes what is written of a user."""
        return hashlib.sha256(f"{read_template(self.template, 'user').hash} {self.chat.identity}".encode()).hexdigest()

    def items(self, data: Dataset) -> Dataset:
        """`data` with the profiles in a column of its text, null where an item has no text."""
        if COLUMN in data.text.columns:
            raise ConfigError(f"the items have a column {COLUMN!r} already; leave it out, or take the folder as it is")
        written = pl.Series(COLUMN, self._write(prompts_of_items(data.text, self.template), "items"), dtype=pl.String)
        text = data.text.with_columns(written.replace("", None))
        return replace(data, text=text, notes=(*data.notes, f"profiles of the items: {self.name}"))

    def users(self, train: Histories, items_text: pl.DataFrame) -> Prompts:
        """The profiles of training histories, as prompts for an encoder; row k is user k + 1."""
        written = self._write(prompts_of_users(train, items_text, self.template, None), "users")
        return Prompts(train.users, lambda start, end: written[start:end])

    def estimate_items(self, data: Dataset) -> Estimate:
        """What `items` would cost, on the high side."""
        return self._estimate(prompts_of_items(data.text, self.template), "profiles of items")

    def estimate_users(self, train: Histories, items_text: pl.DataFrame) -> Estimate:
        """What `users` would cost, on the high side."""
        return self._estimate(prompts_of_users(train, items_text, self.template, None), "profiles of users")

    def _estimate(self, prompts: Prompts, what: str) -> Estimate:
        lacking = missing(self.chat.identity, prompts, self.cache)
        read, written = tokens_in(lacking.bytes), lacking.texts * self.chat.config.max_tokens
        dollars = self.chat.price.of(read, written)
        return Estimate(what, self.chat.model, lacking.texts, read + written, lacking.texts, dollars)

    def _write(self, prompts: Prompts, what: str) -> list[str]:
        if self.budget is not None:
            within(self.budget, [self._estimate(prompts, f"profiles of {what}")])
        with working(f"profiles of {what} by {self.chat.model}", lambda: self.chat.spent, self.budget) as report:
            written = replies(self.chat, prompts, prompts.rows, self.cache, report)
        if not prompts.has_text.any():
            raise EmbeddingError(f"none of the {prompts.rows:,} {what} has text; give an item table with titles")
        return written
