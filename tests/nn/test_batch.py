"""Batches: gathered right, drawn right, and together by length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.errors import DataError
from longtail.nn.batch import TrainingBatches, by_length, gather
from longtail.nn.items import MASK
from longtail.nn.layout import length_bounds
from longtail.nn.negatives import OwnNegatives

HISTORIES = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8)


@given(HISTORIES.filter(any), st.integers(1, 6), st.booleans())
def test_gathered_sequences_are_the_last_items_one_after_another(
    lists: list[list[int]], max_len: int, asking: bool
) -> None:
    users = np.array([user for user, items in enumerate(lists, start=1) if items])[::-1]
    items, layout = gather(from_lists(lists), users, max_len, asking=asking)
    expected = [lists[user - 1][-max_len:] + [MASK] * asking for user in users]
    assert items.tolist() == [item for one in expected for item in one]
    assert layout.lengths.tolist() == [len(one) for one in expected]
    assert items[layout.ends].tolist() == [one[-1] for one in expected]
    assert layout.steps.tolist() == [step for one in expected for step in range(len(one))]


@settings(max_examples=50)
@given(HISTORIES, st.integers(1, 6), st.integers(1, 30), st.booleans())
def test_runs_by_length_cover_everyone_with_a_history_once(
    lists: list[list[int]], max_len: int, tokens: int, asking: bool
) -> None:
    users = np.arange(len(lists) + 1)[::-1]
    met = []
    for run, (items, layout) in by_length(from_lists(lists), users, max_len, tokens, asking=asking):
        assert len(items) <= tokens + len(run) * asking or len(run) == 1
        ends = np.cumsum(layout.lengths.numpy())
        for place, end, length in zip(run, ends, layout.lengths.tolist(), strict=True):
            assert items[end - length : end].tolist() == lists[users[place] - 1][-max_len:] + [MASK] * asking
        met += users[run].tolist()
    assert sorted(met) == [user for user, items in enumerate(lists, start=1) if items]


def test_a_mask_after_each_sequence_makes_its_box_a_token_longer() -> None:
    lists = [[1] * length for length in (1, 2, 5, 5, 9, 9, 9)]
    boxes = [
        gather(from_lists(lists), np.arange(1, 8), 8, np.array([2, 8]), asking=asking).layout.boxes
        for asking in (False, True)
    ]
    assert boxes == [((2, 2), (5, 8)), ((2, 3), (5, 9))]


def _batches(
    lists: list[list[int]],
    batch_size: int = 3,
    max_len: int = 5,
    masked: float | None = None,
    last_only: bool = False,
) -> TrainingBatches:
    histories = from_lists(lists)
    drawn = OwnNegatives(histories, 9, 2)
    return TrainingBatches(histories, drawn, batch_size=batch_size, max_len=max_len, masked=masked, last_only=last_only)


@settings(max_examples=50)
@given(HISTORIES.filter(any), st.integers(0, 5), st.booleans())
def test_an_epoch_meets_every_user_with_a_history_once(lists: list[list[int]], seed: int, last_only: bool) -> None:
    batches = _batches(lists, last_only=last_only)
    epoch = list(batches.epoch(np.random.default_rng(seed)))
    met = torch.cat([batch.users for batch in epoch]).tolist()
    assert sorted(met) == [user for user, items in enumerate(lists, start=1) if items]
    assert len(epoch) == len(batches)
    for batch in epoch:
        kept = [lists[user - 1][-6:] for user in batch.users.tolist()]
        cut = slice(-1, None) if last_only else slice(None)
        owners = [user for user, one in zip(batch.users.tolist(), kept, strict=True) for _ in one[1:][cut]]
        assert batch.sequences.items.tolist() == [item for one in kept for item in one]
        assert batch.sequences.items[batch.at].tolist() == [item for one in kept for item in one[:-1][cut]]
        assert batch.targets.tolist() == [item for one in kept for item in one[1:][cut]]
        for user, drawn in zip(owners, batch.negatives.items.tolist(), strict=True):
            free = set(range(1, 10)) - set(lists[user - 1])
            assert set(drawn) <= free if free else set(drawn) == {0}


@settings(max_examples=50)
@given(HISTORIES.filter(any), st.integers(0, 5), st.sampled_from([0.2, 0.6, 0.99]))
def test_hidden_batches_ask_for_what_they_hide(lists: list[list[int]], seed: int, share: float) -> None:
    """Each user twice: some items hidden in the first copy, the last alone in the second; then whole, asking."""
    batches = _batches(lists, masked=share)
    epoch = list(batches.epoch(np.random.default_rng(seed)))
    met = torch.cat([batch.users for batch in epoch]).tolist()
    assert sorted(met) == [user for user, items in enumerate(lists, start=1) if items]
    for batch in epoch:
        users = batch.users.tolist()
        kept = [one for user in users for one in [lists[user - 1][-6:]] * 2]
        assert batch.sequences.layout.lengths.tolist() == [len(one) for one in kept]
        shown, flat = batch.sequences.items.clone(), torch.tensor([item for one in kept for item in one])
        owners = np.repeat(np.repeat(users, 2), [len(one) for one in kept])
        assert batch.targets.tolist() == flat[batch.at].tolist() and len(set(batch.at.tolist())) == len(batch.at)
        shown[batch.at] = batch.targets
        assert shown.tolist() == flat.tolist()  # what is not hidden is as it was
        second = np.repeat(np.arange(len(kept)) % 2 == 1, [len(one) for one in kept])
        asked = batch.at[torch.from_numpy(second)[batch.at]]
        assert asked.tolist() == batch.sequences.layout.ends[1::2].tolist() and not batch.sequences.items[asked].any()
        for user, drawn in zip(owners[batch.at.numpy()], batch.negatives.items.tolist(), strict=True):
            free = set(range(1, 10)) - set(lists[user - 1])
            assert set(drawn) <= free if free else set(drawn) == {0}
        whole = [item for user in users for item in [*lists[user - 1][-5:], MASK]]
        assert batch.whole.items.tolist() == whole
        assert batch.whole.layout.lengths.tolist() == [min(len(lists[user - 1]), 5) + 1 for user in users]


def test_of_the_hidden_items_most_are_masked_some_are_others_and_some_are_shown() -> None:
    lists = [[1 + (user + step) % 9 for step in range(40)] for user in range(200)]
    batch = next(_batches(lists, batch_size=200, max_len=39, masked=0.6).epoch(np.random.default_rng(0)))
    rows = batch.at.div(40, rounding_mode="floor")  # all are 40 long
    shown, hidden = batch.sequences.items[batch.at][rows % 2 == 0], batch.targets[rows % 2 == 0]
    assert len(hidden) / (200 * 40) == pytest.approx(0.6, abs=0.02)
    masked, same = (shown == MASK).float().mean().item(), (shown == hidden).float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.02)
    assert same == pytest.approx(0.1 + 0.1 / 9, abs=0.02)  # another item is the same one in nine times
    assert set(shown.tolist()) == set(range(10))


@settings(max_examples=50)
@given(HISTORIES.filter(any), st.integers(0, 5), st.integers(1, 4), st.booleans())
def test_without_their_last_items_sequences_differ_in_nothing_else(
    lists: list[list[int]], seed: int, batch_size: int, last_only: bool
) -> None:
    """The same users, targets and negatives; inputs are the items before the targets, and nothing of those with one."""
    histories = from_lists(lists)
    drawn = OwnNegatives(histories, 9, 2)
    settings = {"sampler": drawn, "batch_size": batch_size, "max_len": 5, "last_only": last_only}
    epochs = [
        list(TrainingBatches(histories, **settings, drop_last=drop_last).epoch(np.random.default_rng(seed)))
        for drop_last in (False, True)
    ]
    for whole, cut in zip(*epochs, strict=True):
        assert cut.users.tolist() == whole.users.tolist() and cut.targets.tolist() == whole.targets.tolist()
        assert cut.negatives.items.tolist() == whole.negatives.items.tolist()
        kept = [lists[user - 1][-6:-1] for user in cut.users.tolist()]
        assert cut.sequences.items.tolist() == [item for one in kept for item in one]
        ends = np.cumsum([len(one) for one in kept if one]) - 1
        assert cut.at.tolist() == (ends.tolist() if last_only else list(range(sum(map(len, kept)))))
        lengths = [len(one) for one in kept]
        assert lengths == sorted(lengths)  # users without a sequence first
        assert cut.sequences.layout.lengths.tolist() == [length for length in lengths if length]
        positions = sum(box.rows * box.longest for box in cut.sequences.layout.boxes)
        assert positions >= len(cut.sequences.items)


def test_company_is_random_and_boxes_hold_users_of_similar_length() -> None:
    lists = [[1] * (2 if index % 5 else 80) for index in range(300)]
    batches = _batches(lists, batch_size=30, max_len=100)
    generator = np.random.default_rng(0)
    first, second = list(batches.epoch(generator)), list(batches.epoch(generator))
    for batch in first:
        layout = batch.sequences.layout
        assert [box.longest for box in layout.boxes] == [2, 80]  # every batch has both kinds
        assert layout.slots is None  # and nothing is padded
    company = [{frozenset(batch.users.tolist()) for batch in epoch} for epoch in (first, second)]
    assert company[0].isdisjoint(company[1])
    assert length_bounds(batches.lengths[batches.users], len(batches)).tolist() == [2, 80]


def test_without_a_target_there_are_no_prefixes() -> None:
    histories = from_lists([[1], [2]])
    with pytest.raises(DataError, match="nobody has two training items"):
        TrainingBatches(histories, OwnNegatives(histories, 9, 2), batch_size=3, max_len=4, prefixes=True)


@settings(max_examples=50)
@given(HISTORIES.filter(lambda lists: any(len(items) > 1 for items in lists)), st.integers(0, 5))
@example([[1], [1], [1], [1, 1]], 0)  # fewer targets than steps
def test_with_prefixes_an_epoch_asks_for_every_target_once_after_what_came_before_it(
    lists: list[list[int]], seed: int
) -> None:
    histories = from_lists(lists)
    batches = TrainingBatches(histories, OwnNegatives(histories, 9, 2), batch_size=3, max_len=4, prefixes=True)
    met, steps = [], 0
    for batch in batches.epoch(np.random.default_rng(seed)):
        steps += 1
        layout = batch.sequences.layout
        assert batch.ends_only and batch.at.tolist() == layout.ends.tolist()
        assert (np.diff(layout.lengths.numpy()) >= 0).all() and batch.negatives.items.shape == (len(batch.at), 2)
        parts = np.split(batch.sequences.items.numpy(), layout.ends.numpy()[:-1] + 1)
        for user, part, target in zip(batch.users.tolist(), parts, batch.targets.tolist(), strict=True):
            met.append((user, part.tolist(), target))
    expected = [
        (user, items[max(place - 4, 0) : place], items[place])
        for user, items in enumerate(lists, start=1)
        for place in range(1, len(items))
    ]
    assert sorted(met) == sorted(expected)
    assert steps == len(batches) == min(-(-sum(map(bool, lists)) // 3), len(expected))
