"""HR@k, NDCG@k and MRR@k of one relevant item a user, from its rank; float64, by group, each with its n; gaps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]


def hr(ranks: Ranks, k: int) -> Values:
    """1 where the target is among the first k, else 0. ranks (n,) from 0.

    A user has one target, so that this is also recall@k, and k times precision@k: they have no figures of their own.

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
    return means(protocol, {f"{name}@{k}": metric(ranks, k) for k in ks for name, metric in METRICS.items()}, members)


def means(protocol: str, values: Mapping[str, Values], members: Mapping[str, npt.NDArray[np.bool_]]) -> list[Figure]:
    """The mean of each metric's values (n,) over each group."""
    return [
        Figure(protocol, group, metric, int(inside.sum()), float(each[inside].mean()) if inside.any() else None)
        for group, inside in members.items()
        for metric, each in values.items()
    ]


def gaps(made: Iterable[Figure], users: Collection[str]) -> list[Figure]:
    """How unequally users are served, by each metric m@k of `made`, as figures of the group 'all'.

    head_minus_tail_m@k: the figure of head users less that of tail users. worst_ratio_m@k: the lowest figure of the
    groups `users` that are not empty over the figure of all; 1 where nobody is served worse, None where that is 0.
    """
    by: dict[tuple[str, str], dict[str, Figure]] = {}
    for one in made:
        by.setdefault((one.protocol, one.metric), {})[one.group] = one
    found = []
    for (protocol, metric), of in by.items():
        n, whole = of["all"].n, of["all"].value
        head, tail = (of[group].value for group in ("head_users", "tail_users"))
        gap = None if head is None or tail is None else head - tail
        served = [value for group in users if (value := of[group].value) is not None]
        ratio = min(served) / whole if served and whole else None
        found.append(Figure(protocol, "all", f"head_minus_tail_{metric}", n, gap))
        found.append(Figure(protocol, "all", f"worst_ratio_{metric}", n, ratio))
    return found
