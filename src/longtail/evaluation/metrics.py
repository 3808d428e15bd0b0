"""HR@k, NDCG@k and MRR@k of one relevant item a user, from its rank; float64, by group, each with its n."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]


def hr(ranks: Ranks, k: int) -> Values:
    """1 where the target is among the first k, else 0. ranks (n,) from 0.

    >>> hr(np.array([0, 9, 10]), k=10)
    array([1., 1., 0.])
    """
    return (ranks < k).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Values:
    """1 / log2(rank + 2) where the target is among the first k, else 0. ranks (n,) from 0.

    >>> ndcg(np.array([0, 2, 10]), k=10)
    array([1. , 0.5, 0. ])
    """
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def mrr(ranks: Ranks, k: int) -> Values:
    """1 / (rank + 1) where the target is among the first k, else 0. ranks (n,) from 0.

    >>> mrr(np.array([0, 3, 10]), k=10)
    array([1.  , 0.25, 0.  ])
    """
    return np.where(ranks < k, 1.0 / (ranks + 1.0), 0.0)


METRICS: dict[str, Callable[[Ranks, int], Values]] = {"hr": hr, "ndcg": ndcg, "mrr": mrr}


class Figure(NamedTuple):
    """One number of a report; `value` is None for an empty group."""

    protocol: str
    group: str
    metric: str
    n: int
    value: float | None


def figures(
    protocol: str, ranks: Ranks, members: Mapping[str, npt.NDArray[np.bool_]], ks: Iterable[int]
) -> list[Figure]:
    """Every metric at every k for every group. ranks (n,) from 0; members: group name to (n,) booleans."""
    values = {f"{name}@{k}": metric(ranks, k) for k in ks for name, metric in METRICS.items()}
    return [
        Figure(protocol, group, metric, int(inside.sum()), float(each[inside].mean()) if inside.any() else None)
        for group, inside in members.items()
        for metric, each in values.items()
    ]
