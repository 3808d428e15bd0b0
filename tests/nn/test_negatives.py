"""Negatives: never an item the user touched, uniform or by popularity, with the right correction."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.nn.negatives import NoNegatives, OwnNegatives, SharedNegatives, Unseen

HISTORIES = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8)


@given(HISTORIES)
def test_the_nth_unseen_item_is_that_of_a_plain_set_difference(lists: list[list[int]]) -> None:
    unseen = Unseen(from_lists(lists), items=9)
    for user, items in enumerate(lists, start=1):
        free = sorted(set(range(1, 10)) - set(items))
        assert unseen.free[user] == len(free)
        found = unseen.nth(np.full(len(free), user), np.arange(len(free)))
        assert found.tolist() == free


def test_drawn_negatives_are_uniform_over_the_items_a_user_never_touched() -> None:
    unseen = Unseen(from_lists([[2, 2, 5], [1, 2, 3, 4, 5, 6]]), items=6)
    drawn = unseen.draw(np.full(40_000, 1), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=7)
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]
    assert np.abs(counts[[1, 3, 4, 6]] / 10_000 - 1).max() < 0.05
    assert unseen.draw(np.array([2, 2]), np.random.default_rng(0)).tolist() == [0, 0]  # nothing is left for user 2


def test_own_negatives_are_none_of_their_users_items() -> None:
    histories = from_lists([[1, 2, 3], [4, 5, 6, 7, 8, 9], list(range(1, 10))])
    owners = np.array([1, 1, 2, 3])
    drawn = OwnNegatives(histories, 9, 50).draw(owners, np.random.default_rng(0))
    assert drawn.items.shape == (4, 50) and drawn.log_expected is None
    assert set(drawn.items[0].tolist()) == {4, 5, 6, 7, 8, 9}
    assert set(drawn.items[2].tolist()) == {1, 2, 3}
    assert not drawn.items[3].any()  # user 3 has touched everything
    assert NoNegatives().draw(owners, np.random.default_rng(0)).items.shape == (4, 0)


def test_shared_negatives_come_as_often_as_their_correction_says() -> None:
    histories = from_lists([[1] * 6 + [2] * 3, [2]])  # counts 6, 4, 0: drawn as 6, 4, 1
    generator = np.random.default_rng(0)
    for power, weights in ((1.0, [6, 4, 1]), (0.0, [1, 1, 1])):
        drawn = SharedNegatives(histories, 3, 60_000, power).draw(np.array([1]), generator)
        expected = torch.tensor([0, *weights]).double() / sum(weights) * 60_000
        assert drawn.items.tolist() == [1, 2, 3]
        # N q / times: all draws came about as often as expected, and the sampler says so
        torch.testing.assert_close(drawn.log_expected.exp(), torch.ones(3), rtol=0.05, atol=0)
    few = SharedNegatives(histories, 3, 2, 1.0)
    seen = [few.draw(np.array([1]), generator) for _ in range(3000)]
    times = torch.zeros(4).double()
    for drawn in seen:  # times = N q / exp(log_expected)
        expected = 2 * torch.tensor([0, 6, 4, 1]).double() / 11
        times[drawn.items] += expected[drawn.items] / drawn.log_expected.exp()
    torch.testing.assert_close(times / 3000, expected, rtol=0.1, atol=0)
