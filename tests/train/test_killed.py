"""A fit that is killed with SIGKILL, and gone on with, ends bit for bit as one that is not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import catalogue, walks
from tests.train.test_resume import end

FIT = ["--method", "llmesr", "--set", "method.teacher=bank", "--set", "neighbors.k=3", "--set", "text.model=lexical:6"]
FIT += ["--set", "backbone.d=8", "--set", "backbone.max_len=6", "--set", "train.batch_size=8", "--set", "train.lr=0.01"]
FIT += ["--set", "train.patience=999", "--set", "train.device=cpu", "--set", "train.checkpoint_minutes=0.0002"]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_fit_that_is_killed_at_random_moments_ends_as_one_that_is_not(kills: int, tmp_path: Path) -> None:
    walks(150).write_parquet(tmp_path / "log.parquet")
    catalogue().with_columns(title=pl.format("thing of kind {}", "item_id")).write_parquet(tmp_path / "items.parquet")
    given = [
        "fit",
        "--data",
        "log.parquet",
        "--set",
        "data.items=items.parquet",
        *FIT,
        "--set",
        f"train.epochs={4 * kills}",
    ]
    script, chance, cut = str(Path(__file__).with_name("forked.py")), random.Random(kills), tmp_path / "cut"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, env=environment, **pipes) as starter:
        assert starter.stdin and starter.stdout

        def start(*arguments: str) -> int:
            starter.stdin.write(json.dumps([*given, *arguments]) + "\n")
            starter.stdin.flush()
            return int(starter.stdout.readline())

        start("--out", "whole")
        assert int(starter.stdout.readline()) == 0
        for kill in range(kills):
            before = _state(cut)
            child = start("--out", "cut", *(["--resume"] if kill else []))
            while _state(cut) == before:
                time.sleep(0.001)
            time.sleep(0.4 * chance.random())
            os.kill(child, signal.SIGKILL)
            assert int(starter.stdout.readline()) != 0, "it ended before it could be killed; give it more epochs"
        start("--out", "cut", "--resume")
        assert int(starter.stdout.readline()) == 0
    assert end(cut) == end(tmp_path / "whole")


def _state(run: Path) -> list[tuple[str, int]]:
    """What changes as soon as the process trains."""
    return [(path.name, path.stat().st_mtime_ns) for path in sorted(run.glob("checkpoint/*.safetensors"))]
