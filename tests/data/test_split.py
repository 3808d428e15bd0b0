"""Leave-one-out against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.data.split import leave_one_out

LISTS = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6)


@given(LISTS)
def test_the_last_two_items_of_long_enough_histories_are_held_out(lists: list[list[int]]) -> None:
    split = leave_one_out(from_lists(lists), items=9)
    for user, items in enumerate(lists, start=1):
        evaluated = len(items) >= 3
        assert split.train.of(user).tolist() == (items[:-2] if evaluated else items)
        assert split.valid[user] == (items[-2] if evaluated else 0)
        assert split.test[user] == (items[-1] if evaluated else 0)
        assert split.history("test").of(user).tolist() == (items[:-1] if evaluated else items)
    assert split.valid[0] == split.test[0] == 0
    assert len(split.valid) == len(split.test) == len(lists) + 1


@given(LISTS)
def test_the_parts_of_a_split_make_the_whole_again(lists: list[list[int]]) -> None:
    whole = from_lists(lists)
    again = leave_one_out(whole, items=9).everything()
    np.testing.assert_array_equal(again.items, whole.items)
    np.testing.assert_array_equal(again.offsets, whole.offsets)


@given(LISTS, st.data())
def test_selected_users_have_the_same_split(lists: list[list[int]], data: st.DataObject) -> None:
    users = data.draw(st.lists(st.integers(1, len(lists)), max_size=8))
    chosen = leave_one_out(from_lists(lists), items=9).select(np.array(users, dtype=np.int64))
    expected = leave_one_out(from_lists([lists[user - 1] for user in users]), items=9)
    for found, wanted in zip((*chosen.train, *chosen[1:3]), (*expected.train, *expected[1:3]), strict=True):
        assert found.dtype == wanted.dtype == np.int64
        np.testing.assert_array_equal(found, wanted)


def test_validation_knows_only_the_training_items() -> None:
    split = leave_one_out(from_lists([[1, 2, 3]]), items=3)
    assert split.history("valid").of(1).tolist() == [1]
    assert split.targets("valid").tolist() == [0, 2]
    assert split.targets("test").tolist() == [0, 3]
    with pytest.raises(KeyError):
        split.history("train")
