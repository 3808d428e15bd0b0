"""What a runner is told and what it answers. Runs in every interpreter of the comparison: standard library and torch.

A runner is called `run_NAME.py FOLDER`. It reads FOLDER/task.json and the interactions named there (user, item,
timestamp, part: 0 train, 1 valid, 2 test), trains on part 0, and writes FOLDER/valid.parquet and FOLDER/test.parquet
(user, rank from 1, item: ten unseen items a user) and FOLDER/answer.json.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

K = 10


class Task(NamedTuple):
    """What every system is told."""

    folder: str
    interactions: str
    loss: str
    """"softmax" over the catalogue, or "bce" with one uniform negative a target."""
    epochs: int
    batch_size: int
    """Rows a step: users, or with RecBole targets, each with what came before it."""
    rows: str
    """What longtail makes rows of: "users", or "prefixes", as RecBole always does."""
    seed: int
    lr: float
    d: int
    max_len: int
    blocks: int
    heads: int
    dropout: float
    threads: int

    def answer(self, epoch_seconds: Sequence[float], versions: dict[str, str], settings: dict[str, object]) -> None:
        """Write what was measured: training seconds of each epoch, with what and how."""
        versions = {
            **versions,
            **{name: version(name) for name in ("torch", "numpy")},
            "python": platform.python_version(),
        }
        told = {"epoch_seconds": list(epoch_seconds), "versions": versions, "settings": settings}
        (Path(self.folder) / "answer.json").write_text(json.dumps(told), encoding="utf-8")


def task() -> Task:
    """The task of the folder on the command line; torch is held to its number of threads."""
    told = Task(**json.loads((Path(sys.argv[1]) / "task.json").read_text(encoding="utf-8")))
    torch.set_num_threads(told.threads)
    return told
