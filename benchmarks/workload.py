"""Data and methods to train in a benchmark: Amazon Beauty's histories, or synthetic ones, and random LLM vectors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

import longtail as lt
import measure
from longtail.config import Value, build
from longtail.data.histories import Histories, offsets_of
from longtail.methods.base import Knowledge, Sizes, TrainedMethod
from longtail.model import ModelConfig, build_method
from longtail.nn.batch import TrainingBatches
from longtail.nn.items import FloatArray
from longtail.nn.losses import sampler
from longtail.train.engine import Engine, seeded

BEAUTY = measure.SHARED / "amazon_beauty_2014"
USERS, ITEMS, MEAN_LENGTH = 22_363, 12_101, 7  # of Beauty's training histories


class Workload(NamedTuple):
    """Training histories of users over so many items, and where they come from."""

    train: Histories
    items: int
    source: str


class Settings(NamedTuple):
    """What is trained: LLM-ESR on SASRec as in the paper, unless told otherwise."""

    method: str = "llmesr"
    teacher: str = "exact"
    loss: str = "bce"
    E: int = 1536
    d: int = 64
    M: int = 10
    max_len: int = 200
    batch_size: int = 128
    negatives: int | None = None
    precision: str = "float32"

    def config(self) -> ModelConfig:
        """As the library's config."""
        method: dict[str, Value] = {"name": self.method}
        if self.method == "llmesr":
            method["teacher"] = self.teacher
        train: dict[str, Value] = {"loss": self.loss, "batch_size": self.batch_size, "precision": self.precision}
        backbone: dict[str, Value] = {"name": "sasrec", "d": self.d, "max_len": self.max_len}
        return build(ModelConfig, {"method": method, "backbone": backbone, "train": train})


def beauty() -> Workload:
    """Amazon Beauty's training histories where the data lies beside the project, else synthetic ones of that size."""
    if not BEAUTY.is_dir():
        return synthetic(USERS, ITEMS)
    split = lt.Dataset.read(BEAUTY / "interactions.parquet", items=BEAUTY / "items.parquet").leave_one_out()
    return Workload(split.train, split.items, "Amazon Beauty 2014 5-core, leave-one-out, training part")


def synthetic(users: int, items: int, mean_length: int = MEAN_LENGTH) -> Workload:
    """Histories of geometric length, at least 3, over items of which a few are far more popular than the rest."""
    generator = np.random.default_rng(0)
    lengths = 2 + generator.geometric(1 / (mean_length - 2), users)
    bought = 1 + (items * generator.random(lengths.sum()) ** 2).astype(np.int64)
    return Workload(Histories(bought, offsets_of(lengths)), items, f"synthetic: {users:,} users, {items:,} items")


def random_vectors(items: int, E: int) -> FloatArray:
    """(I + 1, E) LLM vectors of about unit length, row 0 zero."""
    vectors = np.random.default_rng(0).standard_normal((items + 1, E), dtype=np.float32) / np.float32(E**0.5)
    vectors[0] = 0
    return vectors


def prepared(
    work: Workload, settings: Settings, vectors: FloatArray | None = None
) -> tuple[TrainedMethod, TrainingBatches]:
    """The method, ready to train, with random LLM vectors and neighbors, and its batches."""
    users = work.train.users
    neighbors = np.random.default_rng(1).integers(1, users + 1, (users + 1, settings.M))
    neighbors[0] = 0
    embeddings = random_vectors(work.items, settings.E) if vectors is None else vectors
    config = settings.config()
    max_len = min(settings.max_len, int(work.train.lengths.max()) - 1)
    with seeded(0):
        method = build_method(config, Sizes(work.items, settings.E, settings.d, max_len))
        method.prepare(work.train, Knowledge(embeddings, neighbors))
    drawn = sampler(config.train.loss, work.train, work.items, settings.negatives)
    return method, TrainingBatches(work.train, drawn, batch_size=settings.batch_size, max_len=max_len)


def engine(method: TrainedMethod, settings: Settings) -> Engine:
    """On the GPU where there is one, as `longtail fit` would."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Engine(method, device, 1e-3, settings.config().train.precision)
