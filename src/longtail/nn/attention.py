"""Multi-head attention of one sequence over another; the backbones and the cross-attention fusion are made of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.nn.dropout import dropout
from longtail.nn.layout import Layout


class Attention(nn.Module):
    """softmax(Q K' / sqrt(d / heads)) V over the context, heads concatenated, then an output projection.

    Tokens may carry several views, (T, V, d): each view attends within itself, as so many heads more.
    """

    def __init__(self, d: int, heads: int, *, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(d, d, bias=bias) for _ in range(3))
        self.output = nn.Linear(d, d)

    def forward(self, query: Tensor, context: Tensor, layout: Layout, *, causal: bool) -> Tensor:
        """Every token over its sequence, or with `causal` over what came before: (T, ..., d) to (T, ..., d)."""
        together = torch.cat([self.query(query), self.key(context), self.value(context)], -1)
        attended = [
            self.attend(*box.chunk(3, -1), mask=None if causal else real, causal=causal)
            for box, real in zip(layout.pad(together), layout.real(), strict=True)
        ]
        out: Tensor = self.output(layout.unpad(attended))
        return out

    def last(self, query: Tensor, context: Tensor, layout: Layout) -> Tensor:
        """One query a sequence over the whole sequence: (B, ..., d) over (T, ..., d) to (B, ..., d)."""
        boxes = layout.pad(torch.cat([self.key(context), self.value(context)], -1))
        queries = layout.rows(self.query(query))
        attended = [
            self.attend(q[:, None], *box.chunk(2, -1), mask=real, causal=False)[:, 0]
            for q, box, real in zip(queries, boxes, layout.real(), strict=True)
        ]
        out: Tensor = self.output(torch.cat(attended))
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool) -> Tensor:
        """(b, L, ..., d) each, `mask` (b, L) False at padding of the context, to the shape of q."""
        width = q.shape[-1] // self.heads
        by_head = (x.reshape(*x.shape[:2], -1, width).transpose(1, 2) for x in (q, k, v))  # (b, V * heads, L, width)
        keys = None if mask is None else mask[:, None, None, :]
        p = self.dropout if self.training else 0.0
        return attention(*by_head, mask=keys, causal=causal, p=p).transpose(1, 2).reshape(q.shape)


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool, p: float) -> Tensor:
    """softmax(q k' / sqrt(width)) v, (b, heads, L, width) each; `mask` is True where a query may look.

    Torch's own kernel, but for dropout on a CPU, for which it has none.
    """
    if not p or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, device=q.device).triu(1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return dropout(scores.softmax(-1), p) @ v
