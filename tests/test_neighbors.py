"""Similar users equal ten slow lines of numpy, and nobody is her own neighbor; an index finds most of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail import hnsw, neighbors, terminal
from longtail.errors import ConfigError
from longtail.neighbors import approximate_users, exact_users, similar_users


def slow(vectors: npt.NDArray[np.float32], k: int) -> list[list[int]]:
    """Cosines of all pairs in float64, sorted; ties (to six digits) by lower id."""
    unit = vectors.astype(np.float64)
    norms = np.linalg.norm(unit, axis=1)
    rows = []
    for user in range(len(vectors)):
        others = [v for v in range(1, len(vectors)) if v != user and norms[v] > 0 and norms[user] > 0 and user > 0]
        cosine = {v: round(float(unit[v] @ unit[user] / norms[v] / norms[user]), 6) for v in others}
        nearest = sorted(others, key=lambda v: (-cosine[v], v))[:k]
        rows.append(nearest + [0] * (k - len(nearest)))
    return rows


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 70))
def test_neighbors_equal_a_sort_of_all_cosines(users: int, seed: int, k: int, block: int) -> None:
    """Coordinates -1, 0 and 1 give zero rows, duplicates, and ties of cosines -1, -.7071, 0, .7071 and 1 everywhere."""
    vectors = np.random.default_rng(seed).integers(-1, 2, size=(users + 1, 2)).astype(np.float32)
    vectors[0] = 7  # whatever stands in row 0 is nobody
    assert exact_users(vectors, k, block).tolist() == slow(vectors, k)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 150), st.integers(0, 2**32), st.integers(1, 40))
def test_an_index_ranks_what_it_finds_exactly_and_ties_by_lower_id(users: int, seed: int, k: int) -> None:
    """Of coordinates -1, 0 and 1 there are eight different vectors, which no index can fail to find."""
    vectors = np.random.default_rng(seed).integers(-1, 2, size=(users + 1, 2)).astype(np.float32)
    assert approximate_users(vectors, k).neighbors.tolist() == slow(vectors, k)


@pytest.mark.parametrize("block", [1, 2, 5, 50])
def test_a_cosine_a_millionth_higher_wins_over_lower_ids(block: int) -> None:
    """Each next user is one step of six digits nearer to user 1; blocks make the later ones compete with a full list."""
    cosines = 0.5 + 1e-6 * np.arange(30)
    others = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    vectors = np.concatenate([[[0, 0], [1, 0]], others]).astype(np.float32)
    assert exact_users(vectors, 3, block)[1].tolist() == [31, 30, 29] == slow(vectors, 3)[1]


def test_neighbors_of_many_random_users_are_the_true_nearest() -> None:
    vectors = np.random.default_rng(0).normal(size=(3001, 24)).astype(np.float32)
    found = exact_users(vectors, 10, block=700)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    cosines[:, 0] = -2
    np.fill_diagonal(cosines, -2)
    expected = np.sort(cosines[1:], axis=1)[:, :-11:-1]
    np.testing.assert_allclose(np.take_along_axis(cosines[1:], found[1:], axis=1), expected, atol=2e-6)


@pytest.mark.parametrize("search", ["exact", "cells", "index"])
def test_an_identical_user_is_a_neighbor_but_oneself_is_not(search: neighbors.Search) -> None:
    vectors = np.ones((6, 3), dtype=np.float32)
    assert similar_users(vectors, 3, search)[1:].tolist() == [[2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("search", ["exact", "cells", "index"])
def test_users_with_nothing_to_say_have_no_neighbors_and_are_nobodys(search: neighbors.Search) -> None:
    vectors = np.array([[9, 9], [1, 0], [0, 0], [1, 1], [0, 0]], dtype=np.float32)
    assert similar_users(vectors, 3, search).tolist() == [[0, 0, 0], [3, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("search", ["exact", "cells", "index"])
@pytest.mark.parametrize("users", [0, 1])
def test_without_others_there_are_no_neighbors(users: int, search: neighbors.Search) -> None:
    assert similar_users(np.ones((users + 1, 2), dtype=np.float32), 2, search).tolist() == [[0, 0]] * (users + 1)


def test_the_length_of_a_vector_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 8)).astype(np.float32)
    stretched = vectors * rng.uniform(1e-3, 1e3, size=(200, 1)).astype(np.float32)
    np.testing.assert_array_equal(similar_users(vectors, 5), similar_users(stretched, 5))


def clustered(users: int, width: int = 32, alike: float = 0.0) -> npt.NDArray[np.float32]:
    """Users around fifty centres; of a share of them, each is a copy of one of three."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, width))[rng.integers(50, size=users + 1)] + rng.normal(size=(users + 1, width))
    copies = 1 + rng.permutation(users)[: int(alike * users)]
    vectors[copies] = vectors[rng.choice([1, 2, 3], size=len(copies))]
    return vectors.astype(np.float32)


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_an_index_finds_nearly_all_and_its_recall_is_the_true_one(alike: float) -> None:
    """Recall counts neighbors as near as the k-th: exact search, five lines of numpy, the whole of users as sample."""
    vectors = clustered(4000, alike=alike)
    found, recall = approximate_users(vectors, 10, sample=4000)
    unit = vectors[1:].astype(np.float64) / np.linalg.norm(vectors[1:].astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    kth = np.sort(cosines, axis=1)[:, -10]
    near = np.take_along_axis(cosines, found[1:] - 1, axis=1) >= kth[:, None] - 2e-6
    assert recall == pytest.approx(near.mean(), abs=1e-3) and recall > 0.97
    assert (found[1:] > 0).all() and (found[1:] != np.arange(1, 4001)[:, None]).all()
    assert all(len(set(row)) == 10 for row in found[1:].tolist())


def test_a_poor_index_has_low_recall_and_names_nobody_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph falls apart, so that for many users it finds fewer than were asked for."""
    for name, value in {"CONNECTIVITY": 2, "EXPANSION_ADD": 1, "EXPANSION": 1}.items():
        monkeypatch.setattr(hnsw, name, value)
    monkeypatch.setattr(neighbors, "CANDIDATES", 1)
    found, recall = approximate_users(clustered(4000), 10)
    assert recall < 0.9 and (found[1:] == 0).any()
    assert all(len(set(row) - {0}) == np.count_nonzero(row) for row in found.tolist())


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_with_one_thread_an_index_finds_the_same_every_time() -> None:
    vectors = clustered(3000)
    np.testing.assert_array_equal(approximate_users(vectors).neighbors, approximate_users(vectors).neighbors)


@pytest.fixture
def without_usearch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)


@pytest.mark.usefixtures("without_usearch")
def test_without_usearch_an_index_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"neighbors.search 'index' needs usearch .*pip install 'longtail\[index\]'"):
        similar_users(clustered(200), 3, "index")


def test_auto_takes_cells_for_many_users_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="longtail")
    monkeypatch.setattr(neighbors, "MANY", 200)
    similar_users(clustered(200), 3)
    assert not caplog.text
    similar_users(clustered(201), 3)
    assert "of the 3 most similar users (of 201 users)" in caplog.text


def test_long_work_shows_a_bar_on_stderr_and_short_work_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for search in ("exact", "cells", "index"):
        similar_users(clustered(100), 3, search)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(terminal, "SILENT", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for search in ("exact", "cells", "index"):
        similar_users(clustered(100), 3, search)
    out, err = capsys.readouterr()
    assert not out and all(f"similar users{by}" in err for by in ("", " by cells", " by an index"))
