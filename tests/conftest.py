"""A planted data set that any sequential model can learn, and vectors for it."""

from __future__ import annotations

import os
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other stand still on a busy machine

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from longtail.data.dataset import Dataset
from longtail.data.split import Split
from longtail.text.embeddings import Embeddings, Provenance

hypothesis_settings.register_profile("longtail", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("longtail")


class Planted(NamedTuple):
    """A checkerboard: items in two circles of ten, each user walks along one of them."""

    data: Dataset
    split: Split
    items: Embeddings
    users: Embeddings


def vectors(ids: pl.Series, width: int, seed: int) -> Embeddings:
    """Random unit vectors, one an id."""
    rows = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Embeddings(rows, ids, Provenance("test", "test"), np.ones(len(ids), bool))


def walks(users: int = 90, seed: int = 0) -> pl.DataFrame:
    """Interactions of users who walk 4 to 8 steps along the circle of even or of odd items."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        start, parity = int(generator.integers(10)), user % 2
        steps = 4 + int(generator.integers(5))
        rows += [(f"u{user:03d}", f"i{2 * ((start + step) % 10) + parity:02d}", step) for step in range(steps)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def catalogue() -> pl.DataFrame:
    """A title for each of the twenty items."""
    return pl.DataFrame({"item_id": [f"i{item:02d}" for item in range(20)], "title": [f"Thing {i}" for i in range(20)]})


def plant(interactions: pl.DataFrame | None = None, prefix: str = "") -> Planted:
    """The planted data, or the given interactions, whose item ids have that prefix, with random vectors."""
    items = catalogue().with_columns(pl.format(prefix + "{}", "item_id").alias("item_id"))
    data = Dataset.read(walks() if interactions is None else interactions, items, name="planted")
    return Planted(data, data.leave_one_out(), vectors(data.items.ids, 12, 1), vectors(data.users.ids, 12, 2))


@pytest.fixture(scope="session")
def planted() -> Planted:
    """The planted data set."""
    return plant()
