"""Multi-head attention of one sequence over another; the backbones and the cross-attention fusion are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from longtail.nn.dropout import dropout, kept
from longtail.nn.layout import Layout


class Attention(nn.Module):
    """softmax(Q K' / sqrt(d / heads)) V over the context, heads concatenated, then an output projection.

    Tokens may carry several views, (T, V, d): each view attends within itself, as so many heads more. `pads` (B,), if
    given, are zero vectors that stand before each context and are attended to like the rest of it.
    """

    def __init__(self, d: int, heads: int, *, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(d, d, bias=bias) for _ in range(3))
        self.output = nn.Linear(d, d)

    def forward(
        self, query: Tensor, context: Tensor, layout: Layout, *, causal: bool, pads: Tensor | None = None
    ) -> Tensor:
        """Every token over its sequence, or with `causal` over what came before: (T, ..., d) to (T, ..., d)."""
        q, kv = self.queries(query), self.keys_and_values(context)
        p = self.dropout if self.training else 0.0
        if pads is None and by_hand(q):
            flat: Tensor = _BoxAttention.apply(q, kv, layout, self.heads, causal, p)  # type: ignore[no-untyped-call]
            return self.projected(flat)
        together = torch.cat([q, kv], -1)
        attended = [
            self.attend(*box.chunk(3, -1), mask=None if causal else real, causal=causal, pads=before)
            for box, real, before in zip(layout.pad(together), layout.real(), self.before(pads, layout), strict=True)
        ]
        return self.projected(layout.unpad(attended))

    def last(self, query: Tensor, context: Tensor, layout: Layout, *, pads: Tensor | None = None) -> Tensor:
        """One query a sequence over the whole sequence: (B, ..., d) over (T, ..., d) to (B, ..., d)."""
        boxes = layout.pad(self.keys_and_values(context))
        queries = layout.rows(self.queries(query))
        attended = [
            self.attend(q[:, None], *box.chunk(2, -1), mask=real, causal=False, pads=before)[:, 0]
            for q, box, real, before in zip(queries, boxes, layout.real(), self.before(pads, layout), strict=True)
        ]
        return self.projected(torch.cat(attended))

    def projected(self, attended: Tensor) -> Tensor:
        """(n, ..., d) of heads one after another to (n, ..., d)."""
        out: Tensor = self.output(attended)
        return out

    def queries(self, query: Tensor) -> Tensor:
        """(n, ..., d) to the same, divided by sqrt(d / heads)."""
        queries: Tensor = self.query(query) * (query.shape[-1] / self.heads) ** -0.5
        return queries

    def keys_and_values(self, context: Tensor) -> Tensor:
        """(T, ..., d) to (T, ..., 2 d), in one product: of a small batch, a call costs more than its arithmetic."""
        weight = torch.cat([self.key.weight, self.value.weight])
        bias = None if self.key.bias is None else torch.cat([self.key.bias, self.value.bias])
        return F.linear(context, weight, bias)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool, pads: Pads | None = None
    ) -> Tensor:
        """(b, L, ..., d) each, `mask` (b, L) False at padding of the context, to the shape of q."""
        parts = (by_head(x, self.heads) for x in (q, k, v))
        keys = None if mask is None else mask[:, None, None, :]
        p = self.dropout if self.training else 0.0
        attended = attention if pads is None else partial(attention_with_pads, pads=pads)
        return attended(*parts, mask=keys, causal=causal, p=p).transpose(1, 2).reshape(q.shape)

    def before(self, pads: Tensor | None, layout: Layout) -> Sequence[Pads | None]:
        """The zero vectors before the contexts of each box, (b,) of them."""
        if pads is None:
            return [None] * len(layout.boxes)
        zero = self.output.weight.new_zeros(self.output.in_features)
        key, value = (projection(zero).view(self.heads, 1, -1) for projection in (self.key, self.value))
        return [Pads(number, key, value) for number in layout.rows(pads)]


def by_head(x: Tensor, heads: int) -> Tensor:
    """(b, L, ..., d) to (b, V * heads, L, d / heads)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1] // heads).transpose(1, 2)


