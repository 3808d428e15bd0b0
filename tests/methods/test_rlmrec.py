"""RLMRec's alignment, in both forms, against loops over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import longtail as lt
from longtail.data.histories import from_lists
from longtail.errors import EmbeddingError
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.rlmrec import RLMRec, RLMRecConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.items import ItemVectors
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss, sampler
from tests.conftest import Planted

LISTS = [[1, 2, 3, 4, 5], [3, 4], [], [8, 1, 9, 3], [2], [5, 5, 6]]
WITHOUT = {"user": 6, "item": 9}  # have no text


def _texts(rows: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, 12)).astype(np.float32)
    found[0] = 0
    return found


def _knowledge() -> Knowledge:
    items, users = _texts(10, 1), _texts(7, 2)
    items[WITHOUT["item"]], users[WITHOUT["user"]] = 0, 0
    return Knowledge(items, None, users)


def _method(form: str, loss: str = "bce", **settings: float) -> RLMRec:
    torch.manual_seed(0)
    backbone = SASRec(SASRecConfig(d=8, max_len=6, dropout=0.0))
    config = RLMRecConfig(form=form, **settings)
    method = RLMRec(config, backbone, rank_loss(loss, 9), Sizes(9, 12, 8, 6))
    method.prepare(from_lists(LISTS), _knowledge())
    if method.mask is not None:
        torch.nn.init.normal_(method.mask)
    return method.train()


def _batch(loss: str = "bce") -> SequenceBatch:
    histories = from_lists(LISTS)
    batches = TrainingBatches(histories, sampler(loss, histories, 9), batch_size=6, max_len=6)
    return next(batches.epoch(np.random.default_rng(0)))


def _states(method: RLMRec, items: list[int], hidden: set[int] = frozenset()) -> Tensor:
    """The states of one sequence, (L, d), hidden items shown as [MASK]."""
    rows = torch.stack([method.mask if item in hidden else method.view.table[item] for item in items])
    one = lay_out(np.array([len(items)]))
    return method.backbone(method.backbone.embed(rows, one), one)


def _map(method: RLMRec, x: Tensor) -> Tensor:
    hidden = x @ method.map[0].weight.T + method.map[0].bias
    hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
    return hidden @ method.map[2].weight.T + method.map[2].bias


def _infonce(x: list[Tensor], y: list[Tensor], tau: float) -> float:
    """One pair at a time."""
    total = 0.0
    for k in range(len(x)):
        cosines = [(x[k] @ other / (x[k].norm() * other.norm())).item() / tau for other in y]
        total -= math.log(math.exp(cosines[k]) / sum(map(math.exp, cosines)))
    return total / max(len(x), 1)


@pytest.mark.parametrize("loss", ["bce", "softmax", "sampled_softmax"])
def test_the_contrastive_form_is_three_loops_over_pairs(loss: str) -> None:
    method, batch, knowledge = _method("contrastive", loss, temperature=0.5), _batch(loss), _knowledge()
    step = method.plan(batch)
    pairs = step.extra
    items, users = (torch.from_numpy(texts) for texts in (knowledge.item_embeddings, knowledge.user_embeddings))
    told = pairs.users.tolist()
    assert sorted(told) == [1, 2, 4, 5]  # three has no history, six no text
    slow = _infonce(
        [_states(method, LISTS[user - 1])[-1] for user in told], [_map(method, users[user]) for user in told], 0.5
    )
    for chosen in (pairs.positives.tolist(), pairs.negatives.tolist()):
        slow += _infonce(
            [method.view.table[item] for item in chosen], [_map(method, items[item]) for item in chosen], 0.5
        )
    losses = method.loss(step)
    assert losses["alignment"].item() == pytest.approx(0.01 * slow, rel=1e-4)
    assert bool(len(pairs.negatives)) == (loss == "bce")


def test_each_user_gives_one_of_her_targets_and_a_negative_of_it() -> None:
    method, batch = _method("contrastive"), _batch()
    owners = np.searchsorted(batch.sequences.layout.ends.numpy(), batch.at.numpy())
    own = [set(batch.targets[torch.from_numpy(owners == row)].tolist()) for row in np.unique(owners)]
    seen = set()
    for _ in range(30):
        pairs = method.plan(batch).extra
        positives = set(pairs.positives.tolist())
        assert len(positives) == len(pairs.positives) <= 4 and WITHOUT["item"] not in positives
        assert positives <= set().union(*own)
        assert set(pairs.negatives.tolist()) <= set(batch.negatives.items.flatten().tolist()) - {0, WITHOUT["item"]}
        seen.add(tuple(sorted(positives)))
    assert len(seen) > 1  # another draw each time


def test_the_generative_form_reconstructs_masked_items_and_users_from_a_loop() -> None:
    method, batch, knowledge = _method("generative", share=0.4, temperature=0.5), _batch(), _knowledge()
    step = method.plan(batch)
    masked = step.extra
    hidden = set(masked.items.tolist())
    assert len(hidden) == int(7 * 0.4) and len(masked.rows) == int(4 * 0.4)  # of items 1 2 3 4 5 6 8, of users 1 2 4 5
    x, y = [], []
    flat, ends = batch.sequences.items.tolist(), batch.sequences.layout.ends.tolist()
    for item, token in zip(masked.items.tolist(), masked.tokens.tolist(), strict=True):
        row = int(np.searchsorted(ends, token))
        start = ends[row - 1] + 1 if row else 0
        sequence = flat[start : ends[row] + 1]
        assert sequence[token - start] == item
        x.append(_map(method, _states(method, sequence, hidden)[token - start]))
        y.append(torch.from_numpy(knowledge.item_embeddings[item]))
    for user in masked.users.tolist():
        x.append(_map(method, _states(method, LISTS[user - 1], hidden)[-1]))
        y.append(torch.from_numpy(knowledge.user_embeddings[user]))
    losses = method.loss(step)
    assert losses["alignment"].item() == pytest.approx(0.01 * _infonce(x, y, 0.5), rel=1e-4)


@pytest.mark.parametrize("form", ["contrastive", "generative"])
def test_users_without_a_sequence_are_aligned_with_nothing(form: str) -> None:
    """Batches that see ahead hold no last item, and no sequence of user 5, who has but one."""
    method, histories = _method(form, share=0.9, temperature=0.5), from_lists(LISTS)
    batches = TrainingBatches(histories, sampler("bce", histories, 9), batch_size=6, max_len=6, drop_last=True)
    step = method.plan(next(batches.epoch(np.random.default_rng(0))))
    told = step.extra.users.tolist()
    assert set(told) <= {1, 2, 4} and len(told) >= 2
    u = method.batch_users(method.batch_states(step.batch, ItemVectors(method.item_vectors(), None)), step.batch, None)
    for user, row in zip(told, step.extra.rows, strict=True):
        torch.testing.assert_close(u[row], _states(method, LISTS[user - 1][:-1])[-1])
    assert torch.isfinite(method.loss(step)["alignment"])


def test_masking_touches_the_sequence_and_not_the_targets() -> None:
    """The ranking loss of states that saw [MASK], against the items' own vectors."""
    method, batch = _method("generative", share=0.4), _batch()
    step = method.plan(batch)
    hidden = set(step.extra.items.tolist())
    flat, lengths = batch.sequences.items, batch.sequences.layout.lengths.tolist()
    states = torch.cat([_states(method, one.tolist(), hidden) for one in flat.split(lengths)])
    table = method.view.table
    positive = (states[batch.at] * table[batch.targets]).sum(1)
    negative = (states[batch.at] * table[batch.negatives.items[:, 0]]).sum(1)
    slow = -positive.sigmoid().log().mean() - (1 - negative.sigmoid()).log().mean()
    assert method.loss(step)["rank"].item() == pytest.approx(slow.item(), rel=1e-4)


