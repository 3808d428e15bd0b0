"""Candidates by popularity against exact chances; candidates of a file; the hash of who is ranked among what."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from longtail.data.histories import Histories, IntArray, from_lists
from longtail.data.ids import IdMap
from longtail.data.split import Split, leave_one_out
from longtail.errors import DataError
from longtail.evaluation import candidates
from longtail.evaluation.candidates import Draw, content_hash, listed, popular_candidates, read_candidates
from longtail.evaluation.protocol import ProtocolConfig, drawn_candidates, rank

DRAW = Draw(2, 42, "test")
USERS, ITEMS = IdMap(pl.Series(["a", "b", "c"]), "user"), IdMap(pl.Series([f"i{item}" for item in range(9)]), "item")


def _popular(copies: int) -> Split:
    """Users who touch items 1 to 3, and others, who only train, by whom 4 to 7 are bought 16, 4, 2 and 2 times."""
    others = [[4, 4]] * 8 + [[5, 5]] * 2 + [[6, 6], [7, 7]]
    return leave_one_out(from_lists([[1, 2, 3]] * copies + others), 8)


@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_popular_candidates_come_with_the_chances_of_drawing_one_after_the_other(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P(i, then j) = w_i / W * w_j / (W - w_i), whether drawn again and again, by keys, or by both in turn."""
    monkeypatch.setattr(candidates, "ROUNDS", rounds)
    n, split = 40_000, _popular(40_000)
    weights = {4: 16, 5: 4, 6: 2, 7: 2}
    assert [split.train.counts(8)[item] for item in weights] == list(weights.values())
    touched = 3 if rounds else 40_000  # one draw in nine is of a touched item, or, in training, nearly every draw
    counts = np.array([0, touched, 0, 0, *weights.values(), 0])
    drawn = popular_candidates(split, np.arange(1, n + 1), DRAW, counts)
    for one, other in permutations(weights, 2):
        chance = weights[one] / 24 * weights[other] / (24 - weights[one])
        share = ((drawn[:, 0] == one) & (drawn[:, 1] == other)).mean()
        assert abs(share - chance) < 5 * np.sqrt(chance / n), (one, other)


def test_popular_candidates_are_distinct_untouched_and_fixed_by_seed_split_and_user_alone() -> None:
    split = leave_one_out(from_lists([[1, 2, 3, 4], [5, 6, 7], [1, 5, 4, 2, 3], [8, 8], [7, 2], [6, 3], [5, 1]]), 9)
    counts, users = split.train.counts(9), np.array([1, 2, 3])
    draw = Draw(3, 42, "test")
    drawn = popular_candidates(split, users, draw, counts)
    for row, touched in zip(drawn.tolist(), ([1, 2, 3, 4], [5, 6, 7], [1, 5, 4, 2, 3]), strict=True):
        assert len(set(row)) == 3 and not set(row) & {*touched, 0, 9}  # nobody ever bought 9
    assert (popular_candidates(split, np.array([3, 1]), draw, counts) == drawn[[2, 0]]).all()
    for other in (draw._replace(seed=1), draw._replace(split="valid")):
        assert (popular_candidates(split, users, other, counts) != drawn).any()


def test_too_many_popular_candidates_are_a_clear_error() -> None:
    with pytest.raises(DataError, match=r"among the 5 with training interactions; set protocol\.popular below 4"):
        drawn_candidates(_popular(3), "test", ProtocolConfig(sampled=0, popular=5))


def _write(path: Path, rows: list[tuple[str, str]]) -> str:
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(path)
    return str(path)


def test_candidates_of_a_file_are_ranked_with_the_target(tmp_path: Path) -> None:
    """User 1's list names the target, i3, and an item twice; lists differ in length."""
    split = leave_one_out(from_lists([[1, 2, 3, 4], [5, 6, 7], [8]]), 9)
    rows = [("a", "i8"), ("b", "i0"), ("a", "i3"), ("a", "i4"), ("a", "i8"), ("a", "i5")]
    lists = read_candidates(_write(tmp_path / "candidates.csv", rows), USERS, ITEMS)
    assert [lists.of(user).tolist() for user in (1, 2, 3)] == [[4, 5, 6, 9], [1], []]
    table = np.array([[0.0] * 10, [0, 0, 0, 0, 5, 5, 4, 0, 0, 9], [0, 2, 0, 0, 0, 0, 0, 3, 0, 9], [0.0] * 10])

    def score(users: IntArray, histories: Histories):  # type: ignore[no-untyped-def]
        yield slice(0, len(users)), torch.from_numpy(table[users].copy())

    kinds = {"file": listed(lists, split.test, USERS)}
    found = rank(score, split, "test", ProtocolConfig(sampled=0), kinds)
    assert found.ranks["file"].to_list() == [2, 0]  # 9 > 5 = 5 > 4: a tie counts against the model
    assert len(found.candidates["file"]) == 16


def test_a_file_with_unknown_or_missing_ids_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "candidates.csv"
    with pytest.raises(DataError, match=r"unknown item 'x', and 1 others, in 3 of 4 rows"):
        read_candidates(_write(path, [("a", "x"), ("a", "i1"), ("b", "y"), ("b", "x")]), USERS, ITEMS)
    with pytest.raises(DataError, match=r"unknown user 'z', and 0 others, in 1 of 1 rows"):
        read_candidates(_write(path, [("z", "i1")]), USERS, ITEMS)
    lists = read_candidates(_write(path, [("a", "i1"), ("b", "i7")]), USERS, ITEMS)
    with pytest.raises(DataError, match=r"no candidates besides the target for 2 users who are evaluated: 'b', 'c'"):
        listed(lists, np.array([0, 3, 8, 2]), USERS)(np.array([3, 1, 2]))


def test_the_hash_tells_candidates_apart_but_not_their_order_nor_blocks() -> None:
    lists = from_lists([[1, 2], [3], [4, 5]])
    whole = content_hash(np.array([7, 8, 9]), lists)
    assert content_hash(np.array([9, 7, 8]), from_lists([[5, 4], [2, 1], [3]])) == whole
    parts = content_hash(np.array([7]), from_lists([[1, 2]])) + content_hash(
        np.array([8, 9]), from_lists([[3], [4, 5]])
    )
    assert parts % 2**64 == whole
    others = [from_lists(rows) for rows in ([[1, 2], [3], [4, 6]], [[1, 3], [2], [4, 5]], [[1, 2], [], [4, 5]])]
    assert (
        len({whole, content_hash(np.array([7, 8, 5]), lists)} | {content_hash(np.array([7, 8, 9]), o) for o in others})
        == 5
    )
