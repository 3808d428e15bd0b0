"""Ranks against a slow loop; fixed candidates; ties and repeats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.data.histories import Histories, IntArray, from_lists
from longtail.data.split import Split, leave_one_out
from longtail.errors import DataError, RunError
from longtail.evaluation import protocol
from longtail.evaluation.protocol import ProtocolConfig, rank_targets, sampled_candidates

ITEMS = 12
LISTS = st.lists(st.lists(st.integers(1, ITEMS), max_size=9), min_size=1, max_size=9)


def _split(lists: list[list[int]]) -> Split:
    return leave_one_out(from_lists(lists), ITEMS)


def _scorer(table: np.ndarray) -> protocol.Scorer:
    def score(users: IntArray, histories: Histories) -> Iterator[tuple[slice, torch.Tensor]]:
        assert histories.users == len(users)
        for start in range(0, len(users), 2):
            rows = slice(start, min(start + 2, len(users)))
            yield rows, torch.from_numpy(table[users[rows]].copy())

    return score


@settings(max_examples=60)
@given(LISTS, st.integers(0, 5), st.sampled_from(["valid", "test"]), st.integers(1, 40))
def test_ranks_equal_a_slow_loop_with_ties_against_the_model(
    lists: list[list[int]], seed: int, name: str, block: int
) -> None:
    split = _split(lists)
    table = np.random.default_rng(seed).integers(0, 5, size=(len(lists) + 1, ITEMS + 1)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "USERS", block)
        ranks = rank_targets(_scorer(table), split, name)
    slow = []
    for user, items in enumerate(lists, start=1):
        if len(items) >= 3:
            target = items[-2] if name == "valid" else items[-1]
            history = items[:-2] if name == "valid" else items[:-1]
            rivals = [item for item in range(1, ITEMS + 1) if item not in history and item != target]
            slow.append((user, target, sum(table[user, item] >= table[user, target] for item in rivals)))
    assert ranks.select("user", "target", "full").rows() == slow


@pytest.mark.parametrize("block", [1, 2])
def test_the_sampled_rank_counts_only_the_drawn_candidates(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "USERS", block)
    split = _split([[1, 2, 3, 4], [5, 6, 7]])
    table = np.random.default_rng(0).normal(size=(3, ITEMS + 1)).astype(np.float32)
    config = ProtocolConfig(sampled=4)
    ranks = rank_targets(_scorer(table), split, "test", config)
    drawn = sampled_candidates(split, np.array([1, 2]), "test", config)
    for row, user, target in ((0, 1, 4), (1, 2, 7)):
        assert ranks["sampled4"][row] == sum(table[user, item] >= table[user, target] for item in drawn[row])


def test_candidates_are_distinct_untouched_and_fixed_by_seed_split_and_user_alone() -> None:
    lists = [[1, 2, 3, 4], [5, 6, 7], [1, 5, 9, 10, 11]]
    split = _split(lists)
    config = ProtocolConfig(sampled=6)
    drawn = sampled_candidates(split, np.array([1, 2, 3]), "test", config)
    for row, items in zip(drawn.tolist(), lists, strict=True):
        assert len(set(row)) == 6 and not set(row) & set(items) and min(row) >= 1 and max(row) <= ITEMS
    assert (sampled_candidates(split, np.array([3, 1]), "test", config) == drawn[[2, 0]]).all()
    assert (sampled_candidates(split, np.array([1, 2, 3]), "valid", config) != drawn).any()
    other = sampled_candidates(split, np.array([1, 2, 3]), "test", ProtocolConfig(sampled=6, seed=1))
    assert (other != drawn).any()


def test_candidates_stay_those_of_earlier_versions() -> None:
    """So that published sampled figures can be compared: drawn by commit 398377e, redraws included."""
    drawn = sampled_candidates(
        _split([[1, 2, 3, 4], [5, 6, 7], [1, 5, 9, 10, 11]]), np.array([1, 2, 3]), "test", ProtocolConfig(sampled=6)
    )
    assert drawn.tolist() == [[10, 12, 11, 6, 7, 5], [9, 4, 1, 3, 10, 12], [7, 4, 6, 3, 8, 2]]


def test_at_least_64_users_are_scored_at_once_and_4_megabytes() -> None:
    assert [protocol.score_rows(items) for items in (1_000, 12_101, 1_000_000)] == [1024, 64, 64]


def test_candidates_are_uniform_over_the_untouched_items() -> None:
    split = _split([[1, 2, 3]] * 4_000)
    drawn = sampled_candidates(split, np.arange(1, 4_001), "test", ProtocolConfig(sampled=3))
    counts = np.bincount(drawn.ravel(), minlength=ITEMS + 1)
    assert not counts[:4].any()
    assert np.abs(counts[4:] / (4_000 * 3 / 9) - 1).max() < 0.1


def test_too_many_candidates_for_the_catalogue_is_a_clear_error() -> None:
    with pytest.raises(DataError, match=r"protocol\.sampled below 8"):
        rank_targets(_scorer(np.zeros((2, ITEMS + 1), np.float32)), _split([[1, 2, 3, 4]]), "test", ProtocolConfig())


def test_scores_that_are_not_numbers_are_refused() -> None:
    table = np.zeros((2, ITEMS + 1), np.float32)
    table[1, 5] = np.nan
    with pytest.raises(RunError, match="diverged"):
        rank_targets(_scorer(table), _split([[1, 2, 3, 4]]), "test")


def test_a_repeated_target_stays_a_candidate() -> None:
    table = np.zeros((2, ITEMS + 1), np.float32)
    table[1, 1], table[1, 2] = 5.0, 9.0
    ranks = rank_targets(_scorer(table), _split([[1, 2, 3, 1]]), "test")
    assert ranks["full"].to_list() == [0]  # item 2, in the history, is out; item 1, the target, is not
