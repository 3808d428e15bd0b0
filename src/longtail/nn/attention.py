"""Multi-head attention of one sequence over another; the backbones and the cross-attention fusion are made of it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """softmax(Q K' / sqrt(d / heads)) V over the context, heads concatenated, then an output projection."""

    def __init__(self, d: int, heads: int, *, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(d, d, bias=bias) for _ in range(3))
        self.output = nn.Linear(d, d)

    def forward(self, query: Tensor, context: Tensor, *, causal: bool, keys: Tensor | None = None) -> Tensor:
        """(B, L, d) over (B, L, d) to (B, L, d). `keys` (B, L) is False where a context position is padding."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, d / heads)
            for project, x in ((self.query, query), (self.key, context), (self.value, context))
        )
        mask = None if keys is None else keys[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        out: Tensor = self.output(attended.transpose(1, 2).flatten(-2))
        return out
