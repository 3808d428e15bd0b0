"""HNSW indexes by usearch, an optional package: one set of settings for users and for bundles. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from usearch.index import BatchMatches, Index

CONNECTIVITY, EXPANSION_ADD, EXPANSION = 16, 96, 128  # chosen by benchmarks/similar_users.py
HEAD, SIZES, NODE = 64, 40, 10  # bytes of parts of a file: see `_check`
ROWS = 32_768  # nodes whose links are checked at once
INSTALL = "pip install 'longtail[index]'"

Floats = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def empty(
    width: int, metric: Literal["ip", "l2sq"], expansion: int = EXPANSION, dtype: Literal["bf16", "f16"] = "bf16"
) -> Index:
    """An index for vectors of `width` numbers, kept in two bytes each; an ImportError if usearch is not installed."""
    from usearch.index import Index  # no sooner: onnxruntime cannot be loaded after it where torch was not before

    return Index(
        ndim=width,
        metric=metric,
        dtype=dtype,
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=expansion,
        enable_key_lookups=False,  # nobody asks for the vector of a key
    )


def nearest(index: Index, vectors: Floats, count: int, threads: int) -> IntArray:
    """Keys (n, count) of what the index finds for each of `vectors` (n, E), nearest first; -1 where it finds fewer."""
    found = np.full((len(vectors), count), -1)
    if len(vectors) == 1:  # a search for one alone answers in another shape
        keys = index.search(vectors, count, threads=threads).keys
        found[0, : len(keys)] = keys
        return found
    matches = cast("BatchMatches", index.search(vectors, count, threads=threads))
    return np.where(np.arange(count) < matches.counts[:, None], matches.keys.astype(np.int64), found)


def view(path: Path, count: int, width: int) -> Index:
    """The index in a file, mapped and read as it is needed; an ImportError if usearch is not installed.

    A ValueError says why it is no index of `count` vectors that `empty(width, "ip", dtype="f16")` made and saved.
    """
    index = empty(width, "ip", dtype="f16")
    _check(path, count, width)
    facts = index.metadata(path) or {}
    kind = facts.get("dimensions"), facts.get("kind_metric"), facts.get("kind_scalar")
    if kind != (width, index.metric_kind, index.dtype):
        raise ValueError(f"an index of other vectors: {facts}")
    index.view(path)
    return index


def _check(path: Path, count: int, width: int) -> None:
    """A ValueError if sizes or links do not fit: usearch follows them wherever they lead.

    A file of its format 2 has: rows, and bytes of a vector; the vectors; a head; sizes of the graph, the highest level,
    and the node there that every search starts from; each node's level; the nodes, which are key and level, and a level
    the number of links, and the links.
    """
    data, M = np.memmap(path, np.uint8, "r"), CONNECTIVITY
    at = 8 + 2 * width * count + HEAD
    if len(data) < at + SIZES + 2 * count or data[:8].view(np.uint32).tolist() != [count, 2 * width]:
        raise ValueError(f"not {count:,} vectors of {width} numbers")
    *sizes, highest, entry = data[at : at + SIZES].view(np.uint64).tolist()
    levels = data[at + SIZES : at + SIZES + 2 * count].view(np.int16).astype(np.int64)
    ends = at + SIZES + 2 * count + np.cumsum(NODE + 4 + 8 * M + levels * (4 + 4 * M))
    if sizes != [count, M, 2 * M] or levels.min() < 0 or ends[-1] != len(data):
        raise ValueError(f"{len(data):,} bytes, which do not fit its graph")
    if entry >= count or not levels.max() == levels[entry] == highest:
        raise ValueError("its graph has no beginning")
    for level in range(highest + 1):
        nodes, most = np.flatnonzero(levels >= level), 2 * M if level == 0 else M
        starts = ends[nodes] - (levels[nodes] - level + 1) * (4 + 4 * M) - (4 * M if level == 0 else 0)
        for block in np.array_split(starts, len(starts) // ROWS + 1):
            links = data[block[:, None] + np.arange(4 + 4 * most)].view(np.uint32)  # (b, 1 + most)
            others = links[:, 1:][np.arange(most) < links[:, :1]]
            if links[:, 0].max() > most or others.max(initial=0) >= count or (levels[others] < level).any():
                raise ValueError("its graph has links that lead out of it")
