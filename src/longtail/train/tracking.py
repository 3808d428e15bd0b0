"""Who is told of a training besides log.jsonl: TensorBoard and MLflow, behind one small protocol."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from longtail.config import Value, flat
from longtail.errors import ConfigError
from longtail.files import read_json, write_json

log = logging.getLogger(__name__)
TrackerName = Literal["tensorboard", "mlflow"]


class Tracker(Protocol):
    """What is told of a training: the config, each epoch, the end."""

    def start(self, config: Mapping[str, Value], done: int) -> None:
        """It begins, or goes on after `done` epochs."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch has ended: its row of log.jsonl."""

    def end(self, figures: Mapping[str, float]) -> None:
        """It has ended, with its best validation NDCG@10 and the epoch of that."""


class Tracking:
    """The trackers of one training. One that fails is warned of once, and told no more: training goes on."""

    def __init__(self, config: Mapping[str, Value], trackers: Mapping[str, Tracker]) -> None:
        self.config, self.trackers = config, dict(trackers)

    def start(self, done: int) -> None:
        """Tell that it begins, or goes on after `done` epochs."""
        self._tell(lambda tracker: tracker.start(self.config, done))

    def epoch(self, row: Mapping[str, float]) -> None:
        """Tell of an epoch."""
        self._tell(lambda tracker: tracker.epoch(row))

    def end(self, figures: Mapping[str, float]) -> None:
        """Tell of the end."""
        self._tell(lambda tracker: tracker.end(figures))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # whatever their servers, disks and versions come up with
                log.warning("%s failed (%s); training goes on without it", name, error)
                del self.trackers[name]


def tracking(names: Iterable[TrackerName], run: Path, config: Mapping[str, Value]) -> Tracking:
    """The trackers of these names for a run folder; a ConfigError says what to install for one."""
    made: dict[str, Tracker] = {}
    for name in names:
        try:
            made[name] = TRACKERS[name](run / name)
        except ImportError as error:
            raise ConfigError(
                f"train.track = {name!r} needs {error.name}; run pip install 'longtail[track]', or leave it out"
            ) from None
    return Tracking(config, made)


class TensorBoard:
    """Event files under the run folder; see them with `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.open = folder, SummaryWriter

    def start(self, config: Mapping[str, Value], done: int) -> None:
        """The config as a text. What a killed process told of later epochs is hidden, as they are told again."""
        self.writer = self.open(str(self.folder), purge_step=done + 1 if done else None)
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")
        self.writer.flush()

    def epoch(self, row: Mapping[str, float]) -> None:
        """A point a column of the row."""
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, int(row["epoch"]))
        self.writer.flush()

    def end(self, figures: Mapping[str, float]) -> None:
        """The figures as points of their own."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, 0)
        self.writer.close()


class MLflow:
    """A run in the store that MLFLOW_TRACKING_URI names, or else in files under the run folder, without network.

    See the latter with `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri RUN/mlflow`.
    """

    def __init__(self, folder: Path) -> None:
        # MLflow reports its use to its makers, and asks for a database, unless told otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from mlflow.tracking import MlflowClient

        self.folder = folder
        ours = None if mlflow.is_tracking_uri_set() else folder.resolve().as_uri()  # type: ignore[no-untyped-call]
        self.connect = partial(MlflowClient, tracking_uri=ours)

    def start(self, config: Mapping[str, Value], done: int) -> None:
        """A new run with the config as parameters, or the run that a training which goes on had."""
        self.client, kept = self.connect(), self.folder.with_name("mlflow.json")
        stored = read_json(kept) if done and kept.exists() else None
        if isinstance(stored, dict):
            self.run = str(stored["run_id"])
            return
        found = self.client.get_experiment_by_name("longtail")
        experiment = found.experiment_id if found else self.client.create_experiment("longtail")
        self.run = self.client.create_run(experiment, run_name=self.folder.parent.name).info.run_id
        for key, value in flat(config).items():
            self.client.log_param(self.run, key, value)
        write_json(kept, {"run_id": self.run})

    def epoch(self, row: Mapping[str, float]) -> None:
        """A metric a column of the row; MLflow's names have no '@'."""
        for name, value in row.items():
            if name != "epoch":
                self.client.log_metric(self.run, _plain(name), value, step=int(row["epoch"]))

    def end(self, figures: Mapping[str, float]) -> None:
        """The figures, and that the run has finished."""
        for name, value in figures.items():
            self.client.log_metric(self.run, _plain(name), value)
        self.client.set_terminated(self.run)


TRACKERS: dict[TrackerName, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def _plain(name: str) -> str:
    return name.replace("@", "_at_")
