"""Ranking losses. Each takes the states that have a target and compares them with item vectors by dot product."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.nn.graph import Offsets
from longtail.nn.items import ItemVectors
from longtail.nn.negatives import AllOf, Among, Negatives, NoNegatives, OwnNegatives, Sampler, SharedNegatives

LOGITS = {"cpu": 2**23, "cuda": 2**26}  # logits held at once by a softmax: 32 MB of float32, the last cache of a CPU

LossName = Literal["bce", "gbce", "softmax", "sampled_softmax"]
Proposal = Literal["uniform", "popularity"]
Loss = Callable[[Tensor, Tensor, Negatives, ItemVectors], Tensor]
OffsetLoss = Callable[[Tensor, Tensor, Negatives, ItemVectors, Offsets], Tensor]
SOFTMAXES: tuple[LossName, ...] = ("softmax", "sampled_softmax")
NEGATIVES: dict[LossName, int] = {"bce": 1, "gbce": 256, "softmax": 0, "sampled_softmax": 4096}
POWERS: dict[Proposal, float] = {"uniform": 0.0, "popularity": 1.0}


def bce(states: Tensor, targets: Tensor, negatives: Negatives, vectors: ItemVectors, beta: float = 1.0) -> Tensor:
    """-beta log sigmoid(s+) - log(1 - sigmoid(s-)), each averaged over its items (LLM-ESR, sec. 3.4; SASRec, eq. 7).

    states (n, D), targets (n,), negatives (n, N), 0 where a user has touched everything and there is none.
    """
    positive = (states * vectors.of(targets)).sum(-1)  # (n,)
    negative = (vectors.of(negatives.items) @ states[:, :, None]).squeeze(-1)  # (n, N)
    drawn = negatives.items > 0
    return beta * F.softplus(-positive).mean() + (F.softplus(negative) * drawn).sum() / drawn.sum().clamp(min=1)


def gbce(
    states: Tensor, targets: Tensor, negatives: Negatives, vectors: ItemVectors, items: int, calibration: float
) -> Tensor:
    """-(beta log sigmoid(s+) + sum over N negatives of log(1 - sigmoid(s-))) / (N + 1), averaged over n.

    beta = a (t (1 - 1 / a) + 1 / a) with a = N / (items - 1) the sampling rate and t the calibration: 0 is plain
    BCE, 1 undoes the overconfidence that sampling brings (gSASRec, Petrov and Macdonald, RecSys 2023, sec. 4).
    """
    N = negatives.items.shape[1]
    rate = min(N / max(items - 1, 1), 1.0)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    # bce() averages over negatives: N times that is their sum
    return bce(states, targets, negatives, vectors, beta / N) * (N / (N + 1))


def softmax(
    states: Tensor,
    targets: Tensor,
    negatives: Negatives,
    vectors: ItemVectors,
    offsets: Offsets | None = None,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(s)[target] over the whole catalogue, averaged over n (cross-entropy, as SASRec is best trained).

    states (n, D), targets (n,); vectors of the whole catalogue. Negatives, where there are any, are all that it is of.
    offsets: what is added to the scores s of the n rows. smoothing: the share of a target that all items have alike
    (Szegedy et al., CVPR 2016, sec. 7).
    """
    if negatives.log_expected is not None:
        if smoothing:
            raise ConfigError("train.smoothing is for a softmax over all items, of which some are left out here; set 0")
        return sampled_softmax(states, targets, negatives, vectors, offsets)
    inputs = (states, vectors.vectors, targets, offsets, smoothing)
    loss: Tensor = _CrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax(
    states: Tensor, targets: Tensor, negatives: Negatives, vectors: ItemVectors, offsets: Offsets | None = None
) -> Tensor:
    """log(exp s+ + sum over drawn j != target of exp(s_j - log(N q_j))) - s+, averaged over n.

    The sum is an unbiased estimate of that of the whole softmax, from N draws with probabilities q (importance
    sampling, Bengio and Senecal, 2008; the logQ correction of Yi et al., RecSys 2019, sec. 4, with the target itself
    left uncorrected, because it is not drawn). states (n, D), targets (n,), negatives shared, distinct and ascending.
    offsets: what is added to the scores s.
    """
    assert negatives.log_expected is not None
    drawn = (vectors.of(negatives.items), negatives.items, negatives.log_expected)
    own = vectors.of(targets)  # (n, D)
    loss: Tensor = _SampledCrossEntropy.apply(states, own, targets, *drawn, offsets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy over (I + 1, D) item vectors, row 0 left out, in chunks of positions.

    The gradients are made beside the loss while a chunk's logits are at hand, so that neither n x I logits nor their
    gradient ever exist and nothing is computed twice. Products are in the autocast precision, sums in float32.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, states: Tensor, vectors: Tensor, targets: Tensor, offsets: Offsets | None, smoothing: float
    ) -> Tensor:
        narrow, states = precision(states), states.to(vectors.dtype)
        catalogue = vectors.detach()[1:].to(narrow)
        total = states.new_zeros((), dtype=torch.float64)
        state_grads, vector_grads = torch.empty_like(states), torch.zeros_like(vectors)
        own, alike = 1 - smoothing, smoothing / max(len(catalogue), 1)  # of a target: its own, and everybody's
        with autocast(states, False):
            for rows in chunks(states, len(catalogue)):
                part, target = states[rows].detach().to(narrow), targets[rows, None] - 1
                logits = (part @ catalogue.T).to(states.dtype)  # (rows, I)
                if offsets is not None:
                    more = offsets.among(rows, len(states))
                    logits.view(-1).index_add_(0, more.rows * len(catalogue) + more.items - 1, more.values)
                logs = torch.log_softmax(logits, -1)
                total -= own * logs.gather(1, target).sum(dtype=torch.float64)
                if smoothing:
                    total -= alike * logs.sum(dtype=torch.float64)
                slope = logs.exp_().scatter_add_(1, target, torch.full_like(target, -own, dtype=logs.dtype))
                slope = (slope.sub_(alike) if smoothing else slope).to(narrow)
                state_grads[rows] = slope @ catalogue
                accumulate(vector_grads[1:], slope, part)
        ctx.grads = state_grads, vector_grads  # type: ignore[attr-defined]
        return (total / max(len(states), 1)).to(states.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        states, vectors = scaled(ctx, grad)
        return states, vectors, None, None, None


class _SampledCrossEntropy(torch.autograd.Function):
    """Cross-entropy of n targets over their own (n, D) vectors and N shared ones, in chunks of positions."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states: Tensor,
        own: Tensor,
        targets: Tensor,
        drawn: Tensor,
        items: Tensor,
        bias: Tensor,
        offsets: Offsets | None,
    ) -> Tensor:
        narrow, states, own = precision(states), states.to(drawn.dtype), own.to(drawn.dtype)
        shared = drawn.detach().to(narrow)
        total = states.new_zeros((), dtype=torch.float64)
        grads = torch.empty_like(states), torch.empty_like(own), torch.zeros_like(drawn)
        column = torch.searchsorted(items, targets).clamp(max=len(items) - 1)
        hit = items[column] == targets  # (n,) a target that was drawn does not count against itself
        with autocast(states, False):
            for rows in chunks(states, len(shared)):
                part, mine = states[rows].detach(), own[rows].detach()
                logits = (part.to(narrow) @ shared.T).to(states.dtype).sub_(bias)  # (rows, N)
                positive = (part * mine).sum(-1, keepdim=True)  # (rows, 1)
                if offsets is not None:
                    more = offsets.among(rows, len(states))
                    place = torch.searchsorted(items, more.items).clamp(max=len(items) - 1)
                    drawn_ones = more.values * (items[place] == more.items)
                    logits.view(-1).index_add_(0, more.rows * len(items) + place, drawn_ones)
                    wanted = more.values * (targets[rows][more.rows] == more.items)
                    positive.view(-1).index_add_(0, more.rows, wanted)
                at = column[rows, None]
                logits.scatter_(1, at, logits.gather(1, at).masked_fill_(hit[rows, None], -torch.inf))
                whole = torch.logaddexp(positive, torch.logsumexp(logits, -1, keepdim=True))
                total += (whole - positive).sum(dtype=torch.float64)
                slope = logits.sub_(whole).exp_().to(narrow)
                missing = (positive - whole).expm1_()  # softmax of the target, less one
                grads[0][rows] = (slope @ shared).to(states.dtype).addcmul_(missing, mine)
                grads[1][rows] = missing * part
                accumulate(grads[2], slope, part.to(narrow))
        ctx.grads = grads  # type: ignore[attr-defined]
        return (total / max(len(states), 1)).to(states.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor, None, None, None]:
        states, own, drawn = scaled(ctx, grad)
        return states, own, None, drawn, None, None, None


def scaled(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients made beside the loss (a sum over the n first rows), of its mean times `grad`: in place, once.

    They are let go of, so that autograd takes them as they are: no second copy of the item vectors' gradient.
    """
    grads: tuple[Tensor, ...] | None = ctx.__dict__.pop("grads", None)
    if grads is None:
        raise RuntimeError("this loss goes backward once; compute it again")
    scale = grad / max(len(grads[0]), 1)
    return tuple(each.mul_(scale) for each in grads)


def precision(states: Tensor) -> torch.dtype:
    """What the products of these states are computed in: the autocast type where that is on."""
    kind = states.device.type
    narrow = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if narrow else states.dtype


def autocast(states: Tensor, on: bool) -> AbstractContextManager[object]:
    """Products in bfloat16, or not, where the device of these states knows of it."""
    kind = states.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=on) if torch.amp.is_autocast_available(kind) else nullcontext()


