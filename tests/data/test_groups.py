"""Head and tail by training counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.config import build
from longtail.data.dataset import Dataset
from longtail.data.groups import GroupsConfig, groups, members
from longtail.data.histories import from_lists
from longtail.data.split import Split, leave_one_out
from longtail.errors import ConfigError, DataError

ITEMS = 12
LISTS = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=8), min_size=1, max_size=8)
CONFIGS = st.one_of(
    st.builds(GroupsConfig, percentile=st.floats(1, 99)),
    st.builds(
        GroupsConfig, scheme=st.just("thresholds"), user_threshold=st.integers(1, 6), item_threshold=st.integers(1, 6)
    ),
)
BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon_beauty_2014"


@given(LISTS, CONFIGS, st.randoms())
def test_held_out_targets_never_change_the_groups(lists: list[list[int]], config: GroupsConfig, random) -> None:  # type: ignore[no-untyped-def]
    changed = [
        [*items[:-2], random.randint(1, ITEMS), random.randint(1, ITEMS)] if len(items) >= 3 else items
        for items in lists
    ]
    one, other = (groups(leave_one_out(from_lists(each), ITEMS), config) for each in (lists, changed))
    np.testing.assert_array_equal(one.head_items, other.head_items)
    np.testing.assert_array_equal(one.head_users, other.head_users)
    assert one[2:4] == other[2:4]
    for mine, yours in zip((*one.users, *one.items), (*other.users, *other.items), strict=True):
        assert mine.names == yours.names and mine.codes.tolist() == yours.codes.tolist()


@given(LISTS, CONFIGS)
def test_head_is_what_reaches_the_threshold(lists: list[list[int]], config: GroupsConfig) -> None:
    split = leave_one_out(from_lists(lists), ITEMS)
    found = groups(split, config)
    train = [items[:-2] if len(items) >= 3 else items for items in lists]
    counts = [sum(items.count(item) for items in train) for item in range(1, ITEMS + 1)]
    lengths = [len(items) for items in train]

    def threshold(numbers: list[int], given: int | None) -> float:
        if given is not None:
            return given
        place = config.percentile / 100 * (len(numbers) - 1)  # linear interpolation between the two order statistics
        low, ordered = int(place), sorted(numbers)
        above = ordered[min(low + 1, len(ordered) - 1)]
        return ordered[low] + (place - low) * (above - ordered[low])

    assert found.item_threshold == pytest.approx(threshold(counts, config.item_threshold))
    assert found.user_threshold == pytest.approx(threshold(lengths, config.user_threshold))
    assert found.head_items.tolist() == [False] + [count >= found.item_threshold for count in counts]
    assert found.head_users.tolist() == [False] + [length >= found.user_threshold for length in lengths]


@given(LISTS, CONFIGS, st.data())
def test_every_pair_is_in_one_cell_and_groups_are_unions_of_cells(
    lists: list[list[int]], config: GroupsConfig, data: st.DataObject
) -> None:
    found = groups(leave_one_out(from_lists(lists), ITEMS), config)
    pairs = data.draw(st.lists(st.tuples(st.integers(1, len(lists)), st.integers(1, ITEMS)), max_size=9))
    users, targets = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    masks = members(found, users, targets)
    train = [items[:-2] if len(items) >= 3 else items for items in lists]
    for n, (user, target) in enumerate(pairs):
        user_kind = "head_users" if found.head_users[user] else "tail_users"
        item_kind = "head_items" if found.head_items[target] else "tail_items"
        expected = {"all", user_kind, item_kind, f"{user_kind}_{item_kind}"}
        expected |= {"users_under_5" if len(train[user - 1]) < 5 else "users_5_to_9", "items_under_10"}
        if (count := sum(items.count(target) for items in train)) >= 10:
            expected = expected - {"items_under_10"} | {"items_10_to_29" if count < 30 else "items_30_to_59"}
        assert {name for name, mask in masks.items() if mask[n]} == expected


@given(LISTS)
def test_the_released_code_counts_what_is_held_out_and_an_item_once_a_user(lists: list[list[int]]) -> None:
    config = GroupsConfig(scheme="thresholds", user_threshold=4, item_threshold=3, counted="released")
    found = groups(leave_one_out(from_lists(lists), ITEMS), config)
    owners = [sum(item in items for items in lists) for item in range(1, ITEMS + 1)]
    assert found.head_items.tolist() == [False] + [count >= 3 for count in owners]
    known = [len(items[:-1]) if len(items) >= 3 else len(items) for items in lists]  # before the test item
    assert found.head_users.tolist() == [False] + [length >= 4 for length in known]
    edges = found.items[0]
    assert edges.codes[1:].tolist() == [int(count >= 10) for count in owners]


def test_bins_begin_at_their_edges() -> None:
    train = from_lists([[1] * length for length in (4, 5, 9, 10, 14, 15, 19, 20, 99)])
    nobody = np.zeros(10, np.int64)
    found = groups(Split(train, nobody, nobody, 3))
    names = found.users[0].names
    assert names == ("users_under_5", "users_5_to_9", "users_10_to_14", "users_15_to_19", "users_20_and_more")
    assert found.users[0].codes[1:].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.items[0].names[-1] == "items_100_and_more" and found.items[0].codes[1:].tolist() == [4, 0, 0]
    few = groups(Split(train, nobody, nobody, 3), GroupsConfig(user_edges=(10,), item_edges=()))
    assert [one.names for one in few.users] == [("users_under_10", "users_10_and_more")] and few.items == ()


def test_a_columns_ten_most_bought_values_are_groups_and_the_rest_is_other() -> None:
    """Twelve values a, b, … bought 12, 11, … times, one item each; item 13 has none, item 14 is called 'other'."""
    text = pl.DataFrame({"kind": [*"abcdefghijkl", None, "other"], "list": [["x"]] * 14})
    train = from_lists([[item] * (13 - item) for item in range(1, 13)] + [[13, 14] * 20])
    nobody = np.zeros(14, np.int64)
    split = Split(train, nobody, nobody, 14)
    (partition,) = groups(split, GroupsConfig(item_edges=(), columns=("kind",)), text).items
    assert partition.names == (*(f"kind={value}" for value in "abcdefghij"), "kind=other")
    assert partition.codes[1:].tolist() == [*range(10), 10, 10, 10, 10]
    with pytest.raises(DataError, match=r"no column 'kin', did you mean 'kind'\?; it has 'kind', 'list'"):
        groups(split, GroupsConfig(columns=("kin",)), text)
    with pytest.raises(DataError, match="one value an item"):
        groups(split, GroupsConfig(columns=("list",)), text)
    with pytest.raises(DataError, match="it has no columns"):
        groups(split, GroupsConfig(columns=("kind",)))


def test_edges_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="ascending order"):
        build(GroupsConfig, {"user_edges": [10, 5]})
    with pytest.raises(ConfigError, match="ascending order"):
        build(GroupsConfig, {"item_edges": [5, 5]})


def test_a_scheme_with_the_wrong_thresholds_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs both user_threshold and item_threshold"):
        build(GroupsConfig, {"scheme": "thresholds", "user_threshold": 3})
    with pytest.raises(ConfigError, match="takes no thresholds"):
        build(GroupsConfig, {"item_threshold": 3})
    with pytest.raises(ConfigError, match="percentile"):
        build(GroupsConfig, {"percentile": 100})


@pytest.mark.skipif(not BEAUTY.exists(), reason="the shared data sets are not here")
def test_amazon_beauty_has_its_known_size_and_a_fifth_of_heads() -> None:
    data = Dataset.read(BEAUTY / "interactions.parquet", BEAUTY / "items.parquet")
    assert (len(data.users), len(data.items), data.interactions.height) == (22_363, 12_101, 198_502)
    assert data.name == "amazon_beauty_2014"
    found = groups(data.leave_one_out())
    assert 0.19 < found.head_items[1:].mean() < 0.25
    assert 0.19 < found.head_users[1:].mean() < 0.30
