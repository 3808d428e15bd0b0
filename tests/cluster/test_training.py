"""Training by Ray Train: two workers train as one process does, and one of them may be killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import longtail as lt
from longtail import pipeline
from longtail.cluster import training
from longtail.errors import EmbeddingError, RunError
from longtail.pipeline import RunConfig, run_config
from tests.cluster.conftest import MARK
from tests.conftest import Planted
from tests.sockets import LOOPBACK, listening
from tests.train.test_distributed import trained_alike

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own warnings
slow = pytest.mark.slow  # minutes on a busy machine
EPOCHS = 12
SETTINGS = ["backbone.d=8", "backbone.max_len=6", "train.batch_size=16", "train.device=cpu", f"train.epochs={EPOCHS}"]
LLMESR = ["method.name=llmesr", "neighbors.k=3", "text.model=lexical:2", "train.epochs=3", "backbone.dropout=0"]
METHODS = {
    "plain": ["method.name=plain", "train.epochs=3", "backbone.dropout=0"],
    "exact": LLMESR,
    "bank": [*LLMESR, "method.teacher=bank"],
}
linux = pytest.mark.skipif(not Path("/proc").exists(), reason="finds workers in Linux's /proc")


def configured(folder: Path, *more: str) -> RunConfig:
    return run_config(None, [f"data.interactions={folder}", *SETTINGS, *(more or ["method.name=plain"])])


def workers() -> list[int]:
    """The processes of this test's cluster that train."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            trains = b"RayTrainWorker" in (place / "cmdline").read_bytes()
            if trains and f"{MARK}={os.getpid()}".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def epochs(run: Path) -> list[int]:
    log = run / "log.jsonl"
    return [json.loads(line)["epoch"] for line in log.read_text().splitlines()] if log.exists() else []


@linux
@pytest.mark.parametrize("method", ["plain", *(pytest.param(name, marks=slow) for name in ("exact", "bank"))])
def test_two_workers_train_as_one_process_and_meet_on_the_loopback(
    method: str, planted: Planted, cluster: object, tmp_path: Path
) -> None:
    planted.data.save(tmp_path / "data")
    config, found = configured(tmp_path / "data", *METHODS[method]), set[str]()
    pipeline.fit(config, tmp_path / "alone")

    def look() -> None:
        while not epochs(tmp_path / "group"):
            time.sleep(0.02)
        found.update(listening(workers()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    training.fit(config, tmp_path / "group", workers=2)
    thread.join(5)
    trained_alike(tmp_path / "alone", tmp_path / "group")
    assert found and found <= LOOPBACK


@slow
@linux
def test_a_killed_worker_changes_nothing(planted: Planted, cluster: object, tmp_path: Path) -> None:
    planted.data.save(tmp_path / "data")
    config, killed = configured(tmp_path / "data"), []

    def kill() -> None:
        while len(epochs(tmp_path / "killed")) < 2:
            time.sleep(0.05)
        killed.extend(workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    training.fit(config, tmp_path / "killed", workers=2)
    thread.join(5)
    assert killed, "it ended before it could be killed; give it more epochs"
    training.fit(config, tmp_path / "alone", workers=2)
    assert epochs(tmp_path / "killed") == epochs(tmp_path / "alone") == list(range(1, EPOCHS + 1))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "alone"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert len(lt.load(tmp_path / "killed").recommend(users=["u000"], k=3)) == 3
    with pytest.raises(RunError, match="already holds a run"):
        training.fit(config, tmp_path / "killed", workers=2)


@slow
def test_an_error_of_the_users_comes_back_as_it_was(planted: Planted, cluster: object, tmp_path: Path) -> None:
    planted.data.save(tmp_path / "data")
    config = configured(tmp_path / "data", "method.name=llminit", "text.model=st:no/such-model-anywhere")
    with pytest.raises(EmbeddingError, match="no/such-model-anywhere"):
        training.fit(config, tmp_path / "run", workers=2)
