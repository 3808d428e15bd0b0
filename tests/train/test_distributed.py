"""Several processes train as one does, which real ones show: torchrun, gloo, and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from longtail.data.histories import from_lists
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.losses import sampler
from longtail.nn.shares import share
from tests.conftest import catalogue, walks
from tests.sockets import LOOPBACK, listening
from tests.train.test_resume import end

ROOT = Path(__file__).parents[2]
TINY = {"d": 8, "max_len": 6, "dropout": 0.0}  # dropout is drawn by each process for itself
CASES: dict[str, tuple[str, str, str, dict[str, dict[str, object]]]] = {
    "softmax": ("plain", "sasrec", "planted", {"train": {"loss": "softmax"}}),
    "bce": ("plain", "sasrec", "planted", {}),
    "bce wide": ("plain", "sasrec", "wide", {"train": {"batch_size": 6}}),
    "shared wide": (
        "plain",
        "gru4rec",
        "wide",
        {"train": {"loss": "sampled_softmax", "negatives": 30, "average": 0.9}},
    ),
    "prefixes": ("plain", "sasrec", "planted", {"train": {"loss": "softmax", "rows": "prefixes"}}),
    "bert4rec": ("plain", "bert4rec", "planted", {"train": {"batch_size": 13}}),
    "exact": ("llmesr", "sasrec", "planted", {"neighbors": {"k": 3}}),
    "bank": ("llmesr", "sasrec", "wide", {"neighbors": {"k": 3}, "method": {"teacher": "bank"}}),
    "released": (
        "llmesr",
        "sasrec",
        "planted",
        {"neighbors": {"k": 3}, "method": {"drop_last": True, "fusion_causal": False, "students_below": 50}},
    ),
    "longtail": ("longtail", "sasrec", "planted", {"method": {"text_neighbors": 3, "order_neighbors": 3}}),
}
OTHERS = {  # whose own losses are over what a process draws, or over pairs within its share
    "melt": ("melt", "sasrec", "planted", {}),
    "cities": ("cities", "sasrec", "planted", {}),
    "rlmrec": ("rlmrec", "sasrec", "planted", {}),
}


def _jobs(folder: Path) -> Path:
    jobs = []
    for name, (method, backbone, data, given) in {**CASES, **OTHERS}.items():
        train = {"epochs": 2, "batch_size": 16, "lr": 0.003, "device": "cpu", **given.get("train", {})}
        settings = {**given, "train": train, "backbone": TINY}
        jobs.append(
            {"method": method, "backbone": backbone, "data": data, "settings": settings, "run": str(folder / name)}
        )
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs), encoding="utf-8")
    return path


def _environment(folder: Path) -> dict[str, str]:
    """Without what other tests may have set for processes."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def torchrun(folder: Path, processes: int, *arguments: str) -> subprocess.Popen[str]:
    """A group of processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, *arguments], cwd=folder, env=_environment(folder), stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case fitted by one process, by two and by three."""
    folder = tmp_path_factory.mktemp("runs")
    script, jobs = str(Path(__file__).with_name("processes.py")), _jobs(folder)
    subprocess.run([sys.executable, script, str(jobs)], env=_environment(folder), check=True, timeout=300)
    for processes in (2, 3):
        started = torchrun(folder, processes, script, str(jobs))
        _, talk = started.communicate(timeout=300)
        assert started.returncode == 0, talk
    return folder


