"""Ranking losses. Each takes the states that have a target and compares them with item vectors by dot product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from longtail.nn.items import ItemVectors

LOGITS = 2**20  # logits held at once by the softmax: 4 MB of float32, which stay in cache


def bce(states: Tensor, targets: Tensor, negatives: Tensor, vectors: ItemVectors) -> Tensor:
    """-log sigmoid(s+) - log(1 - sigmoid(s-)), each averaged over its items (LLM-ESR, sec. 3.4; SASRec, eq. 7).

    states (n, D), targets (n,), negatives (n, N), 0 where a user has touched everything and there is none.
    """
    positive = (states * vectors.of(targets)).sum(-1)  # (n,)
    negative = (vectors.of(negatives) @ states[:, :, None]).squeeze(-1)  # (n, N)
    drawn = negatives > 0
    return F.softplus(-positive).mean() + (F.softplus(negative) * drawn).sum() / drawn.sum().clamp(min=1)


def softmax(states: Tensor, targets: Tensor, negatives: Tensor, vectors: ItemVectors) -> Tensor:
    """-log softmax(s)[target] over the whole catalogue, averaged over n (cross-entropy, as SASRec is best trained).

    states (n, D), targets (n,); vectors of the whole catalogue.
    """
    loss: Tensor = _CrossEntropy.apply(states, vectors.vectors, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy over (I + 1, D) item vectors, row 0 left out, in chunks of positions.

    The gradients are made beside the loss while a chunk's logits are at hand, so that neither n x I logits nor their
    gradient ever exist and nothing is computed twice.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        catalogue = vectors.detach()[1:]
        total = states.new_zeros((), dtype=torch.float64)
        state_grads, vector_grads = torch.empty_like(states), torch.zeros_like(vectors)
        rows = max(LOGITS // max(len(catalogue), 1), 1)
        for start in range(0, len(states), rows):
            part, target = states[start : start + rows].detach(), targets[start : start + rows, None] - 1
            logs = torch.log_softmax(part @ catalogue.T, -1)  # (rows, I)
            total -= logs.gather(1, target).double().sum()
            slope = logs.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=logs.dtype))
            torch.mm(slope, catalogue, out=state_grads[start : start + rows])
            vector_grads[1:].addmm_(slope.T, part)
        ctx.save_for_backward(state_grads, vector_grads)
        return (total / max(len(states), 1)).to(states.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        state_grads, vector_grads = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = grad / max(len(state_grads), 1)
        return state_grads * scale, vector_grads * scale, None


class RankLoss(NamedTuple):
    """A ranking loss and what it needs of a step."""

    compute: Callable[[Tensor, Tensor, Tensor, ItemVectors], Tensor]
    negatives: bool
    """Whether it compares with sampled negatives."""
    whole_catalogue: bool
    """Whether it needs the vectors of all items."""


LossName = Literal["bce", "softmax"]
LOSSES: dict[LossName, RankLoss] = {
    "bce": RankLoss(bce, negatives=True, whole_catalogue=False),
    "softmax": RankLoss(softmax, negatives=False, whole_catalogue=True),
}
