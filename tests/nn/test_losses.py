"""Losses against slow, obvious computations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from longtail.nn import losses
from longtail.nn.items import ItemVectors


def test_chunked_cross_entropy_and_its_gradients_equal_those_of_all_logits_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "LOGITS", 3 * 17)  # three positions a chunk, the last chunk smaller
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(18, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 18, (11,), generator=generator)
    ours = losses.softmax(states, targets, torch.empty(11, 0), ItemVectors(vectors, None))
    ours.mul(2.5).backward()
    found = states.grad.clone(), vectors.grad.clone()
    states.grad = vectors.grad = None
    slow = F.cross_entropy(states @ vectors[1:].T, targets - 1)
    slow.mul(2.5).backward()
    assert math.isclose(ours.item(), slow.item(), rel_tol=1e-12)
    torch.testing.assert_close(found, (states.grad, vectors.grad))
    assert not found[1][0].any()  # padding gets no gradient


def test_cross_entropy_stays_finite_for_huge_logits() -> None:
    states, vectors = torch.tensor([[300.0]]), torch.tensor([[0.0], [1.0], [-1.0]])
    loss = losses.softmax(states, torch.tensor([2]), torch.empty(1, 0), ItemVectors(vectors, None))
    assert loss.item() == pytest.approx(600.0)


def test_bce_is_the_mean_over_positives_plus_the_mean_over_negatives() -> None:
    vectors = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
    states = torch.tensor([[0.5, 1.0], [-1.0, 0.25]])
    targets, negatives = torch.tensor([1, 2]), torch.tensor([[2, 3], [3, 1]])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    positive = -(math.log(sigmoid(0.5)) + math.log(sigmoid(0.5))) / 2
    negative = -sum(math.log(1 - sigmoid(x)) for x in (2.0, -0.5, -1.25, -1.0)) / 4
    whole = ItemVectors(vectors, None)
    few = ItemVectors(vectors[[1, 2, 3]], torch.tensor([1, 2, 3]))
    for given in (whole, few):
        assert losses.bce(states, targets, negatives, given).item() == pytest.approx(positive + negative, rel=1e-6)


def test_a_negative_that_is_padding_counts_for_nothing() -> None:
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    states, targets = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2])
    some = losses.bce(states, targets, torch.tensor([[3], [0]]), ItemVectors(vectors, None))
    some.backward()
    assert not vectors.grad[0].any()
    one = F.softplus(-(states * vectors[targets]).sum(-1)).mean() + F.softplus(states[0] @ vectors[3])
    torch.testing.assert_close(some, one)
