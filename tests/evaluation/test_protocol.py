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
from longtail.evaluation.candidates import Draw, sampled_candidates
from longtail.evaluation.protocol import ProtocolConfig, evaluated, rank, rank_targets, top_items

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
    drawn = sampled_candidates(split, np.array([1, 2]), Draw(4, 42, "test"))
    for row, user, target in ((0, 1, 4), (1, 2, 7)):
        assert ranks["sampled4"][row] == sum(table[user, item] >= table[user, target] for item in drawn[row])


def test_candidates_are_distinct_untouched_and_fixed_by_seed_split_and_user_alone() -> None:
    lists = [[1, 2, 3, 4], [5, 6, 7], [1, 5, 9, 10, 11]]
    split = _split(lists)
    draw = Draw(6, 42, "test")
    drawn = sampled_candidates(split, np.array([1, 2, 3]), draw)
    for row, items in zip(drawn.tolist(), lists, strict=True):
        assert len(set(row)) == 6 and not set(row) & set(items) and min(row) >= 1 and max(row) <= ITEMS
    assert (sampled_candidates(split, np.array([3, 1]), draw) == drawn[[2, 0]]).all()
    assert (sampled_candidates(split, np.array([1, 2, 3]), draw._replace(split="valid")) != drawn).any()
    other = sampled_candidates(split, np.array([1, 2, 3]), draw._replace(seed=1))
    assert (other != drawn).any()


def test_candidates_stay_those_of_earlier_versions() -> None:
    """So that published sampled figures can be compared: drawn by commit 398377e, redraws included."""
    split = _split([[1, 2, 3, 4], [5, 6, 7], [1, 5, 9, 10, 11]])
    drawn = sampled_candidates(split, np.array([1, 2, 3]), Draw(6, ProtocolConfig().seed, "test"))
    assert drawn.tolist() == [[10, 12, 11, 6, 7, 5], [9, 4, 1, 3, 10, 12], [7, 4, 6, 3, 8, 2]]


def test_at_least_64_users_are_scored_at_once_and_4_megabytes() -> None:
    assert [protocol.score_rows(items) for items in (1_000, 12_101, 1_000_000)] == [1024, 64, 64]


def test_candidates_are_uniform_over_the_untouched_items() -> None:
    split = _split([[1, 2, 3]] * 4_000)
    drawn = sampled_candidates(split, np.arange(1, 4_001), Draw(3, 42, "test"))
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


def test_a_repeated_target_is_left_out_when_asked_for_and_counted_either_way() -> None:
    split = _split([[1, 2, 3, 1], [4, 5, 6, 7], [8, 8, 9, 8]])
    table = np.random.default_rng(0).normal(size=(4, ITEMS + 1)).astype(np.float32)
    kept, dropped = (rank(_scorer(table), split, "test", ProtocolConfig(repeats=how)) for how in ("keep", "drop"))
    assert kept.repeats == dropped.repeats == 2
    assert kept.ranks["user"].to_list() == [1, 2, 3] and dropped.ranks["user"].to_list() == [2]
    assert dropped.ranks.rows() == kept.ranks.rows()[1:2]
    assert evaluated(split, "valid", ProtocolConfig())[1] == 0


@given(LISTS, st.integers(0, 5))
def test_seen_items_compete_when_they_are_allowed(lists: list[list[int]], seed: int) -> None:
    split = _split(lists)
    table = np.random.default_rng(seed).integers(0, 5, size=(len(lists) + 1, ITEMS + 1)).astype(np.float32)
    ranks = rank(_scorer(table), split, "test", ProtocolConfig(sampled=0, seen="allow")).ranks
    slow = [
        sum(table[user, item] >= table[user, items[-1]] for item in range(1, ITEMS + 1)) - 1
        for user, items in enumerate(lists, start=1)
        if len(items) >= 3
    ]
    assert ranks["full"].to_list() == slow


@given(LISTS, st.integers(0, 5), st.integers(1, 40), st.sampled_from(["exclude", "allow"]))
def test_lists_hold_the_best_items_that_were_ranked(lists: list[list[int]], seed: int, block: int, seen: str) -> None:
    split = _split(lists)
    table = np.random.default_rng(seed).permuted(np.tile(np.arange(ITEMS + 1.0), (len(lists) + 1, 1)), axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "USERS", block)
        found = rank(_scorer(table), split, "test", ProtocolConfig(ks=(3, 10), sampled=0, lists=True, seen=seen))
    assert found.lists is not None and found.lists.shape == (len(found.ranks), 10)
    for row, (user, target, place) in zip(found.lists.tolist(), found.ranks.rows(), strict=True):
        out = set(lists[user - 1][:-1]) - {target} if seen == "exclude" else set()
        best = sorted(set(range(1, ITEMS + 1)) - out, key=lambda item: -table[user, item])[:10]
        assert row == best + [0] * (10 - len(best))
        assert (target in row) == (place < 10) and (place >= 10 or row[place] == target)


@pytest.mark.parametrize("by_items", [True, False])
@pytest.mark.parametrize(("width", "K"), [(5, 3), (64, 2), (700, 7), (1_001, 10)])
def test_the_top_found_by_chunks_is_the_top_of_a_sort(width: int, K: int, by_items: bool) -> None:
    generator = np.random.default_rng(width)
    scores = torch.from_numpy(generator.permuted(np.tile(np.arange(float(width)), (9, 1)), axis=1))
    scores[:, 0] = -torch.inf
    scores[3, K:] = -torch.inf  # fewer than K are left
    laid = scores.T.contiguous().T if by_items else scores
    expected = torch.where(torch.isfinite(scores), scores, -torch.inf).argsort(dim=1, descending=True)[:, :K]
    assert top_items(laid, K)[[0, 1, 2, 4, 5, 6, 7, 8]].tolist() == expected[[0, 1, 2, 4, 5, 6, 7, 8]].tolist()
    assert top_items(laid, K)[3].tolist() == [*expected[3, : K - 1].tolist(), 0]
