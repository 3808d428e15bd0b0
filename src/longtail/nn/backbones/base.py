"""What a backbone is: a map from a sequence of vectors to a sequence of vectors. It never sees an id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from longtail.config import Config
from longtail.errors import ConfigError
from longtail.nn.layout import Layout
from longtail.registry import Registry

Objective = Literal["next_item", "cloze"]


class BackboneConfig(Config):
    """Settings every backbone has."""

    name: str
    d: PositiveInt = 64
    """Width of one view (LLM-ESR, sec. 4.1)."""
    max_len: PositiveInt = 200
    """Longest sequence, in items; older items are cut (LLM-ESR, sec. 4.1)."""
    dropout: NonNegativeFloat = Field(default=0.5, lt=1)
    """Share of activations dropped in training."""


class Backbone(nn.Module, ABC):
    """Vectors of the tokens of sequences, oldest first, to states, (T, ..., d) to (T, ..., d).

    The axes between are views of an item, which a backbone treats alike and apart.
    """

    objective: ClassVar[Objective]
    """What its training predicts: with "next_item", position t sees positions <= t and predicts item t + 1; with
    "cloze" each position sees all, and those whose item is hidden predict it. The user vector is the state of the last
    item, or with "cloze" of a hidden one after it."""
    masked: float | None = None
    """Share of a training sequence's items that "cloze" hides (`TrainingBatches`)."""
    last_only: bool = False
    """Whether training with "next_item" predicts the last item of a sequence alone."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.causal = True  # whether no position of next-item training sees a later one

    @abstractmethod
    def embed(self, vectors: Tensor, layout: Layout) -> Tensor:
        """Item vectors (T, ..., d) to the embedded sequence S (T, ..., d): scale, positions, dropout."""

    @abstractmethod
    def forward(self, sequence: Tensor, layout: Layout) -> Tensor:
        """The embedded sequence (T, ..., d) to states (T, ..., d)."""

    def start(self, weight: Tensor) -> None:
        """Draw weights (m, n) that training starts from: its own, and the table of item vectors before it."""
        nn.init.xavier_normal_(weight)

    def padding_state(self) -> Tensor:
        """The state (d,) of a sequence of padding alone, for method.drop_last."""
        raise ConfigError(f"backbone {self.config.name!r} gives padding alone no state; leave method.drop_last out")

    def final(self, sequence: Tensor, layout: Layout) -> Tensor:
        """The state (B, ..., d) of each sequence's last token alone; a backbone may find it for less than all."""
        return layout.last(self(sequence, layout))


backbones: Registry[tuple[type[BackboneConfig], type[Backbone]]] = Registry("backbone", __package__)
