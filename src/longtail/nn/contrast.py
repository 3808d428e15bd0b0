"""Contrastive losses: vectors that belong together, against those of the others of a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.nn.items import ItemVectors
from longtail.nn.losses import softmax
from longtail.nn.negatives import Negatives


def contrastive_distillation(u: Tensor, t: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """-log exp(cos(u_b, t_b) / tau) / sum over taught c of exp(cos(u_b, t_c) / tau), mean over the taught users b.

    InfoNCE (van den Oord et al., 2018) of each user and her own teacher among the teachers of the batch; 0 if nobody is
    taught. u, t (B, D); taught (B,). The released code's variant (`--user_sim_func cl`) has raw dot products, soft
    targets made of both sides' own similarities, and always tau = 1 (docs/fidelity.md).
    """
    logits = F.normalize(u, dim=1) @ F.normalize(t, dim=1).T / temperature  # (B, B)
    among = logits.masked_fill(~taught, torch.finfo(logits.dtype).min).logsumexp(1)
    return ((among - logits.diagonal()) * taught).sum() / taught.sum().clamp(min=1)


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """mean over i of -log exp(cos(a_i, b_i) / tau) / sum over j of exp(cos(a_i, b_j) / tau), InfoNCE of n pairs (n, d).

    The softmax of nn/losses.py with the rows of b as its catalogue: n x n numbers never exist at once.
    """
    own = torch.arange(1, len(a) + 1, device=a.device)
    catalogue = ItemVectors(F.pad(F.normalize(b, dim=1), (0, 0, 1, 0)), None)  # whose row 0 is left out
    return softmax(F.normalize(a, dim=1) / temperature, own, Negatives(own.new_zeros(len(a), 0)), catalogue)


def view_alignment(co: Tensor, se: Tensor, temperature: float) -> Tensor:
    """(InfoNCE(co, se) + InfoNCE(se, co)) / 2 of the two views (n, d) each of n distinct items (ours)."""
    return (info_nce(co, se, temperature) + info_nce(se, co, temperature)) / 2
