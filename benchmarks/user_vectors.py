"""User vectors of prompts and pooled ones: the similar users they share, and what LLM-ESR makes of each.

The data are Amazon Beauty if `shared/data` lies beside the project or `--data` says where its tables are, else the
bundled set. `--epochs N` trains LLM-ESR on SASRec (teacher = "bank", seed 42) with each way, and states NDCG@10 on
validation; without it nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

import measure
from longtail import pipeline, texts
from longtail.config import build
from longtail.model import ModelConfig
from longtail.recommender import Recommender
from longtail.text.pooled import pool_users
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
SAMPLE = 2000  # users whose neighbors are compared
SHORT = 3  # training items that make a short history
DECAYS = {"mean": 1.0, "decay .5": 0.5}

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def nearest(vectors: Floats, users: Ints) -> Ints:
    """(n, 10) the users nearest by cosine to each of `users` (n,), whose vectors (U + 1, E) must not be zero."""
    norms = np.linalg.norm(vectors, axis=1)
    units = vectors / np.where(norms > 0, norms, 1)[:, None]
    cosines = units[users] @ units.T
    cosines[:, norms == 0] = -2
    cosines[np.arange(len(users)), users] = -2
    return np.argpartition(-cosines, 10, axis=1)[:, :10]


def overlap(one: Ints, other: Ints) -> float:
    """The mean share of neighbors (n, 10) that both have."""
    return float((one[:, :, None] == other[:, None, :]).any(2).mean())


def main() -> None:
    """Compare pooled vectors with those of prompts, and train with each if that is asked for."""
    arguments = measure.parser(__doc__)
    arguments.add_argument("--epochs", type=int, default=0, help="epochs of each training")
    arguments.add_argument("--data", type=Path, default=BEAUTY, help="folder of interactions.parquet and items.parquet")
    given = arguments.parse_args()
    real = given.data.is_dir() and not given.quick
    tables = {name: str(given.data / f"{name}.parquet") for name in ("interactions", "items")}
    config = pipeline.DataConfig.model_validate(tables if real else {"interactions": "bundled:online_retail"})
    data = pipeline.open_data(config)
    split = data.leave_one_out()
    items, prompted = texts.embed(data, split, texts.TextConfig())
    assert prompted is not None
    ways = {way: pool_users(split.train, items, data.items, data.users, decay) for way, decay in DECAYS.items()}
    vectors = {way: users.matrix(data.users) for way, users in {"prompts": prompted, **ways}.items()}
    speaks = np.flatnonzero(np.logical_and.reduce([found.any(1) for found in vectors.values()]))
    asked = np.sort(np.random.default_rng(0).choice(speaks, min(SAMPLE, len(speaks)), replace=False))
    near = {way: nearest(found, asked) for way, found in vectors.items()}
    short = split.train.lengths[asked] <= SHORT
    groups = {"all": short | ~short, f"at most {SHORT} training items": short, "more": ~short}
    claims = [
        Claim(f"overlap@10 of {way} and prompts, {group}", overlap(near["prompts"][who], near[way][who]), "")
        for way in ways
        for group, who in groups.items()
    ]
    for way, users in {"prompts": prompted, **ways}.items() if given.epochs else ():
        train = {"epochs": given.epochs, "patience": given.epochs}
        settings = {"method": {"name": "llmesr", "teacher": "bank"}, "train": train}
        model = Recommender.of(build(ModelConfig, settings)).fit(split, items=items, users=users)
        claims.append(Claim(f"validation NDCG@10 after {given.epochs} epochs, {way}", model.validate().overall, ""))
    details = {"data": data.name, "users": len(data.users), "compared": len(asked)}
    measure.finish("user_vectors", claims, details, quick=given.quick)


if __name__ == "__main__":
    sys.exit(main())
