"""TensorBoard and MLflow are told what log.jsonl says, and can neither stop a training nor reach the network."""

from __future__ import annotations

import builtins
import json
import logging
import socket
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import longtail as lt
from longtail.train import tracking
from tests.conftest import Planted

SETTINGS = {
    "backbone": {"d": 8, "max_len": 8},
    "train": {"epochs": 3, "batch_size": 32, "device": "cpu", "track": ["tensorboard", "mlflow"]},
}


def _fit(planted: Planted, run: Path, *, resume: bool = False, **train: object) -> lt.Recommender:
    settings = {**SETTINGS, "train": {**SETTINGS["train"], **train}}
    return lt.Recommender("plain", "sasrec", settings).fit(planted.split, run=run, resume=resume)


def _log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _scalars(run: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def _metric(run: Path, name: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run / "mlflow").as_uri())
    (one,) = client.search_runs([client.get_experiment_by_name("longtail").experiment_id])
    assert one.data.params["train.batch_size"] == "32" and one.info.status == "FINISHED"
    return sorted((point.step, point.value) for point in client.get_metric_history(one.info.run_id, name))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """No connection can be made; those that were tried."""
    tried: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tried


def test_both_are_told_every_epoch_also_of_a_training_that_goes_on(
    planted: Planted, tmp_path: Path, offline: list[object]
) -> None:
    run = tmp_path / "run"
    _fit(planted, run, epochs=2)
    _fit(planted, run, epochs=4, resume=True)
    rows = _log(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for name in ("rank", "ndcg@10"):
        said = [(int(row["epoch"]), pytest.approx(row[name], rel=1e-6)) for row in rows]
        assert _scalars(run, name) == said
        assert _metric(run, name.replace("@", "_at_")) == said
    best = max(row["ndcg@10"] for row in rows)
    assert _scalars(run, "best_ndcg@10")[-1][1] == pytest.approx(best, rel=1e-6)
    assert offline == []


def test_who_is_told_is_no_part_of_what_a_run_is(planted: Planted, tmp_path: Path) -> None:
    told = _fit(planted, tmp_path / "run", track=["tensorboard"])
    untold = _fit(planted, tmp_path / "other", track=[])
    assert told.recommend(users=["u001"]).equals(untold.recommend(users=["u001"]))
    _fit(planted, tmp_path / "run", track=[], epochs=4, resume=True)  # goes on, and is not of another config
    assert len(_log(tmp_path / "run")) == 4


class Broken:
    """A tracker that fails at the second epoch."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def start(self, config: object, done: int) -> None:
        """Nothing."""

    def epoch(self, row: dict[str, float]) -> None:
        """Fail at the second."""
        self.rows.append(row["epoch"])
        if row["epoch"] == 2:
            raise ConnectionError("the server is gone")

    def end(self, figures: object) -> None:
        """Nothing."""
        raise AssertionError("it was told after it had failed")


def test_a_tracker_that_fails_is_warned_of_once_and_training_goes_on(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", lambda folder: broken)
    with caplog.at_level(logging.WARNING):
        _fit(planted, tmp_path / "run")
    assert broken.rows == [1, 2] and len(_log(tmp_path / "run")) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "mlflow failed (the server is gone); training goes on without it"
    ]
    assert [step for step, _ in _scalars(tmp_path / "run", "rank")] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_is_told_before_training(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.split(".", maxsplit=1)[0] == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(lt.ConfigError, match=r"'mlflow' needs mlflow; run pip install 'longtail\[track\]'"):
        _fit(planted, tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_tracking_needs_a_run_folder(planted: Planted) -> None:
    with pytest.raises(lt.ConfigError, match="needs a run folder"):
        lt.Recommender("plain", "sasrec", SETTINGS).fit(planted.split)
