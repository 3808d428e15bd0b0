"""The shuffle test against slow counts, and what it says of planted and of random orders."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data import shuffle_test as module
from longtail.data.dataset import Dataset
from longtail.data.shuffle_test import markov_hits, recurring, shuffle_test, shuffled, some_users
from tests.conftest import walks

HISTORIES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=12)


def flat(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    users = np.repeat(np.arange(1, len(histories) + 1), [len(one) for one in histories])
    return users, np.array([item for one in histories for item in one], np.int64)


@given(HISTORIES, st.sampled_from([2, 3]), st.sampled_from([1, 2**40]))
def test_recurring_runs_are_those_of_a_slow_count(histories: list[list[int]], n: int, large: int) -> None:
    """Also with ids so large that three of them do not fit into 64 bits."""
    users, items = flat(histories)
    seen = Counter(tuple(one[at : at + n]) for one in histories for at in range(len(one) - n + 1))
    times = Counter(seen.values())
    found = recurring(users, items * large, n)
    assert {count: int(found[count]) for count in range(1, len(found)) if found[count]} == dict(times)


@given(HISTORIES, st.sampled_from([1, 2]))
def test_markov_hits_are_those_of_a_slow_rank(histories: list[list[int]], k: int) -> None:
    followed: dict[int, Counter[int]] = defaultdict(Counter)
    for one in histories:
        for before, after in pairwise(one[:-1]):
            followed[before][after] += 1
    hits = []
    for one in histories:
        if len(one) > 1:
            counts = followed[one[-2]]
            rank = sum(count >= counts[one[-1]] for count in counts.values()) - 1
            hits.append(counts[one[-1]] > 0 and rank < k)
    assert markov_hits(*flat(histories), k) == pytest.approx(np.mean(hits) if hits else 0.0)


@given(HISTORIES)
def test_a_shuffle_stays_inside_its_groups_and_moves_everything(histories: list[list[int]]) -> None:
    users, items = flat(histories)
    generator = np.random.default_rng(0)
    place = shuffled(users, generator)
    assert (users[place] == users).all() and sorted(place) == list(range(len(items)))
    first = [int(shuffled(np.zeros(4, np.int64), generator)[0]) for _ in range(400)]
    assert min(Counter(first).values()) > 60 and len(set(first)) == 4


def columns(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = Dataset.read(frame).interactions
    user, item, time = (rows[name].to_numpy().astype(np.int64) for name in ("user", "item", "timestamp"))
    return user, item, time


@pytest.mark.parametrize("users", [90, 400, 4000])
def test_walks_stand_out_and_shuffled_walks_do_not(users: int) -> None:
    """Twenty pairs of neighbors are all there are, however many users walk: the support has to grow with the data."""
    user, item, time = columns(walks(users))
    found = shuffle_test(user, item, time)
    assert found.pairs.found == found.triples.found == found.pairs.as_read == 20
    assert found.pairs.shuffled < 2 and found.pairs.ratio > 7 and found.pairs.beyond_chance
    assert found.markov == 1.0
    mixed = shuffle_test(user, item[shuffled(user, np.random.default_rng(7))], time)
    assert not mixed.pairs.beyond_chance and not mixed.triples.beyond_chance


def test_the_first_successor_tells_a_walk_from_its_shuffle() -> None:
    user, item, _ = columns(walks(400))
    mixed = item[shuffled(user, np.random.default_rng(7))]
    assert markov_hits(user, item, 1) == 1.0 and markov_hits(user, mixed, 1) < 0.4


def test_the_order_of_the_file_inside_ties_does_not_count() -> None:
    user, item, time = columns(walks(400))
    found = shuffle_test(user, item, np.zeros_like(time))
    assert found.pairs.as_read == 20 and found.pairs.found < 3 and not found.pairs.beyond_chance


def test_of_much_data_some_users_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    user, item, time = columns(walks(400))
    drawn = some_users(user, 1000, np.random.default_rng(0))
    assert 900 < drawn.sum() <= 1000
    whole = np.bincount(user[drawn], minlength=401)
    assert np.isin(whole, [0, *np.unique(np.bincount(user)[1:])]).all()
    assert (whole[whole > 0] == np.bincount(user)[whole > 0]).all()
    monkeypatch.setattr(module, "LIMIT", 1000)
    found = shuffle_test(user, item, time)
    assert found.interactions == drawn.sum() and found.pairs.ratio > 7


def test_it_is_the_same_every_time() -> None:
    assert shuffle_test(*columns(walks())) == shuffle_test(*columns(walks()))


def test_a_single_interaction_has_no_structure() -> None:
    one = np.ones(1, np.int64)
    found = shuffle_test(one, one, one)
    assert (found.pairs.found, found.pairs.shuffled, found.markov) == (0, 0, 0)
