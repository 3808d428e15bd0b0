"""SASRec (Kang and McAuley, ICDM 2018), as LLM-ESR uses it, with the causal mask that its release leaves out."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from longtail.nn.attention import Attention
from longtail.nn.backbones.base import Backbone, BackboneConfig, backbones

EPSILON = 1e-8  # of every LayerNorm, as in the published code


class SASRecConfig(BackboneConfig):
    """SASRec's settings; defaults as in LLM-ESR's released code."""

    name: Literal["sasrec"] = "sasrec"
    blocks: PositiveInt = 2
    """Transformer blocks."""
    heads: PositiveInt = 1
    """Attention heads; must divide d."""


class SASRec(Backbone):
    """Causal self-attention blocks over sqrt(d) * vector + position."""

    objective: ClassVar[Literal["next_item"]] = "next_item"

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__(config)
        self.scale = config.d**0.5
        self.positions = nn.Embedding(config.max_len, config.d)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.d, eps=EPSILON)

    def embed(self, vectors: Tensor) -> Tensor:
        """S = dropout(sqrt(d) * vectors + positions), positions counted from the oldest item."""
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        embedded: Tensor = self.dropout(self.scale * vectors + self.positions(steps))
        return embedded

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, d); position t depends on positions <= t alone, so the mask of right padding is not needed."""
        for block in self.blocks:
            sequence = block(sequence)
        states: Tensor = self.norm(sequence)
        return states


class Block(nn.Module):
    """One block: q = LN(x); h = LN(q + Attention(q, x)); h + FFN(h) (SASRec, sec. III-B; q as in its released code)."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        d, dropout = config.d, config.dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(d, eps=EPSILON), nn.LayerNorm(d, eps=EPSILON)
        self.attention = Attention(d, config.heads, bias=True, dropout=dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(d, d), nn.Dropout(dropout), nn.ReLU(), nn.Linear(d, d), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d)."""
        query = self.attention_norm(x)
        h = self.forward_norm(query + self.attention(query, x, causal=True))
        out: Tensor = h + self.feed_forward(h)
        return out


backbones.register("sasrec")((SASRecConfig, SASRec))
