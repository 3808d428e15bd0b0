"""A file of an index is read only if its sizes and links fit together; what reads it would follow them anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longtail import hnsw

COUNT, WIDTH = 1000, 6
GRAPH = 8 + 2 * WIDTH * COUNT + hnsw.HEAD  # where sizes of the graph begin, levels, and nodes
LEVELS = GRAPH + hnsw.SIZES
NODES = LEVELS + 2 * COUNT


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an index, as it should be."""
    index, path = hnsw.empty(WIDTH, "ip", dtype="f16"), tmp_path_factory.mktemp("index") / "whole"
    index.add(np.arange(COUNT), vectors(), threads=1)
    index.save(path)
    return path


def vectors() -> np.ndarray:
    """A thousand of length 1."""
    made = np.random.default_rng(0).normal(size=(COUNT, WIDTH))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("asked", [1, 2, 50])
def test_an_index_read_from_its_file_finds_the_nearest(whole: Path, asked: int) -> None:
    index, points = hnsw.view(whole, COUNT, WIDTH), vectors()
    found = hnsw.nearest(index, points[:asked], 10, threads=1)
    products = points[:asked] @ points.T
    assert found.shape == (asked, 10) and (found[:, 0] == np.arange(asked)).all()
    assert np.mean(found == np.argsort(-products, axis=1)[:, :10]) > 0.9  # in 16 bits, some are equal
    few = hnsw.nearest(index, points[:asked], COUNT + 5, threads=1)
    assert few.shape == (asked, COUNT + 5) and (few[:, COUNT:] == -1).all() and few.max() < COUNT


def _number(at: int, kind: str, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at : at + np.dtype(kind).itemsize] = np.array([value], kind).tobytes()

    return change


def _upper(data: bytearray) -> None:
    """Let a link of an upper level lead to a node that has none."""
    levels = np.frombuffer(bytes(data[LEVELS:NODES]), np.int16).astype(np.int64)
    node, low = int(np.flatnonzero(levels)[0]), int(np.flatnonzero(levels == 0)[0])
    end = NODES + int(np.sum(142 + 68 * levels[: node + 1]))
    _number(end - 68 * levels[node], "<u4", 1)(data)
    _number(end - 68 * levels[node] + 4, "<u4", low)(data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.clear(), "cannot mmap an empty file"),
        (lambda data: data.__delitem__(slice(100, None)), "not 1,000 vectors of 6 numbers"),
        (lambda data: data.__delitem__(slice(-1, None)), "do not fit its graph"),
        (lambda data: data.extend(b"more"), "do not fit its graph"),
        (_number(0, "<u4", COUNT + 1), "not 1,000 vectors of 6 numbers"),
        (_number(4, "<u4", 64), "not 1,000 vectors of 6 numbers"),
        (_number(GRAPH - 64 + 14, "<u1", 11), "an index of other vectors"),
        (_number(GRAPH - 64 + 33, "<u8", 99), "an index of other vectors"),
        (_number(GRAPH, "<u8", 2**40), "do not fit its graph"),
        (_number(GRAPH + 8, "<u8", 2**40), "do not fit its graph"),
        (_number(GRAPH + 24, "<u8", 99), "no beginning"),
        (_number(GRAPH + 32, "<u8", COUNT), "no beginning"),
        (_number(LEVELS + 2 * 5, "<i2", -1), "do not fit its graph"),
        (_number(NODES + 10, "<u4", 1000), "links that lead out of it"),
        (_number(NODES + 14, "<u4", COUNT), "links that lead out of it"),
        (_upper, "links that lead out of it"),
    ],
)
def test_a_file_whose_sizes_or_links_do_not_fit_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[bytearray], None], told: str
) -> None:
    data = bytearray(whole.read_bytes())
    change(data)
    (tmp_path / "spoilt").write_bytes(data)
    with pytest.raises(ValueError, match=told):
        hnsw.view(tmp_path / "spoilt", COUNT, WIDTH)
    hnsw.view(whole, COUNT, WIDTH)
