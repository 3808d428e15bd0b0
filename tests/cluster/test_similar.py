"""Similar users over two nodes: number for number what one process finds."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from longtail.cluster import similar
from longtail.cluster.similar import exact_users, over_cluster
from longtail.data.histories import BoolArray
from longtail.errors import ConfigError
from longtail.neighbors import similar_users
from longtail.similarity import Floats, Measure
from tests.conftest import Planted
from tests.test_cli import call
from tests.test_neighbors import slow

pytest.importorskip("ray")


def drawn(users: int, width: int = 16) -> Floats:
    """Vectors (users + 1, width) of which some are zero and some alike."""
    made = np.random.default_rng(3).normal(size=(users + 1, width)).astype(np.float32)
    made[0] = made[7] = made[users // 2] = 0
    made[50:60] = made[20]
    return made


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean"])
def test_it_finds_what_one_process_finds(measure: Measure, cluster: object) -> None:
    vectors = drawn(3000)
    teaching: BoolArray = np.random.default_rng(1).random(3001) < 0.7
    expected = similar_users(vectors, 5, "exact", measure, teaching)
    found = exact_users(vectors, 5, measure, teaching, workers=2)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("users, k", [(2, 3), (60, 5), (100, 0), (333, 10)])
def test_small_sets_and_small_blocks(users: int, k: int, cluster: object) -> None:
    vectors = np.random.default_rng(users).integers(-2, 3, size=(users + 1, 3)).astype(np.float32)  # with many ties
    vectors[0] = 0
    assert exact_users(vectors, k, workers=2, block=16).tolist() == slow(vectors, k)


@pytest.mark.slow  # ray's doing, where that of text encoders is ours
def test_a_lost_node_is_done_without(cluster: Any) -> None:
    vectors, node = drawn(24_000, 64), next(iter(cluster.worker_nodes))
    expected = similar_users(vectors, 5, "exact")

    def remove() -> None:
        time.sleep(1.0)
        cluster.remove_node(node, allow_graceful=False)

    removing = threading.Thread(target=remove)
    removing.start()
    try:
        found = exact_users(vectors, 5, workers=2, block=512)
        assert not removing.is_alive(), "it ended before the node was lost"
    finally:
        removing.join()
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
        cluster.wait_for_nodes()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_by_cells_it_finds_what_one_process_finds_by_cells(
    measure: Measure, cluster: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "ASKED", 900)
    vectors = drawn(3000)
    teaching: BoolArray = np.random.default_rng(1).random(3001) < 0.7
    expected = similar_users(vectors, 5, "cells", measure, teaching)
    np.testing.assert_array_equal(over_cluster(2)(vectors, 5, "cells", measure, teaching), expected)
    monkeypatch.setattr(similar, "MANY", 2999)
    np.testing.assert_array_equal(over_cluster(2)(vectors, 5, "auto", measure, teaching), expected)


def test_an_index_is_refused() -> None:
    with pytest.raises(ConfigError, match="set 'cells' or 'exact'"):
        over_cluster()(drawn(99), 3, "index")


def test_the_command_writes_what_one_process_writes(
    planted: Planted,
    cluster: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted.data.save(tmp_path / "data")
    shared = ["neighbors", tmp_path / "data", "--set", "text.model=lexical:2", "--set", "neighbors.k=4"]
    for name, more in (("alone", []), ("spread", ["--cluster", "ray", "--workers", "2"])):
        code, out, err = call(capsys, monkeypatch, *shared, "--out", tmp_path / name, *more)
        assert code == 0 and "90 users, in 1 parts" in out, err
    alone, spread = (pl.read_parquet(tmp_path / name / "part-00000.parquet") for name in ("alone", "spread"))
    assert alone.equals(spread) and alone.columns == ["user", "rank", "neighbor"] and alone["rank"].max() == 4
    assert (alone["user"] != alone["neighbor"]).all()
    code, _, err = call(capsys, monkeypatch, *shared[:-1], "neighbors.k=3", "--out", tmp_path / "alone")
    assert code == 2 and "choose another --out" in err