class Pads(NamedTuple):
    """How many zero vectors stand before each context, (b,), and the key and value (heads, 1, width) of them all."""

    number: Tensor
    key: Tensor
    value: Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool, p: float) -> Tensor:
    """softmax(q k') v, (b, heads, L, width) each; `mask` is True where a query may look.

    Torch's own kernel, but for dropout on a CPU, for which it has none.
    """
    if not p or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, is_causal=causal, scale=1.0)
    return dropout(logits(q, k, mask=mask, causal=causal).softmax(-1), p) @ v


def attention_with_pads(
    q: Tensor, k: Tensor, v: Tensor, *, pads: Pads, mask: Tensor | None, causal: bool, p: float
) -> Tensor:
    """`attention` where every query also looks at the zero vectors before its context, which nobody has to make.

    They share one key and one value, so they are a single key whose logit gets + log(number): the same softmax. Dropout
    drops them one by one, which leaves a binomial share of their weight.
    """
    views, number = q.shape[1] // len(pads.key), pads.number.to(q.dtype)[:, None, None, None]
    key, value = (x.repeat(views, 1, 1) for x in (pads.key, pads.value))  # (V * heads, 1, width)
    before = logits(q, key, mask=None, causal=False) + number.log()  # (b, V * heads, L, 1)
    weights = torch.cat([before, logits(q, k, mask=mask, causal=causal)], -1).softmax(-1)
    at_pads, at_context = weights[..., :1], weights[..., 1:]
    if p:
        kept = torch.binomial(number.expand_as(at_pads), torch.full_like(at_pads, 1 - p))
        at_pads, at_context = at_pads * kept / (number.clamp(min=1) * (1 - p)), dropout(at_context, p)
    out: Tensor = at_context @ v + at_pads * value
    return out


def logits(q: Tensor, k: Tensor, *, mask: Tensor | None, causal: bool) -> Tensor:
    """q k', -inf where a query may not look."""
    if causal:
        ahead = torch.full((q.shape[2], k.shape[2]), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        scores = torch.baddbmm(ahead, q.flatten(0, 1), k.flatten(0, 1).mT).view(*q.shape[:3], k.shape[2])
    else:
        scores = q @ k.mT
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def by_hand(q: Tensor) -> bool:
    """Whether these queries' attention is to be differentiated by `_BoxAttention`: on a CPU, in one precision."""
    return q.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


class _BoxAttention(torch.autograd.Function):
    """`attention` of tokens that lie flat, (T, ..., d) and (T, ..., 2 d), box by box, its gradient written out.

    In a small batch most of a step is the calling of operations, and of autograd's for every view of every box.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, kv: Tensor, layout: Layout, heads: int, causal: bool, p: float) -> Tensor:
        boxes, attended = [], []
        for queries, box, real in zip(layout.pad(q), layout.pad(kv), layout.real(), strict=True):
            query, key, value = (by_head(x, heads) for x in (queries, *box.chunk(2, -1)))
            weights = logits(query, key, mask=None if causal else real[:, None, None, :], causal=causal).softmax(-1)
            scale = kept(weights, p) if p else None
            boxes.append((query, key, value, weights, scale))
            seen = weights if scale is None else weights * scale
            attended.append((seen @ value).transpose(1, 2).reshape(queries.shape))
        ctx.boxes, ctx.layout, ctx.heads = boxes, layout, heads  # type: ignore[attr-defined]
        return layout.unpad(attended)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        layout, queries, context = ctx.layout, [], []  # type: ignore[attr-defined]
        for part, (query, key, value, weights, scale) in zip(layout.pad(grad), ctx.boxes, strict=True):  # type: ignore[attr-defined]
            out = by_head(part, ctx.heads)  # type: ignore[attr-defined]
            slope = out @ value.mT  # by the weights that were kept
            if scale is not None:
                slope *= scale
            slope *= weights
            slope.addcmul_(weights, slope.sum(-1, keepdim=True), value=-1)  # by the logits
            seen = weights if scale is None else weights * scale
            back = [(x.transpose(1, 2)).reshape(part.shape) for x in (slope @ key, slope.mT @ query, seen.mT @ out)]
            queries.append(back[0])
            context.append(torch.cat(back[1:], -1))
        return layout.unpad(queries), layout.unpad(context), None, None, None, None
