"""Fusion of the two views: of their sequences, before the backbone, or of their scores, after it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from longtail.errors import ConfigError
from longtail.nn.attention import Attention
from longtail.nn.layout import Layout

HEADS = 2  # fixed in the published code
Fusion = Literal["cross_attention", "none", "gated", "residual", "late"]


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


class Gated(nn.Module):
    """S'_v = g_v S_v + (1 - g_v) A_v with g_v = sigmoid(W_v [S_v ; A_v] + b_v), a gate a number (ours).

    A_v is what cross-attention makes of view v; W_v and b_v are the view's own.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.attention = CrossAttention(d)
        self.collaborative, self.semantic = nn.Linear(2 * d, d), nn.Linear(2 * d, d)

    def forward(self, sequences: Tensor, layout: Layout, *, causal: bool) -> Tensor:
        """Embedded sequences [S_co, S_se] (T, 2, d) to the fused pair (T, 2, d)."""
        attended = self.attention(sequences, layout, causal=causal)  # (T, 2, d)
        co, se = torch.cat([sequences, attended], -1).unbind(1)  # (T, 2d) each
        gates = torch.stack([self.collaborative(co), self.semantic(se)], 1).sigmoid()
        return torch.lerp(attended, sequences, gates)


class Residual(nn.Module):
    """S'_v = LayerNorm_v(S_v + A_v), A_v what cross-attention makes of view v (ours)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.attention = CrossAttention(d)
        self.collaborative, self.semantic = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, sequences: Tensor, layout: Layout, *, causal: bool) -> Tensor:
        """Embedded sequences [S_co, S_se] (T, 2, d) to the fused pair (T, 2, d)."""
        co, se = (sequences + self.attention(sequences, layout, causal=causal)).unbind(1)
        return torch.stack([self.collaborative(co), self.semantic(se)], 1)


class Late(nn.Module):
    """u = [w_co f(S_co) ; w_se f(S_se)], so that a score is w_co s_co + w_se s_se; the w are trained, from 1 (ours)."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, states: Tensor) -> Tensor:
        """States of both views (..., 2, d) to the same, weighted."""
        return states * self.weights[:, None]


def sequence_fusion(name: Fusion, d: int) -> nn.Module | None:
    """The fusion of that name, [S_co, S_se] (T, 2, d) to (T, 2, d); None if it leaves the sequences alone."""
    kinds: dict[Fusion, type[CrossAttention | Gated | Residual]] = {
        "cross_attention": CrossAttention,
        "gated": Gated,
        "residual": Residual,
    }
    return kinds[name](d) if name in kinds else None
