"""CITIES: the inference function against loops over contexts, and what each stage trains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.data.histories import from_lists
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.cities import CITIES, CITIESConfig, Layer
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.losses import rank_loss, sampler

LISTS = [[1, 2, 3, 1, 4, 5, 1], [3, 2], [], [8, 1, 2, 3], [2], [5, 1, 6], [1, 2, 3, 2, 1, 9], [3, 10], [7]]
HEADS, TAILS = [1, 2, 3], [4, 5, 6, 8, 9, 10]  # counts 7, 6, 5, 1, 2, 1, 1, 1, 1, 1; 7 has no context
WINDOW = 2


def _method(stage: int = 3, **settings: int) -> CITIES:
    torch.manual_seed(0)
    backbone = SASRec(SASRecConfig(d=8, max_len=6, dropout=0.0))
    config = CITIESConfig(**({"tail_count": 2, "window": WINDOW} | settings))
    method = CITIES(config, backbone, rank_loss("bce", 10), Sizes(10, 0, 8, 6))
    method.prepare(from_lists(LISTS), Knowledge())
    torch.nn.init.uniform_(method.function.positions)
    method.stage = stage
    return method.train()


def _batch() -> SequenceBatch:
    histories = from_lists(LISTS)
    batches = TrainingBatches(histories, sampler("bce", histories, 10), batch_size=9, max_len=6)
    return next(batches.epoch(np.random.default_rng(0)))


def _contexts(item: int) -> list[list[tuple[int, int]]]:
    """Of each occurrence, the items around it and how far they are."""
    found = []
    for one in LISTS:
        for at in (place for place, other in enumerate(one) if other == item):
            steps = [step for step in range(-WINDOW, WINDOW + 1) if step and 0 <= at + step < len(one)]
            found.append([(one[at + step], step) for step in steps])
    return [one for one in found if one]


def _layer(layer: Layer, x: Tensor) -> Tensor:
    """One sequence (L, d), one head and one query at a time."""
    q, k, v = (project(x) for project in (layer.attention.query, layer.attention.key, layer.attention.value))
    rows = []
    for place in range(len(x)):
        heads = []
        for head in range(4):
            own = slice(2 * head, 2 * head + 2)
            weights = torch.softmax(torch.stack([q[place, own] @ key / math.sqrt(2) for key in k[:, own]]), 0)
            heads.append(sum(weight * value for weight, value in zip(weights, v[:, own], strict=True)))
        rows.append(torch.cat(heads))
    x = layer.attention_norm(x + layer.attention.output(torch.stack(rows)))
    up, _, _, down = layer.feed_forward
    return layer.forward_norm(x + down(up(x).clamp(min=0)))


def _infer(method: CITIES, contexts: list[list[tuple[int, int]]]) -> Tensor:
    """F, one context at a time, (d,)."""
    function, z = method.function, []
    for context in contexts:
        rows = []
        for item, away in context:
            slot = away + WINDOW
            waves = [
                wave(slot / 10000 ** (2 * pair / 8)) / math.sqrt(8)
                for pair in range(4)
                for wave in (math.sin, math.cos)
            ]
            rows.append(function.positions[slot] * method.view.table[item] + torch.tensor(waves))
        x = torch.stack(rows)
        for layer in function.encoder:
            x = _layer(layer, x)
        z.append(x.mean(0))
    x = torch.stack(z)
    for layer in function.aggregator:
        x = _layer(layer, x)
    return function.output(x.mean(0))


def test_head_and_tail_are_by_training_count_and_need_a_context() -> None:
    method = _method()
    assert method.head_items.tolist() == HEADS and method.tail_items.tolist() == TAILS
    with pytest.raises(ConfigError, match=r"tail_count = 7: no item has more .* \(the most is 7\)"):
        _method(tail_count=7)


def test_validation_in_the_second_stage_sees_the_vectors_that_a_loop_infers_for_tail_items() -> None:
    method = _method(stage=2)
    trained = method.item_vectors().detach().clone()
    shown = method.eval().item_vectors()
    with torch.no_grad():
        for item in range(11):
            slow = _infer(method, _contexts(item)) if item in TAILS else trained[item]
            torch.testing.assert_close(shown[item], slow, rtol=1e-4, atol=1e-5)
    assert torch.equal(method.item_vectors(torch.tensor([8, 1])), shown[[8, 1]])
    assert torch.equal(method.train().item_vectors(), trained)  # nothing is overwritten yet


def test_the_third_stage_starts_from_these_vectors_and_the_second_from_the_trained_ones() -> None:
    method = _method(stage=2)
    trained = method.view.table.detach().clone()
    method.start_stage()
    assert torch.equal(method.view.table, trained)
    shown = method.eval().item_vectors().clone()
    method.train().stage = 3
    method.start_stage()
    assert torch.equal(method.view.table, shown)
    assert torch.equal(method.train().item_vectors(), shown) and torch.equal(method.eval().item_vectors(), shown)


def test_the_second_stage_is_the_squared_error_of_a_loop_over_head_items() -> None:
    method, sizes = _method(stage=2, contexts=3), set()
    for _ in range(12):
        step = method.plan(_batch())
        drawn = step.extra
        tokens, lengths = drawn.sequences.items, drawn.sequences.layout.lengths.tolist()
        pairs = [
            list(zip(items.tolist(), (away - WINDOW).tolist(), strict=True))
            for items, away in zip(tokens.split(lengths), drawn.away.split(lengths), strict=True)
        ]
        of_each = iter([pairs[place] for place in drawn.places])
        counts, losses = drawn.groups.lengths.tolist(), []
        assert sorted(drawn.items.tolist()) == HEADS and len(set(counts)) == 1
        sizes.add(counts[0])
        method.function.eval()
        for item, count in zip(drawn.items.tolist(), counts, strict=True):
            own, possible = [next(of_each) for _ in range(count)], _contexts(item)
            for one in own:
                possible.remove(one)  # each context at most once
            losses.append((_infer(method, own) - method.view.table[item]) ** 2)
        losses = torch.stack(losses).mean()
        torch.testing.assert_close(method.loss(step)["inference"], losses, rtol=1e-4, atol=1e-6)
    assert sizes == {1, 2, 3}


def test_each_head_item_is_drawn_once_an_epoch_in_the_mean() -> None:
    method, histories = _method(stage=2), from_lists(LISTS)
    batches = TrainingBatches(histories, sampler("bce", histories, 10), batch_size=3, max_len=6)
    drawn = [method.plan(batch).extra.items.tolist() for batch in batches.epoch(np.random.default_rng(0))]
    assert [len(items) for items in drawn] == [2, 2, 1]  # ceil(3 items * 3 of 8 users), and of the two that are left
    assert all(len(set(items)) == len(items) for items in drawn)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_function_learns_in_the_second_stage_alone_and_all_else_in_the_others(stage: int) -> None:
    method = _method(stage)
    sum(method.loss(method.plan(_batch())).values()).backward()
    learns = {name.split(".")[0] for name, weight in method.named_parameters() if weight.grad is not None}
    assert learns == ({"function"} if stage == 2 else {"backbone", "view"})


def test_without_a_tail_item_there_is_nothing_to_infer() -> None:
    lists = [[1, 2, 1, 2], [2, 1, 2, 1]]
    method = _method(stage=2)
    method.prepare(from_lists(lists), Knowledge())
    assert not len(method.tail_items)
    before = method.view.table.detach().clone()
    assert torch.equal(method.eval().item_vectors(), before)
    method.stage = 3
    method.start_stage()
    assert torch.equal(method.view.table, before)


def test_a_width_that_its_heads_do_not_divide_is_refused() -> None:
    backbone = SASRec(SASRecConfig(d=6, max_len=6))
    with pytest.raises(ConfigError, match=r"backbone\.d = 6"):
        CITIES(CITIESConfig(), backbone, rank_loss("bce", 10), Sizes(10, 0, 6, 6))
