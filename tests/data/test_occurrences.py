"""Contexts of items against slow loops over lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.data.occurrences import ends, occurrences, passages, some_of_each, windows

LISTS = st.lists(st.lists(st.integers(1, 5), max_size=7), min_size=1, max_size=5).filter(any)


def _places(lists: list[list[int]]) -> list[tuple[list[int], int]]:
    """Of every place in the flat items: its history, and where in it it is."""
    return [(one, at) for one in lists for at in range(len(one))]


@given(LISTS)
def test_occurrences_are_all_places_of_an_item_and_their_histories_end_where_they_should(
    lists: list[list[int]],
) -> None:
    histories = from_lists(lists)
    found = occurrences(histories, 5)
    flat = [item for one in lists for item in one]
    for item in range(1, 6):
        assert found.of(item).tolist() == [place for place, one in enumerate(flat) if one == item]
    first, last = ends(histories, np.arange(len(flat)))
    slow = [(place - at, place - at + len(one) - 1) for place, (one, at) in enumerate(_places(lists))]
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == slow


@given(LISTS, st.integers(1, 4), st.data())
def test_passages_lead_up_to_a_place_from_either_side(
    lists: list[list[int]], longest: int, data: st.DataObject
) -> None:
    histories, places = from_lists(lists), _places(lists)
    chosen = data.draw(st.lists(st.integers(0, len(places) - 1), min_size=1, max_size=9))
    backwards = data.draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    found = passages(histories, np.array(chosen), np.array(backwards), longest)
    for user, (place, back) in enumerate(zip(chosen, backwards, strict=True), start=1):
        one, at = places[place]
        whole = one[at:][::-1] if back else one[: at + 1]
        assert found.of(user).tolist() == whole[-longest:]


@given(LISTS, st.integers(1, 3), st.data())
def test_windows_hold_what_is_near_a_place_without_it(lists: list[list[int]], reach: int, data: st.DataObject) -> None:
    histories, places = from_lists(lists), _places(lists)
    chosen = data.draw(st.lists(st.integers(0, len(places) - 1), min_size=1, max_size=9))
    found, away = windows(histories, np.array(chosen), reach)
    for user, place in enumerate(chosen, start=1):
        one, at = places[place]
        near = [(one[at + step], step) for step in range(-reach, reach + 1) if step and 0 <= at + step < len(one)]
        own = slice(found.offsets[user], found.offsets[user + 1])
        assert list(zip(found.items[own].tolist(), away[own].tolist(), strict=True)) == near


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 9))
def test_some_of_each_group_are_distinct_and_as_many_as_there_are(groups: list[int], seed: int) -> None:
    sizes = np.array([2, 0, 1, 5])
    chosen = some_of_each(np.array(groups), sizes, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == len(chosen)
    taken = np.array(groups)[chosen]
    assert taken.tolist() == sorted(taken)
    for group in range(4):
        assert np.count_nonzero(taken == group) == min(groups.count(group), sizes[group])


def test_some_of_each_group_are_any_of_it_alike() -> None:
    generator = np.random.default_rng(0)
    groups = np.array([0, 1, 0, 1, 0])
    drawn = np.concatenate([some_of_each(groups, np.array([1, 1]), generator) for _ in range(3000)])
    share = np.bincount(drawn, minlength=5) / 3000
    np.testing.assert_allclose(share, [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3], atol=0.04)  # deviation below .01
