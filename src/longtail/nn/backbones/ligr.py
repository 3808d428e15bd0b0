"""SASRec with the blocks of LiGR (Borisyuk et al., 2025, arXiv 2502.03417), as eSASRec (RecSys 2025) builds it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from longtail.nn.attention import Attention
from longtail.nn.backbones.base import Objective, backbones
from longtail.nn.backbones.sasrec import Transformer, TransformerConfig
from longtail.nn.dropout import Dropout
from longtail.nn.layout import Layout

WIDER = 4  # hidden width of the feed-forward, in d, as in eSASRec


class LiGRConfig(TransformerConfig):
    """LiGR's settings, chosen to stand beside SASRec's."""

    name: Literal["ligr"] = "ligr"


class LiGR(Transformer):
    """Causal blocks, each of whose two parts is let through by a gate."""

    objective: ClassVar[Objective] = "next_item"

    def __init__(self, config: LiGRConfig) -> None:
        super().__init__(config, lambda: GatedBlock(config))


class GatedBlock(nn.Module):
    """h = x + sigmoid(x W) * Attention(LN(x)); h + sigmoid(h V) * FFN(LN(h)) (LiGR; FFN of eSASRec).

    FFN(x) = (SiLU(x A) * x B) C, SwiGLU (Shazeer, 2020).
    """

    def __init__(self, config: LiGRConfig) -> None:
        super().__init__()
        d = config.d
        self.attention_norm, self.forward_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention_gate, self.forward_gate = nn.Linear(d, d), nn.Linear(d, d)
        self.attention = Attention(d, config.heads, bias=True, dropout=config.dropout)
        self.inner, self.outer = nn.Linear(d, 2 * WIDER * d), nn.Linear(WIDER * d, d)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, layout: Layout, *, last: bool = False) -> Tensor:
        """(T, ..., d) to (T, ..., d), or with `last` to each sequence's last token alone, (B, ..., d)."""
        context = self.attention_norm(x)
        if last:
            x, query = layout.last(x), layout.last(context)
            attended = self.attention.last(query, context, layout)
        else:
            attended = self.attention(context, context, layout, causal=True)
        h = x + self.dropout(self.attention_gate(x).sigmoid() * attended)
        out: Tensor = h + self.dropout(self.forward_gate(h).sigmoid() * self.feed_forward(self.forward_norm(h)))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., d)."""
        gate, value = self.inner(x).chunk(2, -1)
        out: Tensor = self.outer(self.dropout(F.silu(gate) * value))
        return out


backbones.register("ligr")((LiGRConfig, LiGR))
