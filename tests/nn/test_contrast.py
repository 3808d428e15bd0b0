"""The contrastive losses against loops over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from longtail.nn import losses
from longtail.nn.contrast import contrastive_distillation, view_alignment


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def _rows(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32))


def test_contrastive_distillation_is_a_softmax_over_the_teachers_of_the_taught() -> None:
    u, t, tau = _rows(5), _rows(5, seed=1), 0.3
    taught = [0, 2, 3]
    slow = 0.0
    for b in taught:
        total = sum(math.exp(_cosine(u[b], t[c]) / tau) for c in taught)
        slow -= math.log(math.exp(_cosine(u[b], t[b]) / tau) / total) / len(taught)
    mask = torch.tensor([row in taught for row in range(5)])
    assert contrastive_distillation(u, t, mask, tau).item() == pytest.approx(slow, rel=1e-5)


def test_contrastive_distillation_reaches_only_taught_users_and_is_zero_without_any() -> None:
    u = _rows(3).requires_grad_()
    t = torch.cat([_rows(2, seed=1), torch.zeros(1, 6)])  # a user without neighbors has a zero teacher
    contrastive_distillation(u, t, torch.tensor([True, True, False]), 0.2).backward()
    assert u.grad[:2].abs().sum() > 0 and not u.grad[2].any()
    u.grad = None
    nobody = contrastive_distillation(u, torch.zeros(3, 6), torch.zeros(3, dtype=torch.bool), 0.2)
    nobody.backward()
    assert nobody.item() == 0.0 and not u.grad.any()


@pytest.mark.parametrize("held", [2**23, 20], ids=["at_once", "in_chunks"])
def test_view_alignment_is_a_softmax_both_ways_however_it_is_cut(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", held)
    co, se, tau = _rows(7).requires_grad_(), _rows(7, seed=1).requires_grad_(), 0.5
    slow = torch.zeros(())
    for a, b in ((co, se), (se, co)):
        for i in range(7):
            s = torch.stack([a[i] @ b[j] / a[i].norm() / b[j].norm() for j in range(7)]) / tau
            slow = slow - s.log_softmax(0)[i] / 14
    slow.backward()
    expected = co.grad.clone(), se.grad.clone()
    co.grad = se.grad = None
    found = view_alignment(co, se, tau)
    found.backward()
    torch.testing.assert_close(found, slow.detach())
    torch.testing.assert_close((co.grad, se.grad), expected, rtol=1e-4, atol=1e-6)
