"""Which users are similar: by what they are compared, how many are retrieved, and who may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt

from longtail.config import Config
from longtail.data.histories import BoolArray, Histories, IntArray
from longtail.errors import ConfigError
from longtail.neighbors import Search, similar_users
from longtail.similarity import Floats, Measure, Rows


class NeighborsConfig(Config):
    """Which users are similar."""

    k: PositiveInt = 10
    """Similar users retrieved for each user (LLM-ESR, sec. 4.1; grid 2, 6, 10, 14, 18)."""
    search: Search = "auto"
    """How: "exact"; "cells", faster for many users, but it misses a few; "index", which misses fewer, takes longer and
    needs `pip install 'longtail[index]'`; "auto" is exact up to 200,000 users and takes cells for more."""
    similarity: Literal[Measure, "popularity"] = "cosine"
    """By what: "cosine" (LLM-ESR, sec. 3.4), "dot" product or "euclidean" distance of the users' text vectors;
    "popularity": cosine of the means of their items' text vectors, in which popular items weigh less."""
    min_history: NonNegativeInt = 0
    """Training interactions a user needs to be found as a similar one, so that only richer users teach; 0: anyone."""

    @property
    def by_items(self) -> bool:
        """Whether users are compared by the vectors of their items, and vectors of their own are not needed."""
        return self.similarity == "popularity"


SearchBy: TypeAlias = Callable[[Rows, int, Search, Measure, BoolArray | None], IntArray]


def retrieve(config: NeighborsConfig, train: Histories, vectors: Floats, search: SearchBy = similar_users) -> IntArray:
    """Similar users (U + 1, k), 0 = none. vectors: (U + 1, E) of users, or (I + 1, E) of items for "popularity".

    search: what looks for them, this process if not given.
    """
    measure: Measure = "cosine"
    compared: Rows
    if config.similarity == "popularity":
        compared = DiscountedMeans(train, vectors)
    else:
        measure, compared = config.similarity, of_trained(train, vectors)
    teaching = train.lengths >= config.min_history if config.min_history else None
    if teaching is not None and not teaching.any():
        longest = int(train.lengths.max())
        raise ConfigError(
            f"neighbors.min_history = {config.min_history}: the longest training history has {longest} interactions, "
            f"so that nobody could be a similar user; set {longest} at most"
        )
    return search(compared, config.k, config.search, measure, teaching)


def of_trained(train: Histories, vectors: Floats) -> Floats:
    """(U + 1, E) with zeros for users without a training history, of whom a vector made elsewhere may know more."""
    trains = train.lengths > 0
    return vectors if trains[1:].all() else np.where(trains[:, None], vectors, np.float32(0))


class DiscountedMeans:
    """p_u = sum over the items j of u's history of log(1 + U / n_j) e_j / |e_j|, (U + 1, E), from items (I + 1, E).

    n_j: training interactions with j, U: users. Ours; the weight is the inverse user frequency log(U / n_j) of Breese,
    Heckerman and Kadie (UAI 1998), with a 1 so that what everybody has still counts. Cosines ignore the length of p_u.
    They are made when they are asked for: those of all users would take more memory than all else.
    """

    def __init__(self, train: Histories, items: Floats) -> None:
        counts, norms = train.counts(len(items) - 1), np.linalg.norm(items, axis=1)
        weights = np.log1p(train.users / np.maximum(counts, 1)) / np.where(norms > 0, norms, 1.0)
        self.train, self.items, self.weights = train, torch.from_numpy(items), weights.astype(np.float32)
        self.shape = train.users + 1, items.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | IntArray) -> Floats:
        """(n, E) those of some users."""
        chosen = self.train.select(np.arange(len(self))[rows] if isinstance(rows, slice) else rows)
        found: Floats = F.embedding_bag(
            torch.from_numpy(chosen.items),
            self.items,
            torch.from_numpy(chosen.offsets[1:-1]),
            mode="sum",
            per_sample_weights=torch.from_numpy(self.weights[chosen.items]),
        ).numpy()
        return found
