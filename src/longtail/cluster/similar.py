"""Similar users over a cluster: points go once to every machine, pairs of parts are compared in tasks of ray's."""

from __future__ import annotations

import math
import warnings
from itertools import combinations_with_replacement
from typing import Any

import torch

from longtail.cluster.connect import connect, workers_of
from longtail.data.histories import BoolArray, IntArray
from longtail.errors import ClusterError, ConfigError
from longtail.keys import nothing
from longtail.neighbors import BLOCK, Search, best_between, named
from longtail.retrieval import SearchBy
from longtail.similarity import Floats, Measure, Points, Rows, points
from longtail.terminal import watched

RETRIES = 3  # of a task whose machine is lost
TASKS = 4  # a worker, at least, so that none waits long for the last one


def over_cluster(workers: int | None = None, block: int = BLOCK) -> SearchBy:
    """What `retrieve` searches by; always exact, whatever the number of users."""

    def search(
        vectors: Rows, k: int, how: Search = "auto", measure: Measure = "cosine", teaching: BoolArray | None = None
    ) -> IntArray:
        if how in {"cells", "index"}:
            raise ConfigError(
                f"neighbors.search = {how!r} works on one machine; a cluster searches exactly: set 'exact'"
            )
        return exact_users(vectors, k, measure, teaching, workers, block)

    return search


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
            try:
                found = ray.get(done)
            except ray.exceptions.RayError as error:
                raise ClusterError(f"similar users could not be compared ({error}); see ray's logs") from error
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