def chunks(states: Tensor, width: int) -> list[slice]:
    """The n states in slices of about LOGITS / width rows."""
    n = len(states)
    rows = max(LOGITS.get(states.device.type, 2**23) // max(width, 1), 1)
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def accumulate(total: Tensor, slope: Tensor, part: Tensor) -> None:
    """total (I, D) += slope' (I, rows) part (rows, D), in place."""
    if slope.dtype == total.dtype:
        total.addmm_(slope.T, part)
    else:
        total += slope.T @ part


class RankLoss(NamedTuple):
    """A ranking loss, ready to compute, and what it needs of a step."""

    compute: Loss
    whole_catalogue: bool = False
    """Whether it needs the vectors of all items."""
    offset: OffsetLoss | None = None
    """The same loss with something added to the scores, for those that can."""


def rank_loss(
    name: LossName, items: int, calibration: float = 0.75, *, smoothing: float = 0.0, narrow: bool = False
) -> RankLoss:
    """The loss of that name over a catalogue of `items`; calibration: gBCE's t; narrow: products in bfloat16."""
    whole = partial(softmax, smoothing=smoothing)
    losses: dict[LossName, Loss] = {
        "bce": bce,
        "gbce": partial(gbce, items=items, calibration=calibration),
        "softmax": whole,
        "sampled_softmax": sampled_softmax,
    }
    chosen = losses[name]

    def compute(states: Tensor, targets: Tensor, negatives: Negatives, vectors: ItemVectors) -> Tensor:
        with autocast(states, narrow):
            return chosen(states, targets, negatives, vectors)

    def offset(states: Tensor, targets: Tensor, negatives: Negatives, vectors: ItemVectors, offsets: Offsets) -> Tensor:
        with autocast(states, narrow):
            return whole(states, targets, negatives, vectors, offsets)

    return RankLoss(compute, whole_catalogue=name == "softmax", offset=offset if name in SOFTMAXES else None)


def sampler(
    name: LossName,
    histories: Histories,
    items: int,
    negatives: int | None = None,
    proposal: Proposal = "popularity",
    correction: float = 1.0,
    *,
    trained_only: bool = False,
) -> Sampler:
    """What draws the negatives of the loss of that name: so many, or its usual number as far as the catalogue goes.

    correction: the share of the logQ correction that sampled_softmax makes.
    trained_only: from the items that occur in the histories, as if the others were not there yet.
    """
    if trained_only:
        catalogue = np.unique(histories.items)
        if name == "softmax":
            return AllOf(catalogue)
        renumbered = histories._replace(items=np.searchsorted(catalogue, histories.items) + 1)
        return Among(catalogue, sampler(name, renumbered, len(catalogue), negatives, proposal, correction))
    N = min(NEGATIVES[name], max(items - 1, 1)) if negatives is None else negatives
    if name == "softmax":
        return NoNegatives()
    if name == "sampled_softmax":
        return SharedNegatives(histories, items, N, POWERS[proposal], correction)
    return OwnNegatives(histories, items, N)
