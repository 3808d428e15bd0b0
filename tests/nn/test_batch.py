"""Batches: gathered right, drawn right, and together by length."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.nn.backbones.base import last
from longtail.nn.batch import OVERHEAD, TrainingBatches, Unseen, gather, length_bounds, length_chunks

HISTORIES = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8)


@given(HISTORIES)
def test_the_nth_unseen_item_is_that_of_a_plain_set_difference(lists: list[list[int]]) -> None:
    unseen = Unseen(from_lists(lists), items=9)
    for user, items in enumerate(lists, start=1):
        free = sorted(set(range(1, 10)) - set(items))
        assert unseen.free[user] == len(free)
        found = unseen.nth(np.full(len(free), user), np.arange(len(free)))
        assert found.tolist() == free


def test_drawn_negatives_are_uniform_over_the_items_a_user_never_touched() -> None:
    unseen = Unseen(from_lists([[2, 2, 5], [1, 2, 3, 4, 5, 6]]), items=6)
    drawn = unseen.draw(np.full(40_000, 1), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=7)
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]
    assert np.abs(counts[[1, 3, 4, 6]] / 10_000 - 1).max() < 0.05
    assert unseen.draw(np.array([2, 2]), np.random.default_rng(0)).tolist() == [0, 0]  # nothing is left for user 2


@given(HISTORIES, st.integers(1, 6))
def test_gathered_sequences_are_the_last_items_padded_on_the_right(lists: list[list[int]], max_len: int) -> None:
    histories = from_lists(lists)
    users = torch.arange(1, len(lists) + 1).flip(0)
    items, lengths = gather(torch.from_numpy(histories.items), torch.from_numpy(histories.offsets), users, max_len)
    for row, length, user in zip(items.tolist(), lengths.tolist(), users.tolist(), strict=True):
        expected = lists[user - 1][-max_len:]
        assert length == len(expected)
        assert row == expected + [0] * (items.shape[1] - len(expected))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 200))
def test_length_chunks_cover_everyone_once_within_the_budget(lengths: list[int], tokens: int) -> None:
    ordered = np.sort(np.array(lengths))
    chunks = list(length_chunks(ordered, tokens))
    assert np.concatenate([np.arange(len(ordered))[chunk] for chunk in chunks]).tolist() == list(range(len(ordered)))
    for chunk in chunks:
        part = ordered[chunk]
        assert len(part) * part[-1] <= tokens or len(part) == 1


def _batches(lists: list[list[int]], **changes: int) -> TrainingBatches:
    sizes = {"batch_size": 3, "max_len": 5, "negatives": 2, **changes}
    return TrainingBatches(from_lists(lists), 9, **sizes)


@settings(max_examples=50)
@given(HISTORIES.filter(any), st.integers(0, 5))
def test_an_epoch_meets_every_user_with_a_history_once(lists: list[list[int]], seed: int) -> None:
    batches = _batches(lists)
    epoch = list(batches.epoch(np.random.default_rng(seed)))
    met = torch.cat([block.users for blocks in epoch for block in blocks]).tolist()
    assert sorted(met) == [user for user, items in enumerate(lists, start=1) if items]
    assert len(epoch) == len(batches)
    for block in (block for blocks in epoch for block in blocks):
        for user, row, length, targets, negatives in zip(*(x.tolist() for x in block), strict=True):
            kept = lists[user - 1][-6:]
            assert row[:length] == kept
            assert targets == kept[1:] + [0] * (len(row) - length + 1)
            for target, drawn in zip(targets, negatives, strict=True):
                free = set(range(1, 10)) - set(lists[user - 1])
                assert set(drawn) <= free if target and free else set(drawn) == {0}


def test_company_is_random_and_blocks_hold_users_of_similar_length() -> None:
    lists = [[1] * (2 if index % 5 else 80) for index in range(300)]
    batches = _batches(lists, batch_size=30, max_len=100)
    generator = np.random.default_rng(0)
    first, second = list(batches.epoch(generator)), list(batches.epoch(generator))
    for blocks in first:
        assert [set(block.lengths.tolist()) for block in blocks] == [{2}, {80}]  # every batch has both kinds
        assert sum(block.items.numel() for block in blocks) == sum(int(block.lengths.sum()) for block in blocks)
    company = [
        {frozenset(u for block in blocks for u in block.users.tolist()) for blocks in epoch}
        for epoch in (first, second)
    ]
    assert company[0].isdisjoint(company[1])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_length_bounds_cost_no_more_than_any_other_choice(lengths: list[int], batches: int) -> None:
    distinct = sorted(set(lengths))[:7]
    kept = np.array([length for length in lengths if length in distinct])

    def cost(bounds: tuple[int, ...]) -> float:
        total, low = 0.0, 0
        for high in bounds:
            total += high * sum(low < length <= high for length in kept) / batches + OVERHEAD
            low = high
        return total

    inner = [chosen for size in range(len(distinct)) for chosen in combinations(distinct[:-1], size)]
    best = min(cost((*chosen, distinct[-1])) for chosen in inner)
    assert cost(tuple(length_bounds(kept, batches).tolist())) == pytest.approx(best)


def test_the_last_state_of_each_sequence_is_picked() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    assert last(states, torch.tensor([1, 3])).tolist() == [[0.0, 1.0], [10.0, 11.0]]