def trained_alike(alone: Path, group: Path) -> None:
    """The losses, the validation and the weights of two runs are the same but for rounding."""
    (_, expected), (_, found) = end(alone), end(group)
    assert [line.keys() for line in expected] == [line.keys() for line in found]
    for one, other in zip(expected, found, strict=True):
        for key, value in one.items():
            tolerance = 0.02 if key == "ndcg@10" else 1e-4  # a tie that breaks otherwise moves a rank
            assert other[key] == pytest.approx(value, rel=tolerance), (one, other)
    weights, others = (load_file(run / "model.safetensors") for run in (alone, group))
    for name, weight in weights.items():
        # chosen among a few values; and no softmax over keys depends on their bias, whose gradient is rounding alone
        if name not in {"gamma", "dial"} and not name.endswith("key.bias"):
            # Adam divides by the root of squares: where a gradient is nearly 0, its last digits are a step's size
            gap = (weight - others[name]).abs().float()
            assert gap.mean() < 1e-4 and gap.max() < 0.02, (name, gap.max())


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_processes_train_as_one_does(runs: Path, case: str, processes: int) -> None:
    trained_alike(runs / f"{case}-1", runs / f"{case}-{processes}")


@pytest.mark.parametrize("case", OTHERS)
def test_methods_with_losses_of_their_own_train_too(runs: Path, case: str) -> None:
    for processes in (2, 3):
        (_, expected), (_, found) = end(runs / f"{case}-1"), end(runs / f"{case}-{processes}")
        assert len(found) == len(expected)
        for one, other in zip(expected, found, strict=True):
            assert all(other[key] == pytest.approx(value, rel=0.5, abs=0.05) for key, value in one.items())


def test_rows_are_sent_where_they_are_few_and_the_table_where_they_are_many(runs: Path) -> None:
    for processes in (2, 3):
        sent = {
            case: json.loads((runs / f"{case}-{processes}.0.json").read_text())["by rows"]
            for case in ("softmax", "bce", "bce wide")
        }
        assert sent["softmax"] == sent["bce"] == 0 < sent["bce wide"]


def test_no_user_is_counted_twice_and_all_processes_see_the_same_validation(runs: Path) -> None:
    for case in ("softmax", "longtail"):
        values = [
            json.loads((runs / f"{case}-{processes}.{rank}.json").read_text())["validation"]
            for processes in (1, 2, 3)
            for rank in range(processes)
        ]
        assert values[1] == values[2] and values[3] == values[4] == values[5]
        np.testing.assert_allclose(values[1:], [values[0]] * 5, rtol=0.02)


@pytest.mark.parametrize("kind", ["users", "shared", "drop_last", "masked", "prefixes"])
@pytest.mark.parametrize("size", [2, 3, 40])
def test_shares_are_the_batch(kind: str, size: int) -> None:
    histories = from_lists([[1 + (start + step) % 8 for step in range(1 + start % 5)] for start in range(30)])
    loss = "sampled_softmax" if kind == "shared" else "gbce"
    more = {"masked": {"masked": 0.4}, "drop_last": {"drop_last": True}, "prefixes": {"prefixes": True}}.get(kind, {})
    batches = TrainingBatches(histories, sampler(loss, histories, 30, 4), batch_size=20, max_len=4, **more)

    def told(batch: SequenceBatch) -> list[tuple[object, ...]]:
        """What is predicted: the items before it, the target and its negatives."""
        starts = (batch.sequences.layout.ends - batch.sequences.layout.lengths + 1).numpy()
        found = []
        for row, place in enumerate(batch.at.tolist()):
            which = np.searchsorted(starts, place, side="right") - 1
            stop = int(batch.sequences.layout.ends[which]) + 1
            sequence = tuple(batch.sequences.items[starts[which] : stop].tolist())
            own = batch.negatives.items[row] if batch.negatives.items.dim() == 2 else batch.negatives.items
            found.append((sequence, place - starts[which], int(batch.targets[row]), tuple(own.tolist())))
        return sorted(found)

    for batch in batches.epoch(np.random.default_rng(0)):
        parts = [share(batch, rank, size) for rank in range(min(size, len(batch.users)))]
        assert sorted(one for part in parts for one in told(part)) == told(batch)
        assert sorted(torch.cat([part.users for part in parts]).tolist()) == sorted(batch.users.tolist())
        if batch.whole is not None:
            assert sum(len(part.whole.items) for part in parts) == len(batch.whole.items)
        if batch.ends_only:
            assert all(torch.equal(part.at, part.sequences.layout.ends) for part in parts)
        assert len(share(batch, size + len(batch.users), size + len(batch.users) + 1).users) == 1


