"""Sequence-level fusion of the two views by cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtail.errors import ConfigError
from longtail.nn.attention import Attention
from longtail.nn.layout import Layout

HEADS = 2  # fixed in the published code


class CrossAttention(nn.Module):
    """S'_co = Attn(Q = S_se, K = S_co, V = S_co); S'_se = Attn(Q = S_co, K = S_se, V = S_se) (LLM-ESR, sec. 3.2).

    No residual, norm or dropout: the output replaces the sequence, as in the published code. Causal where the backbone
    predicts the next item, because otherwise a position would read its own target through the other view.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        if d % HEADS:
            raise ConfigError(f"backbone.d = {d} cannot be split into the {HEADS} heads of the fusion; make it even")
        self.collaborative, self.semantic = Attention(d, HEADS, bias=False), Attention(d, HEADS, bias=False)

    def forward(self, sequences: Tensor, layout: Layout, *, causal: bool) -> Tensor:
        """Embedded sequences [S_co, S_se] (T, 2, d) to the fused pair (T, 2, d)."""
        co, se = sequences.unbind(1)
        fused = (self.collaborative(se, co, layout, causal=causal), self.semantic(co, se, layout, causal=causal))
        return torch.stack(fused, 1)
