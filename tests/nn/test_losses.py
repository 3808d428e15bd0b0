"""Losses against slow, obvious computations."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.errors import ConfigError
from longtail.nn import losses
from longtail.nn.items import ItemVectors
from longtail.nn.negatives import Negatives, SharedNegatives


def test_chunked_cross_entropy_and_its_gradients_equal_those_of_all_logits_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", 3 * 17)  # three positions a chunk, the last chunk smaller
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(18, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 18, (11,), generator=generator)
    ours = losses.softmax(states, targets, Negatives(torch.empty(11, 0)), ItemVectors(vectors, None))
    ours.mul(2.5).backward()
    found = states.grad.clone(), vectors.grad.clone()
    states.grad = vectors.grad = None
    slow = F.cross_entropy(states @ vectors[1:].T, targets - 1)
    slow.mul(2.5).backward()
    assert math.isclose(ours.item(), slow.item(), rel_tol=1e-12)
    torch.testing.assert_close(found, (states.grad, vectors.grad))
    assert not found[1][0].any()  # padding gets no gradient


def test_label_smoothing_and_its_gradients_equal_the_slow_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", 3 * 17)
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(18, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 18, (11,), generator=generator)
    loss = losses.rank_loss("softmax", 17, smoothing=0.2)
    ours = loss.compute(states, targets, Negatives(torch.empty(11, 0)), ItemVectors(vectors, None))
    ours.mul(2.5).backward()
    found = states.grad.clone(), vectors.grad.clone()
    states.grad = vectors.grad = None
    slow = F.cross_entropy(states @ vectors[1:].T, targets - 1, label_smoothing=0.2)
    slow.mul(2.5).backward()
    assert math.isclose(ours.item(), slow.item(), rel_tol=1e-12)
    torch.testing.assert_close(found, (states.grad, vectors.grad))


def test_label_smoothing_is_refused_where_items_are_left_out() -> None:
    drawn = losses.sampler("softmax", from_lists([[9, 2], [3, 5, 2]]), 9, trained_only=True)
    negatives = drawn.draw(np.array([1]), np.random.default_rng(0))
    loss = losses.rank_loss("softmax", 9, smoothing=0.1)
    with pytest.raises(ConfigError, match="smoothing"):
        loss.compute(torch.randn(2, 4), torch.tensor([2, 3]), negatives, ItemVectors(torch.randn(10, 4), None))


@pytest.mark.parametrize("correction", [0.0, 0.5])
def test_a_share_of_the_correction_for_the_draw_is_made(correction: float) -> None:
    histories = from_lists([[1, 1, 1, 2], [3, 2, 1]])
    whole, part = (SharedNegatives(histories, 4, 6, 1.0, share) for share in (1.0, correction))
    drawn = [one.draw(np.array([1]), np.random.default_rng(0)) for one in (whole, part)]
    assert drawn[0].items.tolist() == drawn[1].items.tolist()
    q = np.array([4, 2, 1, 1]) / 8  # an item of no interactions counts as of one
    less = (1 - correction) * np.log(6 * q[drawn[0].items.numpy() - 1])
    np.testing.assert_allclose(drawn[0].log_expected - drawn[1].log_expected, less, atol=1e-6)


def test_cross_entropy_over_some_items_is_that_of_a_catalogue_without_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(10, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    known, targets = torch.tensor([2, 3, 5, 9]), torch.tensor([9, 2, 2, 5, 3])
    drawn = losses.sampler("softmax", from_lists([[9, 2], [3, 5, 2]]), 9, trained_only=True)
    negatives = drawn.draw(np.array([1]), np.random.default_rng(0))
    ours = losses.softmax(states, targets, negatives, ItemVectors(vectors, None))
    ours.mul(2.5).backward()
    found = states.grad.clone(), vectors.grad.clone()
    states.grad = vectors.grad = None
    slow = F.cross_entropy(states @ vectors[known].T, torch.searchsorted(known, targets))
    slow.mul(2.5).backward()
    assert math.isclose(ours.item(), slow.item(), rel_tol=1e-6)
    torch.testing.assert_close(found, (states.grad, vectors.grad))
    assert not found[1][[0, 1, 4, 6, 7, 8]].any()


@pytest.mark.parametrize("loss", get_args(losses.LossName))
@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=5).filter(any), st.integers(0, 9))
def test_items_that_nobody_trains_on_are_no_negatives_when_asked_so(
    loss: losses.LossName, lists: list[list[int]], seed: int
) -> None:
    histories, trained = from_lists(lists), {item for items in lists for item in items}
    owners = np.flatnonzero(histories.lengths)
    for only in (True, False):
        drawn = losses.sampler(loss, histories, 9, 40, trained_only=only).draw(owners, np.random.default_rng(seed))
        found = set(drawn.items.unique().tolist()) - {0}
        if loss in {"bce", "gbce"}:
            for user, row in zip(owners, drawn.items, strict=True):
                allowed = (trained if only else set(range(1, 10))) - set(histories.of(user).tolist())
                assert set(row.tolist()) - {0} <= allowed
        assert found <= trained or not only
        if loss == "softmax":
            assert found == (trained if only else set())


def test_cross_entropy_stays_finite_for_huge_logits() -> None:
    states, vectors = torch.tensor([[300.0]]), torch.tensor([[0.0], [1.0], [-1.0]])
    loss = losses.softmax(states, torch.tensor([2]), Negatives(torch.empty(1, 0)), ItemVectors(vectors, None))
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
    for either in (whole, few):
        assert losses.bce(states, targets, Negatives(negatives), either).item() == pytest.approx(
            positive + negative, rel=1e-6
        )


def test_a_negative_that_is_padding_counts_for_nothing() -> None:
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    states, targets = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2])
    some = losses.bce(states, targets, Negatives(torch.tensor([[3], [0]])), ItemVectors(vectors, None))
    some.backward()
    assert not vectors.grad[0].any()
    one = F.softplus(-(states * vectors[targets]).sum(-1)).mean() + F.softplus(states[0] @ vectors[3])
    torch.testing.assert_close(some, one)


def test_gbce_is_the_sum_over_negatives_with_a_tempered_positive() -> None:
    generator = torch.Generator().manual_seed(0)
    states, vectors = torch.randn(4, 3, generator=generator), torch.randn(11, 3, generator=generator)
    targets, negatives = torch.tensor([1, 2, 3, 4]), torch.randint(5, 11, (4, 6), generator=generator)
    for calibration in (0.0, 0.75, 1.0):
        rate = 6 / 9  # ten items
        beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
        positive = torch.sigmoid((states * vectors[targets]).sum(-1)) ** beta
        negative = torch.sigmoid(vectors[negatives] @ states[:, :, None]).squeeze(-1)
        slow = -(positive.log() + (1 - negative).log().sum(1)) / 7
        ours = losses.gbce(states, targets, Negatives(negatives), ItemVectors(vectors, None), 10, calibration)
        torch.testing.assert_close(ours, slow.mean())
    one = Negatives(negatives[:, :1])
    both = [losses.bce(states, targets, one, ItemVectors(vectors, None)), ours * 0]
    both[1] = losses.gbce(states, targets, one, ItemVectors(vectors, None), 10, 0.0)
    torch.testing.assert_close(both[0], 2 * both[1])  # uncalibrated, with one negative, it is half of BCE


def _sampled(n: int = 7, N: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Negatives]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(13, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 13, (n,), generator=generator)
    others = torch.randperm(12, generator=generator)[:N] + 1
    drawn = torch.unique(torch.cat([others, targets[:1]]))[:N]  # a target that is drawn does not count against itself
    assert set(drawn.tolist()) & set(targets.tolist())
    return states, vectors, targets, Negatives(drawn, torch.randn(len(drawn), generator=generator, dtype=torch.float64))


def test_sampled_softmax_and_its_gradients_equal_the_slow_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", 3 * 5)
    states, vectors, targets, negatives = _sampled()
    ours = losses.sampled_softmax(states, targets, negatives, ItemVectors(vectors, None))
    ours.mul(2.5).backward()
    found = states.grad.clone(), vectors.grad.clone()
    states.grad = vectors.grad = None
    total = torch.zeros((), dtype=torch.float64)
    for state, target in zip(states, targets, strict=True):
        pairs = zip(negatives.items, negatives.log_expected, strict=True)
        other = sum(torch.exp(state @ vectors[item] - log) for item, log in pairs if item != target)
        own = torch.exp(state @ vectors[target])
        total = total - torch.log(own / (own + other))
    slow = total / len(states)
    slow.mul(2.5).backward()
    torch.testing.assert_close(ours, slow)
    torch.testing.assert_close(found, (states.grad, vectors.grad))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_sampled_softmax_estimates_the_whole_softmax(power: float) -> None:
    states, vectors, targets, _ = _sampled()
    histories = from_lists([[1] * 9 + [2] * 5 + [7] * 30])
    whole = losses.softmax(states, targets, Negatives(torch.empty(7, 0)), ItemVectors(vectors, None))
    drawn = SharedNegatives(histories, 12, 200_000, power).draw(np.array([1]), np.random.default_rng(0))
    few = losses.sampled_softmax(states, targets, drawn, ItemVectors(vectors, None))
    assert few.item() == pytest.approx(whole.item(), rel=0.01)


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax"])
def test_narrow_products_are_bfloat16_and_the_loss_is_close(name: str) -> None:
    states, vectors, targets, negatives = _sampled()
    states, vectors = (x.detach().float().requires_grad_() for x in (states, vectors))
    negatives = negatives._replace(log_expected=negatives.log_expected.float())
    given = (states, targets, negatives, ItemVectors(vectors, None))
    wide, narrow = (losses.rank_loss(name, 12, narrow=narrow).compute(*given) for narrow in (False, True))
    assert narrow.dtype == torch.float32 and narrow.item() != wide.item()
    assert narrow.item() == pytest.approx(wide.item(), rel=0.02)
    wide.backward()
    expected, states.grad = states.grad, None
    narrow.backward()
    torch.testing.assert_close(states.grad, expected, rtol=0.1, atol=0.01)
