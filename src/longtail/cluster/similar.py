"""Similar users over a cluster: points go once to every machine; tasks of ray's compare parts, or look into cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import combinations_with_replacement
from types import ModuleType
from typing import Any

import numpy as np
import torch

from longtail.cells import Cells
from longtail.cluster.connect import connect, workers_of
from longtail.data.histories import BoolArray, IntArray
from longtail.errors import ClusterError, ConfigError
from longtail.keys import nothing
from longtail.neighbors import BLOCK, MANY, Search, best_between, named, queries, users_by_cells
from longtail.retrieval import SearchBy
from longtail.similarity import Floats, Measure, Points, Rows, points
from longtail.terminal import watched

RETRIES = 3  # of a task whose machine is lost
ASKED = 2**18  # users whose neighbors a task looks for in cells
TASKS = 4  # a worker, at least, so that none waits long for the last one


def over_cluster(workers: int | None = None, block: int = BLOCK) -> SearchBy:
    """What `retrieve` searches by: exactly, or by cells where there are many users."""

    def search(
        vectors: Rows, k: int, how: Search = "auto", measure: Measure = "cosine", teaching: BoolArray | None = None
    ) -> IntArray:
        if how == "index":
            raise ConfigError("neighbors.search = 'index' works on one machine; set 'cells' or 'exact' for a cluster")
        if how == "cells" or (how == "auto" and len(vectors) - 1 > MANY):
            each = partial(_in_tasks, workers)
            return users_by_cells(vectors, k, measure=measure, teaching=teaching, each=each).neighbors
        return exact_users(vectors, k, measure, teaching, workers, block)

    return search


def _in_tasks(
    workers: int | None, made: Cells, speaking: Points, k: int, P: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of points to tasks; the cells go once to every machine."""
    ray = connect()
    count, none = workers_of(ray, workers), np.zeros(0, np.int64)
    metric = Points(np.zeros((1, 1), np.float32), none, none > 0, none.astype(np.float32), speaking.centre)
    arrays = [tensor.numpy() for tensor in (made.centres, made.rows, made.points)]
    sent = ray.put((arrays, made.starts, made.n, made.rough, metric))
    task = ray.remote(_search).options(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
    waiting, running = queries(len(speaking.users), ASKED), dict[Any, slice]()
    while waiting or running:
        while waiting and len(running) < count:
            block = waiting.pop(0)
            running[task.remote(sent, speaking.of(block).numpy(), k, P)] = block
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(done), _tensor(_got(ray, done)).clone()


def _search(sent: tuple[list[Floats], IntArray, int, bool, Points], asked: Floats, k: int, P: int) -> IntArray:
    """The task: keys (b, k) for points `asked` (b, E)."""
    arrays, starts, n, rough, metric = sent
    centres, rows, points = (_tensor(array) for array in arrays)
    return Cells(centres, starts, rows, points, n, metric.compared, rough).search(_tensor(asked), k, P).numpy()


def _got(ray: ModuleType, done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"similar users could not be compared ({error}); see ray's logs") from error


def exact_users(
    vectors: Rows,
    k: int,
    measure: Measure = "cosine",
    teaching: BoolArray | None = None,
    workers: int | None = None,
    block: int = BLOCK,
) -> IntArray:
    """`neighbors.exact_users`, number for number: the same tiles are multiplied, elsewhere.

    A key's place is a matter of the keys alone, so that bests of pairs of parts, in any order, give the best of all.
    """
    speaking = points(vectors, measure, teaching)
    n, ray = len(speaking.users), connect()
    count = workers_of(ray, workers)
    rows = block * math.ceil(n / (math.ceil(math.sqrt(2 * TASKS * count)) * block)) if n and k else 1
    parts = [range(start, min(start + rows, n), block) for start in range(0, n if k else 0, rows)]
    best = nothing(n, k)
    units = ray.put(speaking.of(slice(None)).numpy())  # (n, E)
    shared = ray.put(speaking._replace(vectors=vectors[:1]))
    task = ray.remote(_compare).options(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
    pairs = list(combinations_with_replacement(parts, 2))
    running: dict[Any, tuple[range, range]] = {}
    with watched("similar users", len(pairs)) as advance:
        while pairs or running:
            while pairs and len(running) < count:
                left, right = pairs.pop(0)
                running[task.remote(units, shared, k, left, right)] = left, right
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            found = _got(ray, done)
            for part, keys in zip(running.pop(done), found, strict=False):  # one, if both are the same part
                mine = best[part.start : part.stop]
                mine.copy_(torch.cat([mine, _tensor(keys)], 1).topk(k).values)
            advance(1)
    return named(best, speaking)


def _compare(units: Floats, speaking: Points, k: int, left: range, right: range) -> list[IntArray]:
    """The task: the keys of either part, or of the one that is both. Its arrays are the machine's only copies."""
    found = best_between(_tensor(units), speaking, k, left, right, lambda steps: None)
    return [keys.numpy() for keys in (found[:1] if left == right else found)]


def _tensor(array: Floats | IntArray) -> torch.Tensor:
    """Without a copy, of an array in the object store, which cannot be written to, nor is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
