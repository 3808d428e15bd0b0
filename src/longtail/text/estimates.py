"""What texts will cost, before anything is spent: what the cache lacks, in tokens, times a price."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from longtail.errors import EmbeddingError
from longtail.text.cache import Texts, missing
from longtail.text.embedders.base import Embedder
from longtail.text.prices import Price, tokens_in


class Estimate(NamedTuple):
    """What is missing in the cache and what it will cost, on the high side."""

    what: str
    model: str
    texts: int
    """Distinct texts that the cache lacks."""
    tokens: int
    requests: int
    dollars: float

    def __str__(self) -> str:
        if not self.texts:
            return f"{self.what} with {self.model}: all texts are in the cache"
        each = self.dollars / max(1, self.requests)
        cost = f"about ${self.dollars:,.4f} (${each:,.6f} a request)" if self.dollars else "no known price"
        return (
            f"{self.what} with {self.model}: {self.texts:,} new texts, at most about {self.tokens:,} tokens, "
            f"{self.requests:,} requests, {cost}"
        )


def estimate(embedder: Embedder, texts: Iterable[Texts], cache: Path, what: str) -> Estimate:
    """For texts in blocks; the cache is looked up, and nobody is asked."""
    lacking = missing(embedder.identity, texts, cache)
    tokens = tokens_in(lacking.bytes)
    return Estimate(
        what, embedder.model, lacking.texts, tokens, embedder.requests_for(*lacking), Price(embedder.price).of(tokens)
    )


def within(budget: float | None, estimates: Sequence[Estimate]) -> None:
    """An EmbeddingError if the estimates together pass the budget in dollars; None is without limit."""
    total = math.fsum(one.dollars for one in estimates)
    if budget is not None and total > budget:
        raise EmbeddingError(
            f"{'; '.join(str(one) for one in estimates if one.dollars)}: more than the budget of ${budget:,.4f}; "
            "raise the budget (text.budget), or run 'longtail embed', which asks first"
        )


def total(estimates: Iterable[Estimate]) -> float:
    """Dollars of them all."""
    return math.fsum(one.dollars for one in estimates)
