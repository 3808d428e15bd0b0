"""LLM-ESR's own equations against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.llmesr import LLMESR, LLMESRConfig, self_distillation
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss, sampler

LISTS = [[1, 2, 3, 4, 5, 6, 7], [3, 4], [], [8, 1, 9], [2], [5, 5, 6]]
NEIGHBORS = np.array([[0, 0], [2, 4], [1, 0], [1, 2], [3, 0], [3, 6], [0, 0]])
MAX_LEN = 5


def _method(loss: str = "bce", **settings: object) -> LLMESR:
    torch.manual_seed(0)
    config = SASRecConfig(d=8, max_len=MAX_LEN, dropout=0.4)
    method = LLMESR(LLMESRConfig(**settings), SASRec(config), rank_loss(loss, 9), Sizes(9, 12, 8, MAX_LEN))
    embeddings = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    embeddings[0] = 0
    method.prepare(from_lists(LISTS), Knowledge(embeddings, NEIGHBORS))
    return method


def _batch(lists: list[list[int]], loss: str = "bce") -> SequenceBatch:
    histories = from_lists(lists)
    batches = TrainingBatches(histories, sampler(loss, histories, 9), batch_size=6, max_len=MAX_LEN)
    return next(batches.epoch(np.random.default_rng(0)))


def _slow_teacher(method: LLMESR, user: int) -> torch.Tensor | None:
    """One neighbor at a time, two-layer adapter, no batches: the mean of the neighbors' user vectors."""
    method.eval()
    vectors = []
    for neighbor in NEIGHBORS[user]:
        items = LISTS[neighbor - 1][-MAX_LEN:] if neighbor else []
        if items:
            ids = torch.tensor(items)
            co = method.collaborative.table[ids]
            se = method.semantic.second(method.semantic.first(method.semantic.embeddings[ids]))
            one = lay_out(np.array([len(items)]))
            embedded = torch.stack([method.backbone.embed(co, one), method.backbone.embed(se, one)], 1)
            co, se = method.fusion(embedded, one, causal=True).unbind(1)
            vectors.append(torch.cat([method.backbone(co, one), method.backbone(se, one)], -1)[-1])
    method.train()
    return torch.stack(vectors).mean(0).detach() if vectors else None


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("teacher", ["exact", "bank"])
def test_the_deduplicated_batched_teacher_equals_one_neighbor_at_a_time(loss: str, teacher: str) -> None:
    method = _method(loss, teacher=teacher)
    method.train()
    method.start_epoch()
    step = method.plan(_batch(LISTS, loss))
    t, taught = method.teach(step.teachers)
    assert not t.requires_grad
    for row, user in enumerate(step.batch.users.tolist()):
        slow = _slow_teacher(method, user)
        assert bool(taught[row]) == (slow is not None)
        if slow is not None:
            torch.testing.assert_close(t[row], slow, rtol=1e-4, atol=1e-5)


def test_the_bank_lags_behind_and_the_exact_teacher_does_not() -> None:
    lags = {}
    for teacher in ("exact", "bank"):
        method = _method(teacher=teacher)
        method.start_epoch()
        with torch.no_grad():
            method.collaborative.table.mul_(3.0)
        step = method.plan(_batch(LISTS))
        t, _ = method.teach(step.teachers)
        row = step.batch.users.tolist().index(1)
        lags[teacher] = not torch.allclose(t[row], _slow_teacher(method, 1), atol=1e-5)
    assert lags == {"exact": False, "bank": True}


def test_distillation_averages_over_the_taught_users_and_reaches_only_the_student() -> None:
    u = torch.tensor([[1.0, 2.0], [5.0, 5.0]], requires_grad=True)
    t = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    loss = self_distillation(u, t, torch.tensor([True, False]))
    assert loss.item() == pytest.approx((1 + 4) / 2)
    loss.backward()
    assert u.grad.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert self_distillation(u, t, torch.tensor([False, False])).item() == 0.0


def test_alpha_scales_the_distillation_and_zero_leaves_it_out() -> None:
    values = {}
    for alpha in (0.1, 0.2, 0.0):
        method = _method(alpha=alpha)
        torch.manual_seed(1)
        values[alpha] = method.loss(method.plan(_batch(LISTS)))
    assert values[0.2]["distillation"].item() == pytest.approx(2 * values[0.1]["distillation"].item(), rel=1e-5)
    assert set(values[0.0]) == {"rank"}
    assert values[0.0]["rank"].item() == pytest.approx(values[0.1]["rank"].item(), rel=1e-5)


def test_users_with_one_item_are_distilled_but_not_ranked() -> None:
    method = _method()
    losses = method.loss(method.plan(_batch([[], [], [], [], [2], []])))
    assert losses["rank"].item() == 0.0
    assert losses["distillation"].item() > 0.0
    sum(losses.values()).backward()  # still differentiable
    assert method.collaborative.table.grad[2].abs().sum() > 0


def test_a_score_is_the_sum_of_a_collaborative_and_a_semantic_score() -> None:
    method = _method()
    method.eval()
    u = method.encode(torch.tensor([[1, 2, 3]]))[0, -1]
    whole = method.item_vectors() @ u
    torch.testing.assert_close(whole, method.collaborative.table @ u[:8] + method.semantic.table @ u[8:])


def test_without_fusion_neither_view_reads_the_other() -> None:
    reads = {}
    for fusion in ("none", "cross_attention"):
        method = _method(fusion=fusion)
        method.eval()
        ids = torch.tensor([1, 2, 3])
        vectors = F.embedding(ids, method.item_vectors()).detach().requires_grad_()
        user = method.states(vectors, lay_out(np.array([3])))[-1]
        (user[:8] @ torch.arange(8.0)).backward()  # the collaborative half of the user vector
        reads[fusion] = bool(vectors.grad[..., 8:].abs().sum() > 1e-6)
    assert reads == {"none": False, "cross_attention": True}


def test_the_frozen_embeddings_are_never_trained_nor_saved() -> None:
    method = _method()
    assert not method.semantic.embeddings.requires_grad
    kept = method.state_dict()
    assert not {name for name in kept if "embeddings" in name or "neighbors" in name or "histories" in name}
    assert kept["semantic.table"].shape == (10, 8)
