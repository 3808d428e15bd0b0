"""LLM-ESR's own equations against slow references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import longtail as lt
from longtail.data.histories import from_lists
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.llmesr import LLMESR, LLMESRConfig, self_distillation
from longtail.nn.backbones.base import Backbone
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.items import ItemVectors
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss, sampler
from tests.conftest import Planted

LISTS = [[1, 2, 3, 4, 5, 6, 7], [3, 4], [], [8, 1, 9], [2], [5, 5, 6]]
NEIGHBORS = np.array([[0, 0], [2, 4], [1, 0], [1, 2], [3, 0], [3, 6], [0, 0]])
MAX_LEN = 5


RELEASED = {"fusion_causal": False, "drop_last": True}


def _method(loss: str = "bce", backbone: dict[str, object] | None = None, **settings: object) -> LLMESR:
    torch.manual_seed(0)
    config = SASRecConfig(**{"d": 8, "max_len": MAX_LEN, "dropout": 0.4, **(backbone or {})})
    method = LLMESR(LLMESRConfig(**settings), SASRec(config), rank_loss(loss, 9), Sizes(9, 12, 8, MAX_LEN))
    embeddings = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    embeddings[0] = 0
    method.prepare(from_lists(LISTS), Knowledge(embeddings, NEIGHBORS))
    return method


def _batch(lists: list[list[int]], loss: str = "bce", drop_last: bool = False) -> SequenceBatch:
    histories = from_lists(lists)
    drawn = sampler(loss, histories, 9)
    batches = TrainingBatches(histories, drawn, batch_size=6, max_len=MAX_LEN, drop_last=drop_last)
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


def _padded(method: LLMESR, items: list[int]) -> torch.Tensor:
    """States (n, 16) of left-padded items as the released code makes them, one sequence, no layout; (16,) of padding if none.

    The fusion masks padding (all of it, where there is nothing else), the encoder attends to it as to zero vectors.
    """
    ids = torch.tensor([0] * (MAX_LEN - len(items)) + items)
    real, steps = (ids > 0)[:, None], torch.tensor([0] * (MAX_LEN - len(items)) + list(range(len(items))))
    se = method.semantic.second(method.semantic.first(method.semantic.embeddings[ids]))
    co, se = (8**0.5 * x + method.backbone.positions(steps) for x in (method.collaborative.table[ids], se))

    def attend(attention, query, context, mask):  # type: ignore[no-untyped-def]
        heads = (
            x.view(MAX_LEN, attention.heads, -1).transpose(0, 1)
            for x in (attention.query(query), attention.key(context), attention.value(context))
        )
        q, k, v = heads
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(mask.T, -1e9).softmax(-1)
        return attention.output((weights @ v).transpose(0, 1).flatten(1))

    views = []
    for attention, query, context in ((method.fusion.collaborative, se, co), (method.fusion.semantic, co, se)):
        x = attend(attention, query, context, ~real) * real
        for block in method.backbone.blocks:
            q = block.attention_norm(x)
            h = block.forward_norm(q + attend(block.attention, q, x, torch.zeros_like(real)))
            x = (h + block.feed_forward(h)) * real
        views.append(method.backbone.norm(x))
    states = torch.cat(views, -1)
    return states[MAX_LEN - len(items) :] if items else states[-1]


@pytest.mark.parametrize("teacher", ["exact", "bank"])
def test_released_students_and_teachers_are_those_of_literally_padded_histories(teacher: str) -> None:
    """Without the last item; user 5, who has but one, is among the students and the teachers, alone and in company."""
    method = _method(backbone={"causal": False, "pads": "attended", "dropout": 0.0}, teacher=teacher, **RELEASED)
    with torch.no_grad():
        method.backbone.norm.bias.normal_()
    neighbors = method.neighbors = np.array([[0, 0], [2, 5], [5, 0], [1, 2], [3, 0], [3, 6], [5, 4]])
    method.train()
    method.start_epoch()
    step = method.plan(_batch(LISTS, drop_last=True))
    vectors = method.item_vectors()
    states = method.batch_states(step.batch, ItemVectors(vectors, None))
    students = method.batch_users(states, step.batch, ItemVectors(vectors, None))
    t, taught = method.teach(step.teachers)
    met = []
    for row, user in enumerate(step.batch.users.tolist()):
        items = LISTS[user - 1][-MAX_LEN - 1 : -1]
        own = _padded(method, items)
        torch.testing.assert_close(students[row], own[-1] if items else own, rtol=0, atol=1e-5)
        if items:
            met.append(own)
        teachers = [LISTS[one - 1][-MAX_LEN - 1 : -1] for one in neighbors[user] if one and LISTS[one - 1]]
        assert bool(taught[row]) == bool(teachers)
        slow = [_padded(method, one)[-1] if one else _padded(method, one) for one in teachers]
        if slow:
            torch.testing.assert_close(t[row], torch.stack(slow).mean(0).detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(states, torch.cat(met), rtol=0, atol=1e-5)


def test_users_with_one_item_distil_as_padding_in_the_released_code_and_reach_its_bias_alone() -> None:
    method = _method(backbone={"causal": False}, **RELEASED)
    step = method.plan(_batch([[], [], [], [], [2], []], drop_last=True))
    losses = method.loss(step)
    assert losses["rank"].item() == 0.0
    with torch.no_grad():
        method.backbone.norm.bias.add_(1.0)
    losses = method.loss(step)
    sum(losses.values()).backward()
    touched = {name for name, one in method.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert touched == {"backbone.norm.bias"}


def test_the_released_fusion_sees_later_items_and_ours_does_not() -> None:
    sees = {}
    for causal in (True, False):
        method = _method(fusion_causal=causal, drop_last=True)
        method.eval()
        vectors = F.embedding(torch.tensor([1, 2, 3]), method.item_vectors()).detach().requires_grad_()
        (method.states(vectors, lay_out(np.array([3])))[0] @ torch.arange(16.0)).backward()
        sees[causal] = bool(vectors.grad[2].abs().sum() > 1e-6)
    assert sees == {True: False, False: True}


@pytest.mark.parametrize(
    ("settings", "drops_last"),
    [
        ({}, False),
        ({"drop_last": True}, True),
        ({"fusion_causal": False, "alpha": 0.0}, True),
        ({"fusion_causal": False, "fusion": "none"}, False),
        ({"backbone": {"causal": False}, "alpha": 0.0}, True),
    ],
)
def test_the_last_item_is_no_input_where_anything_sees_ahead(settings: dict[str, object], drops_last: bool) -> None:
    assert _method(**settings).drops_last == drops_last


@pytest.mark.parametrize("settings", [{"fusion_causal": False}, {"backbone": {"causal": False}}])
def test_a_student_without_her_last_item_and_teachers_with_theirs_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"set method\.drop_last = true"):
        _method(**settings)


def test_a_backbone_that_knows_no_padding_alone_is_refused() -> None:
    class Other(SASRec):
        padding_state = Backbone.padding_state

    with pytest.raises(ConfigError, match=r"leave method\.drop_last out"):
        LLMESR(LLMESRConfig(drop_last=True), Other(SASRecConfig(d=8)), rank_loss("bce", 9), Sizes(9, 12, 8, 5))


@pytest.mark.parametrize("method", ["plain", "llmesr"])
def test_a_released_model_trains_and_is_the_same_again_from_its_seed_and_from_its_folder(
    method: str, planted: Planted, tmp_path: Path
) -> None:
    settings = {
        "method": RELEASED if method == "llmesr" else {},
        "backbone": {"d": 8, "max_len": 8, "dropout": 0.2, "causal": False, "pads": "attended"},
        "train": {"lr": 0.02, "epochs": 3, "batch_size": 89, "device": "cpu"},  # one user is left for the second step
        "neighbors": {"k": 3},
    }
    given = {"items": planted.items, "users": planted.users}
    first, again = (lt.Recommender(method, "sasrec", settings).fit(planted.split, **given) for _ in range(2))
    first.save(tmp_path)
    users = planted.data.users.ids
    found = first.recommend(users=users, k=5)
    assert np.isfinite(found["score"].to_numpy()).all()
    assert again.recommend(users=users, k=5).equals(found) and lt.load(tmp_path).recommend(users=users, k=5).equals(
        found
    )
