"""CSR histories against plain lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import Histories, from_lists

LISTS = st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=6)


def lists(histories: Histories) -> list[list[int]]:
    return [histories.of(user).tolist() for user in range(1, histories.users + 1)]


@given(LISTS)
def test_histories_hold_the_lists_they_are_made_of(given_lists: list[list[int]]) -> None:
    histories = from_lists(given_lists)
    assert lists(histories) == given_lists
    assert histories.users == len(given_lists)
    assert histories.of(0).tolist() == []
    assert histories.lengths.tolist() == [0] + [len(one) for one in given_lists]
    assert histories.owners().tolist() == [u + 1 for u, one in enumerate(given_lists) for _ in one]
    flat = [item for one in given_lists for item in one]
    assert histories.counts(9).tolist() == [flat.count(item) for item in range(10)]
    assert histories.items.dtype == histories.offsets.dtype == np.int64


@given(LISTS, st.data())
def test_selecting_users_renumbers_them_in_the_order_given(given_lists: list[list[int]], data: st.DataObject) -> None:
    users = data.draw(st.lists(st.integers(0, len(given_lists)), max_size=8))
    chosen = from_lists(given_lists).select(np.array(users, dtype=np.int64))
    assert lists(chosen) == [([], *given_lists)[user] for user in users]
    assert chosen.items.dtype == chosen.offsets.dtype == np.int64


@given(LISTS, st.data())
def test_appending_adds_one_item_where_it_is_not_padding(given_lists: list[list[int]], data: st.DataObject) -> None:
    size = len(given_lists)
    more = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    longer = from_lists(given_lists).append(np.array([0, *more]))
    assert lists(longer) == [one + [item] * (item > 0) for one, item in zip(given_lists, more, strict=True)]
    assert longer.items.dtype == longer.offsets.dtype == np.int64


@given(LISTS, st.integers(1, 6))
def test_the_last_items_are_those_of_the_lowest_age(given_lists: list[list[int]], n: int) -> None:
    histories = from_lists(given_lists)
    assert histories.ages().tolist() == [age for one in given_lists for age in reversed(range(len(one)))]
    assert lists(histories.last(n)) == [one[-n:] for one in given_lists]