def test_the_weight_scales_the_alignment_and_the_texts_are_neither_trained_nor_saved() -> None:
    values = [
        _method("contrastive", weight=weight).loss(_method("contrastive").plan(_batch())) for weight in (0.1, 0.2)
    ]
    assert values[1]["alignment"].item() == pytest.approx(2 * values[0]["alignment"].item(), rel=1e-5)
    method = _method("contrastive")
    assert not {name for name in method.state_dict() if "texts" in name}
    sum(method.loss(method.plan(_batch())).values()).backward()
    assert method.item_texts.grad is method.user_texts.grad is None


def test_vectors_of_two_widths_are_refused() -> None:
    method = RLMRec(RLMRecConfig(), SASRec(SASRecConfig(d=8, max_len=6)), rank_loss("bce", 9), Sizes(9, 12, 8, 6))
    with pytest.raises(EmbeddingError, match="12 wide and those of users 5"):
        method.prepare(from_lists(LISTS), Knowledge(_texts(10, 1), None, np.zeros((7, 5), np.float32)))


@pytest.mark.parametrize("form", ["contrastive", "generative"])
def test_both_forms_learn_the_checkerboard_and_need_user_embeddings(planted: Planted, form: str) -> None:
    settings = {
        "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
        "method": {"form": form},
        "train": {"loss": "softmax", "lr": 0.02, "epochs": 15, "batch_size": 16, "device": "cpu"},
    }
    model = lt.Recommender("rlmrec", "sasrec", settings)
    with pytest.raises(EmbeddingError, match="needs user embeddings"):
        model.fit(planted.split, items=planted.items)
    model.fit(planted.split, items=planted.items, users=planted.users)
    assert lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0)).value("hr@2") > 0.9
