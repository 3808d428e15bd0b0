"""Splits by time, users and items, against plain lists."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.config import build
from longtail.data.dataset import Dataset
from longtail.data.histories import Histories, from_lists
from longtail.data.split import Split, SplitConfig, held_out, held_out_items, held_out_users, leave_one_out, time_split
from longtail.errors import ConfigError, DataError

ITEMS = 9
EVENT = st.tuples(st.integers(0, 20), st.integers(1, ITEMS))  # time, item
USERS = st.lists(st.lists(EVENT, max_size=7).map(lambda user: sorted(user, key=lambda event: event[0])), max_size=8)
SHARES = st.sampled_from([(0.1, 0.1), (0.2, 0.3), (0.4, 0.2), (0.05, 0.6)])
SCHEMES = ("leave_one_out", "time", "users", "items")


class Case(NamedTuple):
    """Users as lists of (time, item), oldest first, and the same as arrays."""

    users: list[list[tuple[int, int]]]
    histories: Histories
    timestamps: np.ndarray

    @property
    def items(self) -> list[list[int]]:
        return [[item for _, item in user] for user in self.users]


CASES = USERS.map(
    lambda users: Case(
        users,
        from_lists([[item for _, item in user] for user in users]),
        np.array([time for user in users for time, _ in user], dtype=np.int64),
    )
)


def lists(histories: Histories) -> list[list[int]]:
    return [histories.of(user).tolist() for user in range(1, histories.users + 1)]


def check(split: Split, name: str, expected: list[tuple[int, list[int]]]) -> None:
    """Targets and contexts are those expected of each user; (0, []) for one who is not evaluated."""
    assert split.targets(name).tolist() == [0, *(target for target, _ in expected)]
    assert lists(split.history(name)) == [known for _, known in expected]


def picked(user: list[tuple[int, int]], candidates: list[int], which: str, known: set[int]) -> tuple[int, list[int]]:
    """The target among the entries `candidates` of a user and the known items before it, or (0, []) without any."""
    if not candidates:
        return 0, []
    at = candidates[0] if which == "first" else candidates[-1]
    before = [item for _, item in user[:at] if item in known]
    return (user[at][1], before) if before else (0, [])


@given(CASES, SHARES, st.sampled_from(["first", "last"]))
def test_a_time_split_trains_before_one_cut_for_all(case: Case, shares: tuple[float, float], which: str) -> None:
    split = time_split(case.histories, case.timestamps, ITEMS, *shares, which)  # type: ignore[arg-type]
    ordered = sorted(case.timestamps.tolist())
    n, (valid, test) = len(ordered), shares
    first, second = (ordered[-max(round(share * n), 1)] if n else 0 for share in (valid + test, test))
    assert lists(split.train) == [[item for time, item in user if time < first] for user in case.users]
    every = set(range(1, ITEMS + 1))
    for name, begin, end in (("valid", first, second), ("test", second, 99)):
        inside = [[at for at, (time, _) in enumerate(user) if begin <= time < end] for user in case.users]
        found = [picked(user, within, which, every) for user, within in zip(case.users, inside, strict=True)]
        check(split, name, found)
    assert sum(time >= second for time in ordered) >= round(test * n)  # never less than was asked for


@given(CASES, SHARES, st.integers(0, 3))
def test_held_out_users_never_train_and_the_others_only_train(
    case: Case, shares: tuple[float, float], seed: int
) -> None:
    split, n = held_out_users(case.histories, ITEMS, *shares, seed), len(case.users)
    trained = lists(split.train)
    parts = {}
    for name, share in zip(("valid", "test"), shares, strict=True):
        evaluated = {user for user in range(n) if split.targets(name)[user + 1]}
        parts[name] = evaluated
        expected = [(items[-1], items[:-1]) if user in evaluated else (0, []) for user, items in enumerate(case.items)]
        check(split, name, expected)
        assert len(evaluated) <= round(share * n)
    assert not parts["valid"] & parts["test"]
    out = [user for user, items in enumerate(case.items) if items and not trained[user]]
    assert parts["valid"] | parts["test"] <= set(out)
    assert all(len(case.items[user]) == 1 for user in set(out) - parts["valid"] - parts["test"])
    assert all(trained[user] in ([], items) for user, items in enumerate(case.items))
    if all(case.items):
        assert len(out) == min(sum(round(share * n) for share in shares), n)


@given(CASES, SHARES, st.integers(0, 3))
def test_held_out_items_are_in_no_training_history_and_in_no_context(
    case: Case, shares: tuple[float, float], seed: int
) -> None:
    split = held_out_items(case.histories, ITEMS, *shares, seed)
    order = 1 + np.random.default_rng(seed).permutation(ITEMS)
    tests = round(shares[1] * ITEMS)
    held = {"test": set(order[:tests].tolist()), "valid": set(order[tests : tests + round(shares[0] * ITEMS)].tolist())}
    known = set(range(1, ITEMS + 1)) - held["valid"] - held["test"]
    assert lists(split.train) == [[item for item in items if item in known] for items in case.items]
    for name, out in held.items():
        inside = [[at for at, (_, item) in enumerate(user) if item in out] for user in case.users]
        check(split, name, [picked(u, within, "first", known) for u, within in zip(case.users, inside, strict=True)])


def made(case: Case, scheme: str, **settings: float | str) -> Split:
    config = build(SplitConfig, {"scheme": scheme, **settings})
    return held_out(config, case.histories, case.timestamps, ITEMS)


@given(CASES, st.sampled_from(SCHEMES))
def test_every_interaction_is_counted_at_most_once_and_nothing_is_lost(case: Case, scheme: str) -> None:
    split = made(case, scheme)
    assert lists(split.everything()) == case.items
    for user, items in enumerate(case.items, start=1):
        used = [*split.train.of(user).tolist(), *(t for t in (split.valid[user], split.test[user]) if t)]
        assert Counter(used) <= Counter(items)


@given(CASES, st.sampled_from(SCHEMES))
def test_what_is_known_is_what_she_did_before_the_target(case: Case, scheme: str) -> None:
    """With an item of its own for each interaction, the place of a target in the history is certain."""
    lengths = np.cumsum([0, *map(len, case.users)])
    own = [list(range(low + 1, high + 1)) for low, high in pairwise(lengths)]
    config = build(SplitConfig, {"scheme": scheme})
    split = held_out(config, from_lists(own), case.timestamps, int(lengths[-1]))
    used = np.concatenate([split.train.items, split.valid[split.valid > 0], split.test[split.test > 0]])
    assert len(np.unique(used)) == len(used)
    for name in ("valid", "test"):
        for user, items in enumerate(own, start=1):
            target, known = split.targets(name)[user], split.history(name).of(user).tolist()
            assert (target in items and known) if target else (not known or scheme == "leave_one_out")
            assert not target or (set(known) <= set(items) and max(known) < target)


@given(CASES, st.sampled_from(SCHEMES), st.data())
def test_selected_users_keep_their_part_of_any_split(case: Case, scheme: str, data: st.DataObject) -> None:
    split = made(case, scheme)
    users = np.array(data.draw(st.lists(st.integers(1, max(len(case.users), 1)), max_size=8)), dtype=np.int64)
    users = users[users <= len(case.users)]
    part = split.select(users)
    assert (part.items, part.scheme) == (split.items, split.scheme)
    for name in ("valid", "test"):
        assert part.targets(name).tolist() == [0, *split.targets(name)[users]]
        assert lists(part.history(name)) == [split.history(name).of(user).tolist() for user in users]
    assert lists(part.everything()) == [split.everything().of(user).tolist() for user in users]
    assert lists(part.train) == [split.train.of(user).tolist() for user in users]


def test_the_test_users_stay_the_same_when_more_validate() -> None:
    whole = from_lists([[1, 2]] * 40)
    few, many = (held_out_users(whole, 2, valid, 0.2) for valid in (0.1, 0.5))
    np.testing.assert_array_equal(few.test, many.test)
    assert (few.valid > 0).sum() == 4 and (many.valid > 0).sum() == 20
    assert (held_out_users(whole, 2, 0.1, 0.2, seed=7).test != few.test).any()


def test_a_scheme_names_itself_and_its_parameters() -> None:
    case = Case([], from_lists([]), np.zeros(0, np.int64))
    assert leave_one_out(case.histories, ITEMS).scheme == made(case, "leave_one_out").scheme == "leave_one_out"
    assert made(case, "time", test=0.25, target="last").scheme == "time(valid=0.1, test=0.25, target=last)"
    assert made(case, "users", valid=0.5).scheme == "users(valid=0.5, test=0.1, seed=42)"
    assert made(case, "items", seed=3).scheme == "items(valid=0.1, test=0.1, seed=3)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "time", "valid": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"scheme": "time", "seed": 7}, "'time' does not read seed"),
        ({"scheme": "users", "target": "last"}, "'users' does not read target"),
        ({"test": 0.2}, "'leave_one_out' does not read test"),
        ({"scheme": "time", "test": 0.0}, "test = 0.0"),
        ({"scheme": "temporal"}, "scheme = 'temporal'"),
        ({"scheme": "users", "share": 0.1}, "unknown key 'share'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(SplitConfig, settings)


def events() -> pl.DataFrame:
    """Forty users of two to nine interactions, all at different times, who begin one after another."""
    generator = np.random.default_rng(5)
    rows = [
        (f"u{user:02d}", f"i{generator.integers(12):02d}", 1000 * (user + 4 * step) + user)
        for user in range(40)
        for step in range(int(generator.integers(2, 10)))
    ]
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


def outward(split: Split) -> dict[str, list[list[str]]]:
    """By external user id: training items, both targets, both contexts, external ids."""
    assert split.data is not None
    items = ["-", *split.data.items.ids.to_list()]
    parts = [split.train, split.history("valid"), split.history("test")]
    return {
        user: [[items[item] for item in part.of(at)] for part in parts]
        + [[items[split.valid[at]], items[split.test[at]]]]
        for at, user in enumerate(split.data.users.ids, start=1)
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_neither_the_order_of_rows_nor_the_names_of_ids_change_a_split(scheme: str) -> None:
    config = build(SplitConfig, {"scheme": scheme})
    before = outward(Dataset.read(events()).split(config))
    shuffled = events().sample(fraction=1.0, shuffle=True, seed=1)
    assert outward(Dataset.read(shuffled).split(config)) == before
    # Who is drawn depends on the ascending order of ids: names that keep it keep the draw, others need not.
    user, item = ((lambda old: f"x{old}") if scheme == role else (lambda old: old[::-1]) for role in ("users", "items"))
    names = [pl.col("user").map_elements(user, pl.String), pl.col("item").map_elements(item, pl.String)]
    renamed = outward(Dataset.read(shuffled.with_columns(names)).split(config))
    names_of = {"-": "-", **{one: item(one) for one in events()["item"].unique()}}
    assert renamed == {user(u): [[names_of[i] for i in part] for part in parts] for u, parts in before.items()}


def test_a_time_split_of_a_table_has_cold_users() -> None:
    split = Dataset.read(events()).split(SplitConfig(scheme="time", valid=0.2, test=0.2))
    cold = split.train.lengths[1:] == 0
    assert 0 < (split.test[1:] > 0)[cold].sum() < (split.test > 0).sum()
    assert not split.valid[1:][cold].any()  # a first target leaves those who begin in the period without a history
    last = Dataset.read(events()).split(SplitConfig(scheme="time", valid=0.2, test=0.2, target="last"))
    assert last.valid[1:][cold].any()


def test_positions_are_not_taken_for_times() -> None:
    counted = events().with_columns(timestamp=pl.int_range(pl.len()).over("user") + 1)
    with pytest.raises(DataError, match="count each user's interactions"):
        Dataset.read(counted).split(SplitConfig(scheme="time"))
    assert Dataset.read(counted).split(SplitConfig(scheme="users")).test.any()
    late = counted.with_columns(pl.when(pl.col("user") == "u00").then(pl.col("timestamp") + 3).otherwise("timestamp"))
    assert Dataset.read(late).split(SplitConfig(scheme="time", valid=0.3, test=0.3)).test.any()


def test_a_split_that_leaves_nothing_says_so() -> None:
    rows = [("a", "A", 1), ("a", "B", 1), ("b", "A", 1), ("b", "C", 1)]
    same_time = Dataset.read(pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"))
    with pytest.raises(DataError, match=r"time\(.*leaves no interaction to train on"):
        same_time.split(SplitConfig(scheme="time"))
    with pytest.raises(DataError, match=r"nobody to evaluate on 'valid'.*split\.valid"):
        same_time.split(SplitConfig(scheme="users", test=0.5))
    with pytest.raises(DataError, match=r"nobody to evaluate on 'test'.*split\.test"):
        same_time.split(SplitConfig(scheme="users", valid=0.5))
    with pytest.raises(DataError, match=r"users\(.*leaves no interaction to train on"):
        same_time.split(SplitConfig(scheme="users", valid=0.4, test=0.5))
