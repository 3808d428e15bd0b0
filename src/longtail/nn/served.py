"""What is asked of a trained method besides its encoder and its item vectors; a method overrides what it has."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from longtail.nn.graph import ItemGraph
from longtail.nn.items import SemanticView


class Graphs(NamedTuple):
    """What edges of items add to scores: gamma decay^age(j) w(j, i) for the `recent` last items j of a history.

    text, order: the edges w without gamma, by texts and by what came after; gamma: of either.
    """

    text: ItemGraph
    order: ItemGraph
    gamma: tuple[float, float]
    decay: float
    recent: int


class Served:
    """Score = served user vector . item vector + what the graphs add - dial log(1 + training count)."""

    def fixed(self) -> str:
        """What of it new items cannot join, so that it cannot be updated; nothing if there is no such thing."""
        return ""

    def served(self, u: Tensor, lengths: Tensor) -> Tensor:
        """User vectors (n, D) as they are scored with, from the states after whole histories of `lengths` (n,)."""
        return u

    def semantic_view(self) -> tuple[SemanticView, int] | None:
        """What maps LLM embeddings to item vectors, or adds to them, and the first of its columns there."""
        return None

    def graphs(self) -> Graphs | None:
        """The edges of items, if it has some."""
        return None
