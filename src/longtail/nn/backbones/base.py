"""What a backbone is: a map from a sequence of vectors to a sequence of vectors. It never sees an id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from longtail.config import Config
from longtail.registry import Registry


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
    """(B, L, d) vectors of a sequence, oldest first, to (B, L, d) states."""

    objective: ClassVar[Literal["next_item"]]
    """What its training predicts: with "next_item", position t sees positions <= t and predicts item t + 1."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def embed(self, vectors: Tensor) -> Tensor:
        """Item vectors (B, L, d) to the embedded sequence S (B, L, d): scale, positions, dropout."""

    @abstractmethod
    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """The embedded sequence (B, L, d) to states (B, L, d). `mask` (B, L) is False at padding."""

    def final(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """The state (B, d) at each sequence's last real position alone; a backbone may find it for less than all."""
        real = torch.arange(sequence.shape[1], device=sequence.device) < lengths[:, None]
        return last(self(sequence, real), lengths)


def last(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, D) and (B,) lengths to the (B, D) states at each sequence's last real position."""
    return states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)]


backbones: Registry[tuple[type[BackboneConfig], type[Backbone]]] = Registry("backbone", __package__)
