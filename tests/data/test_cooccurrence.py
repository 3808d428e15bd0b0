"""What came after what, against a loop over pairs; what came together is tested with item-kNN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data import cooccurrence
from longtail.data.cooccurrence import followers
from longtail.data.histories import from_lists

LISTS = st.lists(st.lists(st.integers(1, 6), max_size=7), min_size=1, max_size=6)


@given(LISTS, st.sampled_from([0.0, 4.0]), st.sampled_from([0.5, 1.0]), st.integers(1, 8), st.sampled_from([1, 9, 99]))
def test_followers_are_a_loop_over_pairs(
    lists: list[list[int]], shrinkage: float, fading: float, reach: int, block: int
) -> None:
    c, n = np.zeros((7, 7)), np.zeros(7)
    for history in lists:
        for place, i in enumerate(history):
            n[i] += 1
            for gap in range(1, min(place, reach) + 1):
                c[history[place - gap], i] += fading ** (gap - 1)
    np.fill_diagonal(c, np.where(n > 0, c.diagonal() + c.trace() / max(n.sum(), 1) * shrinkage, 0))
    s = np.where(c > 0, c / np.maximum(np.sqrt(np.outer(n, n)) + shrinkage, 1e-9), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "FOLLOWED", block)
        ids, similarities = followers(from_lists(lists), 6, 6, shrinkage=shrinkage, fading=fading, reach=reach)
    found = np.zeros((7, 7))
    np.add.at(found, (np.arange(7)[:, None], ids), similarities)
    np.testing.assert_allclose(found, s, atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 1e-7).all() and not found[:, 0].any()


def test_only_the_best_are_kept() -> None:
    ids, similarities = followers(from_lists([[1, 2], [1, 2, 3], [1, 4]]), 4, 2, shrinkage=0, fading=0.5, reach=9)
    assert ids[1].tolist() == [2, 4]  # 2 came next twice, 4 once; 3 once, one place further on
    assert similarities[1].tolist() == pytest.approx([2 / 6**0.5, 1 / 3**0.5])


def test_where_people_come_back_a_rare_item_has_an_edge_to_itself() -> None:
    ids, similarities = followers(from_lists([[1, 1, 2], [1, 1, 3]]), 3, 3, shrinkage=4, fading=0.5, reach=9)
    own = {j: float(similarities[j][ids[j] == j].sum()) for j in (1, 2, 3)}
    assert own == pytest.approx({1: (2 + 4 / 3) / 8, 2: (4 / 3) / 5, 3: (4 / 3) / 5})
    ids, _ = followers(from_lists([[1, 2], [3, 1]]), 3, 3, shrinkage=4, fading=0.5, reach=9)
    assert not (ids[1:] == [[1], [2], [3]]).any()  # nobody came back: no edge of that kind