FIT = ["fit", "--data", "log.parquet", "--set", "data.items=items.parquet", "--method", "plain"]
FIT += ["--set", "backbone.d=8", "--set", "backbone.max_len=6", "--set", "train.batch_size=8", "--set", "train.lr=0.01"]
FIT += ["--set", "train.epochs=30", "--set", "train.patience=999", "--set", "train.device=cpu"]
FIT += ["--set", "train.checkpoint_minutes=0.001"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    walks(150).write_parquet(tmp_path / "log.parquet")
    catalogue().with_columns(title=pl.format("thing of kind {}", "item_id")).write_parquet(tmp_path / "items.parquet")
    return tmp_path


def workers(group: subprocess.Popen[str]) -> list[int]:
    """The processes of a group."""
    return [int(child) for child in Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()]


def begun(group: subprocess.Popen[str], run: Path, epochs: int) -> None:
    """Wait until so many epochs are done."""
    while not (run / "log.jsonl").exists() or len((run / "log.jsonl").read_text().splitlines()) < epochs:
        assert group.poll() is None, group.communicate()[1]
        time.sleep(0.01)


def killed_twice(folder: Path) -> str:
    """Lose the leader, which torchrun makes good for once, and then the other process; what the group said."""
    group = torchrun(folder, 2, "--max-restarts", "1", "-m", "longtail", *FIT, "--out", "cut")
    begun(group, folder / "cut", 1)
    ports = listening(workers(group))  # torchrun's own is not among them
    assert ports and ports <= LOOPBACK
    os.kill(workers(group)[0], signal.SIGKILL)
    while len(log := (folder / "cut" / "log.jsonl").read_text().splitlines()) < 2:
        time.sleep(0.01)
    before = set(workers(group))
    begun(group, folder / "cut", len(log) + 1)
    assert before == set(workers(group))
    os.kill(workers(group)[1], signal.SIGKILL)
    try:
        _, talk = group.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        group.terminate()
        raise
    assert group.returncode != 0
    return talk


def test_a_killed_process_ends_the_others_unless_torchrun_restarts_them_to_go_on(folder: Path) -> None:
    talk = killed_twice(folder)
    assert "lost another one" in talk or "interrupted" in talk
    assert "torchrun --nproc-per-node 2 -m longtail fit" in talk and "--resume" in talk
    epochs = [json.loads(line)["epoch"] for line in (folder / "cut" / "log.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, len(epochs) + 1)) and 3 <= len(epochs) < 30


@pytest.mark.slow
def test_a_group_that_lost_processes_ends_bit_for_bit_as_one_that_did_not(folder: Path) -> None:
    killed_twice(folder)
    for run, more in (("whole", []), ("cut", ["--resume"])):
        group = torchrun(folder, 2, "-m", "longtail", *FIT, "--out", run, *more)
        _, talk = group.communicate(timeout=300)
        assert group.returncode == 0, talk
    assert end(folder / "cut") == end(folder / "whole")


def test_what_is_left_of_a_group_ends_when_torchrun_is_killed_and_can_be_gone_on_with(folder: Path) -> None:
    group = torchrun(folder, 2, "-m", "longtail", *FIT, "--out", "cut")
    begun(group, folder / "cut", 1)
    left = workers(group)
    group.kill()
    _, talk = group.communicate(timeout=60)  # until nobody is left who could write
    until = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in left) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [process for process in left if Path(f"/proc/{process}").exists()]
    assert "go on with: torchrun" in talk
    assert len((folder / "cut" / "log.jsonl").read_text().splitlines()) < 30


def test_a_mistake_is_told_by_the_process_that_finds_it(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "model.safetensors").write_bytes(b"of another program")
    group = torchrun(folder, 2, "-m", "longtail", *FIT, "--out", "run")
    _, talk = group.communicate(timeout=100)
    assert group.returncode != 0 and "run already holds a run; pass resume=True (--resume)" in talk, talk
