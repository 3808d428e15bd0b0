"""Cells: looking into all of them is the exact search, looking into a few finds most, and large ones cost no more."""

from __future__ import annotations

import logging
import re

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail import cells, neighbors
from longtail.cells import Cells
from longtail.neighbors import exact_users, users_by_cells
from longtail.similarity import Measure, points
from tests.test_neighbors import clustered

MEASURES: list[Measure] = ["cosine", "dot", "euclidean"]


def built(vectors: npt.NDArray[np.float32], measure: Measure = "cosine") -> Cells:
    speaking, told = points(vectors, measure), []
    rows = np.arange(len(speaking.users))
    args = {"spherical": measure == "cosine", "tell": told.append}
    made = cells.build(speaking.of, rows, len(rows), speaking.compared, **args)
    assert sum(told) == 2 * len(rows)
    return made


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 150), st.integers(0, 2**32), st.integers(1, 20), st.sampled_from(MEASURES), st.booleans())
def test_looking_into_all_cells_finds_what_the_exact_search_finds(
    users: int, seed: int, k: int, measure: Measure, some: bool
) -> None:
    """Also of users who are alike, who have nothing to say, and where some may not be neighbors."""
    chance = np.random.default_rng(seed)
    vectors = chance.normal(size=(users + 1, 3)).astype(np.float32)
    vectors[chance.random(users + 1) < 0.2] = vectors[1]
    vectors[chance.random(users + 1) < 0.1] = 0
    teaching = chance.random(users + 1) < 0.5 if some else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "GOOD", 2.0)  # more than there is, so that all cells are looked into
        patch.setattr(cells, "QUERIES", 37)
        found = users_by_cells(vectors, k, measure=measure, teaching=teaching)
    expected = exact_users(vectors, k, measure=measure, teaching=teaching)
    known = points(vectors, measure)
    for user in known.users.tolist():
        near, wanted = (row[row > 0] for row in (found.neighbors[user], expected[user]))
        assert len(near) == len(wanted) == len(set(near.tolist())) and user not in near
        assert teaching is None or teaching[near].all()
        own, places = (
            np.searchsorted(known.users, [user]),
            [np.searchsorted(known.users, row) for row in (near, wanted)],
        )
        one, other = (known.compared(known.of(own), known.of(place)) for place in places)
        torch.testing.assert_close(one, other, atol=3e-6, rtol=0)  # ties may fall otherwise


@pytest.mark.parametrize("measure", MEASURES)
def test_a_few_cells_find_most_and_the_recall_told_is_the_true_one(
    measure: Measure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="longtail")
    vectors = clustered(6000, width=12)
    found, recall = users_by_cells(vectors, 10, sample=6000, measure=measure)
    speaking = points(vectors, measure)
    tile = speaking.compared(speaking.of(slice(None)), speaking.of(slice(None))).fill_diagonal_(-torch.inf)
    kth = tile.topk(10).values[:, -1:]
    near = tile.gather(1, torch.from_numpy(found[1:] - 1)) >= kth - 2e-6
    assert recall == pytest.approx(float(near.double().mean()), abs=0.01) and recall >= 0.94
    probed, of = map(int, re.findall(r"(\d+) cells of (\d+) have", caplog.text)[0])
    assert probed <= of / 4, "it looked into nearly everything"
    np.testing.assert_array_equal(found, users_by_cells(vectors, 10, sample=6000, measure=measure).neighbors)


def test_bfloat16_finds_cells_that_are_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, recalls, probed = clustered(9000, width=24), [], []
    for fast in (False, True):
        monkeypatch.setattr(cells, "bfloat16_is_fast", lambda fast=fast: fast)
        made, speaking = built(vectors), points(vectors)
        assert made.rough == fast and not built(vectors[:5000]).rough
        P, recall = made.probes(speaking.of(np.arange(0, 9000, 9)), 10, 0.95)
        recalls.append(recall)
        probed.append(P)
    assert min(recalls) >= 0.95 and probed[1] <= probed[0] + 4


def test_a_cell_of_many_who_are_alike_is_cut_into_parts() -> None:
    vectors = clustered(5000, alike=0.9)
    made = built(vectors)
    sizes = np.diff(made.starts)
    assert sizes.sum() == 5000 and sizes.max() <= cells.LARGEST * 5000 // int(cells.SPREAD * 5000**0.5)
    assert sorted(made.rows.tolist()) == list(range(5000))
    found = users_by_cells(vectors, 5)
    assert found.recall > 0.9 and (found.neighbors[1:] > 0).all()


def test_points_of_many_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(1000)
    assert built(vectors).points.dtype == torch.float32
    monkeypatch.setattr(cells, "HALF", 4 * 1000 * 32 - 1)
    made = built(vectors)
    speaking = points(vectors)
    assert made.points.dtype == torch.float16
    torch.testing.assert_close(made.points.float(), speaking.of(made.rows.numpy()), atol=5e-4, rtol=0)
    assert users_by_cells(vectors, 5).recall > 0.94
