"""The naive LLM-ESR that the library is measured against: the same arithmetic on the same weights, done wastefully.

Every sequence is padded to max_len and assembled in Python, the two layers of the adapter run at every position, and
each neighbor of each user is encoded by itself, as in the authors' code. Padding is on the right, where causal
attention never reads it, so that the losses must equal the library's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.data.histories import Histories
from longtail.methods.llmesr import LLMESR
from longtail.nn.batch import SequenceBatch
from longtail.nn.layout import lay_out


def losses(method: LLMESR, batch: SequenceBatch, length: int) -> dict[str, Tensor]:
    """The rank and the distillation loss of one-negative BCE for a batch, its sequences padded to `length`.

    Students have one item more, because the last item of a training sequence predicts nothing.
    """
    users = batch.users.tolist()
    items, ends = assemble(method.histories, users, length + 1)
    targets, negatives = torch.zeros_like(items), torch.zeros_like(items)
    targets[:, :-1] = items[:, 1:]
    negatives[targets > 0] = batch.negatives.items[:, 0]
    states = encode(method, items)  # (B, length, D)
    positive = (states * vectors(method, targets)).sum(-1)[targets > 0]
    negative = (states * vectors(method, negatives)).sum(-1)[targets > 0]
    rank = F.softplus(-positive).mean() + F.softplus(negative).mean()
    with torch.no_grad():
        method.backbone.eval()
        taught = []
        for column in method.neighbors[users].T.tolist():  # one neighbor a user at a time
            others, last = assemble(method.histories, column, length)
            taught.append(encode(method, others)[torch.arange(len(users)), last])
        method.backbone.train()
    u = states[torch.arange(len(users)), ends]
    return {"rank": rank, "distillation": method.alpha * F.mse_loss(u, torch.stack(taught).mean(0))}


def assemble(histories: Histories, users: list[int], length: int) -> tuple[Tensor, Tensor]:
    """(B, length) right-padded sequences and each one's last position, one user after another."""
    rows = np.zeros((len(users), length), np.int64)
    ends = []
    for row, user in zip(rows, users, strict=True):
        kept = histories.of(user)[-length:]
        row[: len(kept)] = kept
        ends.append(len(kept) - 1)
    return torch.from_numpy(rows), torch.tensor(ends)


def vectors(method: LLMESR, items: Tensor) -> Tensor:
    """(B, L) items to (B, L, 2d): both layers at every position."""
    semantic = method.semantic
    se = semantic.second(semantic.first(F.embedding(items, semantic.embeddings)))
    return torch.cat([F.embedding(items, method.collaborative.table), se], -1)


def encode(method: LLMESR, items: Tensor) -> Tensor:
    """(B, L) items to (B, L, D) states at every position, padding included."""
    B, L = items.shape
    return method.states(vectors(method, items).flatten(0, 1), lay_out(np.full(B, L))).unflatten(0, (B, L))
