"""Dollars for tokens: a table of well-known models, and tokens estimated on the high side."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from longtail.errors import EmbeddingError
from longtail.text.endpoints import Endpoint, HttpConfig

TABLE = Path(__file__).parent / "prices.toml"
# English has 4 to 4.5 bytes a token, Chinese and Japanese 3 a character and one or two characters a token.
BYTES_PER_TOKEN = 3


class Price(NamedTuple):
    """Dollars for a million tokens."""

    read: float = 0.0
    written: float = 0.0

    def of(self, read: int, written: int = 0) -> float:
        """Dollars for so many tokens."""
        return (read * self.read + written * self.written) / 1e6


def price_of(endpoint: Endpoint, config: HttpConfig) -> Price:
    """By the settings, or the table; 0 for a server of one's own. An EmbeddingError if a paid model is not known."""
    known = _table().get(endpoint.model, Price() if endpoint.kind == "server" else None)
    if known is None and config.price is None:
        raise EmbeddingError(
            f"no price is known for {endpoint.spec}, so its cost cannot be told; set text.http.price to dollars for a "
            "million tokens (0 if it costs nothing)"
        )
    known = known or Price()
    return Price(
        known.read if config.price is None else config.price,
        known.written if config.answer_price is None else config.answer_price,
    )


def tokens_in(size: int) -> int:
    """Tokens that so many bytes of UTF-8 have, on the high side."""
    return math.ceil(size / BYTES_PER_TOKEN)


@cache
def _table() -> dict[str, Price]:
    return {name: Price(*prices) for name, prices in tomllib.loads(TABLE.read_text(encoding="utf-8")).items()}
