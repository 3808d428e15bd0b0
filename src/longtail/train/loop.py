"""The training loop: epochs, validation, early stopping on NDCG@10, the best weights kept, checkpoints."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from torch import Tensor

from longtail.config import Config
from longtail.errors import ConfigError, RunError
from longtail.files import atomic
from longtail.methods.base import TrainedMethod
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import LossName, Proposal
from longtail.train import checkpoint, distributed
from longtail.train.checkpoint import Progress, Stored, Within
from longtail.train.engine import Ahead, Engine, Precision, pick_device, seeded
from longtail.train.tracking import TrackerName, Tracking

log = logging.getLogger(__name__)


class TrainConfig(Config):
    """How a method is trained; defaults as in LLM-ESR, sec. 4.1 and its released code."""

    loss: LossName = "bce"
    """Ranking loss: "bce" with sampled negatives as in the paper, "gbce" calibrated for many of them, "softmax" over
    the whole catalogue, or "sampled_softmax" over negatives that a step shares."""
    negatives: PositiveInt | None = None
    """Negatives a target (bce: 1 if not given; gbce: 256), or a step (sampled_softmax: 4096)."""
    proposal: Proposal = "popularity"
    """What sampled_softmax draws its negatives from."""
    correction: float = Field(default=1.0, ge=0, le=1)
    """Share of the logQ correction for that draw that sampled_softmax makes."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of softmax: the share of a target that all items have alike."""
    calibration: float = Field(default=0.75, ge=0, le=1)
    """gBCE's t: 0 is plain BCE, 1 undoes the overconfidence of sampling (gSASRec, sec. 4)."""
    lr: PositiveFloat = 1e-3
    """Adam's learning rate; no weight decay."""
    batch_size: PositiveInt = 128
    """Users a step."""
    rows: Literal["users", "prefixes"] = "users"
    """What a step is made of: users with all targets of each; or as many targets of any users, each after what came
    before it, which costs an encoding a target and needs fewer epochs (docs/speed.md)."""
    epochs: PositiveInt = 200
    """Epochs at most; of each stage, for a method that has several."""
    patience: PositiveInt = 20
    """Epochs without a better validation NDCG@10 (full ranking) before training stops."""
    validation_users: PositiveInt | None = None
    """Users, drawn by the seed, whose targets choose the epoch and what else validation chooses; all if not given."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of a running average of the weights, which is what is validated and kept; 0 keeps the weights."""
    precision: Precision = "float32"
    """Of the products of a step; "bfloat16" pays for softmax over a large catalogue and on GPUs (docs/speed.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; "auto" takes CUDA where there is one."""
    checkpoint_minutes: PositiveFloat = 10
    """Minutes of an epoch after which a checkpoint is written inside it, besides the one at its end."""
    track: tuple[TrackerName, ...] = ()
    """Who is told of each epoch besides log.jsonl: "tensorboard", "mlflow" (`pip install 'longtail[track]'`)."""

    @model_validator(mode="after")
    def _together(self) -> TrainConfig:
        if self.smoothing and self.loss != "softmax":
            raise ConfigError(f"train.smoothing = {self.smoothing:g}: only loss 'softmax' has it; leave it out, or 0")
        return self


class Place(NamedTuple):
    """Where a training writes, what it is, whether to go on from the checkpoint that is there, and who is told."""

    checkpoint: Path
    log: Path
    identity: str
    resume: bool
    tracking: Tracking | None = None


def train(
    method: TrainedMethod,
    batches: TrainingBatches,
    validate: Callable[[], float],
    config: TrainConfig,
    seed: int,
    place: Place | None = None,
) -> Progress:
    """Train `method` and leave it with its best weights, in evaluation mode.

    Every epoch draws from generators seeded by (seed, epoch) alone, and a checkpoint inside one has their states, so a
    run that was killed anywhere and resumed ends as it would have ended. `validate` gives NDCG@10 of the method, which
    is in evaluation mode then. A method of several stages is trained as often, each time from the best weights of the
    stage before; what is left is the best of the last stage.
    """
    engine = _engine(method, config)
    best, progress, begun = _begin(engine, place)
    told = (place and place.tracking) or Tracking({}, {})
    told.start(progress.epoch)
    with _bar() as bar:
        task = bar.add_task("training", total=None, loss="", best="")
        while not (over := _over(progress, config)) or progress.stage < method.stages:
            if over:
                engine, progress = _next_stage(method, best, progress, config)
            method.stage, method.epoch = progress.stage, progress.epoch + 1 - progress.began
            epoch, keeper = progress.epoch + 1, _Keeper(place, engine, progress, config.checkpoint_minutes)
            bar.reset(task, total=len(batches), description=f"epoch {epoch}")
            begun = begun if begun is not None and begun.progress == progress else None
            losses = _epoch(
                engine, batches, seed, keeper, begun, lambda n, text: bar.update(task, completed=n, loss=text)
            )
            trained, begun = keeper.seconds(), None
            with engine.averaged():
                method.eval()
                value = validate()
                if value > progress.best:
                    best, progress = checkpoint.snapshot(method), progress._replace(best_epoch=epoch, best=value)
            progress = progress._replace(epoch=epoch)
            bar.update(task, best=f"NDCG@10 {value:.4f}, best {progress.best:.4f} at {progress.best_epoch}")
            line = {"epoch": epoch, **losses, "ndcg@10": value, "train_s": trained, **_stages_left(method)}
            line["seconds"] = keeper.seconds()
            _record(place, engine, best, progress, line)
            told.epoch(line)
    told.end({"best_epoch": progress.best_epoch, "best_ndcg@10": progress.best})
    method.load_state_dict(best)
    method.eval()
    return progress


def _engine(method: TrainedMethod, config: TrainConfig) -> Engine:
    return Engine(method, pick_device(config.device), config.lr, config.precision, config.average)


def _begin(engine: Engine, place: Place | None) -> tuple[dict[str, Tensor], Progress, Stored | None]:
    """The best weights, how far it has come: nowhere, or to the checkpoint if it is to go on from there; and the
    checkpoint from inside the epoch after that, if there is one. All processes read what the leader finds."""
    goes_on = distributed.agreed(bool(place and place.resume and place.checkpoint.exists()))
    if place is None or not goes_on:
        best, progress = checkpoint.snapshot(engine.method), Progress(0, 0, -1.0)
        if place and distributed.leads():
            _inside(place).unlink(missing_ok=True)
            checkpoint.save(place.checkpoint, engine, best, progress, place.identity)
        return best, progress, None
    if not place.checkpoint.exists():
        raise RunError(f"{place.checkpoint} is where the first process is alone; let all write to one file system")
    stored = checkpoint.read(place.checkpoint, place.identity)
    checkpoint.restore(engine, stored)
    more = distributed.agreed(_inside(place).exists())
    begun = checkpoint.read(_inside(place), place.identity) if more else None
    log.info("resuming after epoch %d (best NDCG@10 %.4f)", stored.progress.epoch, stored.progress.best)
    return stored.best, stored.progress, begun


def _inside(place: Place) -> Path:
    """The checkpoint from inside an epoch; its progress is that of the epoch's beginning."""
    return place.checkpoint.with_name("within.safetensors")


def _over(progress: Progress, config: TrainConfig) -> bool:
    """Whether a stage is out of epochs or of patience."""
    stale = progress.epoch - progress.best_epoch
    return progress.epoch - progress.began >= config.epochs or stale >= config.patience


def _stages_left(method: TrainedMethod) -> dict[str, int]:
    """For the log of a method of several stages, of which only the last says how good it is."""
    return {"stages_left": method.stages - method.stage} if method.stages > 1 else {}


def _next_stage(
    method: TrainedMethod, best: dict[str, Tensor], progress: Progress, config: TrainConfig
) -> tuple[Engine, Progress]:
    """Begin the next stage from the best weights of this one, with a fresh optimiser and nothing that is best yet.

    It follows from the checkpoint of the epoch before, so a run that was cut here goes on as it would have.
    """
    method.load_state_dict(best)
    method.stage = progress.stage + 1
    method.start_stage()
    log.info("stage %d of %d after epoch %d", method.stage, method.stages, progress.epoch)
    return _engine(method, config), Progress(progress.epoch, progress.epoch, -1.0, method.stage, progress.epoch)


class _Keeper:
    """Inside an epoch, writes now and then what a resumed training goes on from."""

    def __init__(self, place: Place | None, engine: Engine, progress: Progress, minutes: float) -> None:
        self.place, self.engine, self.progress, self.minutes = place, engine, progress, minutes
        self.started = self.kept = time.perf_counter()

    def seconds(self) -> float:
        """Since the epoch began, without the time between a kill and the resumption."""
        return time.perf_counter() - self.started

    def goes_on(self, stored: Stored) -> Within:
        """Put back all that the epoch's steps had changed."""
        assert stored.within is not None
        checkpoint.restore(self.engine, stored)
        if (rank := distributed.rank()) < len(stored.within.planned):
            self.engine.set_random({kind: states[rank].clone() for kind, states in stored.within.random.items()})
            self.engine.method.draws.bit_generator.state = stored.within.planned[rank]
        self.started -= stored.within.seconds
        log.info("resuming after step %d of epoch %d", stored.within.steps, stored.progress.epoch + 1)
        return stored.within

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.place is not None and time.perf_counter() - self.kept >= 60 * self.minutes

    def keep(self, steps: int, ahead: Ahead, totals: dict[str, Tensor]) -> None:
        """So many steps are done, of which `ahead` was the last: the leader writes a checkpoint."""
        each, (drawn, planned) = distributed.of_each, ahead.drawn
        totals = {name: torch.stack(each(total.cpu())) for name, total in totals.items()}
        every = [json.loads(text) for text in distributed.texts_of_each(json.dumps(planned))]
        random = {kind: torch.stack(each(state)) for kind, state in self.engine.random().items()}
        within = Within(steps, self.seconds(), drawn, totals, every, random)
        if self.place is not None and distributed.leads():
            checkpoint.save(_inside(self.place), self.engine, {}, self.progress, self.place.identity, within)
        self.kept = time.perf_counter()


def _epoch(
    engine: Engine,
    batches: TrainingBatches,
    seed: int,
    keeper: _Keeper,
    begun: Stored | None,
    show: Callable[[int, str], None],
) -> dict[str, float]:
    """One pass over the users, or the rest of one that was `begun`; the mean of each named loss.

    The losses are read from the device now and then only.
    """
    totals: dict[str, Tensor] = {}
    with seeded(seed, keeper.progress.epoch + 1, process=distributed.rank()) as generator:
        engine.method.train()
        engine.method.start_epoch()
        done, state = 0, None
        if begun is not None:
            within = keeper.goes_on(begun)
            done, state = within.steps, within.drawn
            own = len(within.planned) == distributed.size()  # else it goes on with more processes, or fewer
            totals = {name: total[distributed.rank()] if own else total.mean() for name, total in within.totals.items()}
            totals = {name: total.to(engine.device) for name, total in totals.items()}
        stream = engine.steps(batches.epoch(generator, done, state), generator)
        for step, ahead in enumerate(stream, start=done + 1):
            shares = engine.shares(ahead, keeper.due())
            for name, value in engine.step(ahead, shares).items():
                totals[name] = totals[name] + value if name in totals else value
            often = step % 20 == 0 or step == len(batches)
            show(step, " ".join(f"{name} {float(total) / step:.4f}" for name, total in totals.items()) if often else "")
            if shares.due:
                keeper.keep(step, ahead, totals)
    return {name: float(total) / len(batches) for name, total in distributed.averaged(totals).items()}


def _record(
    place: Place | None, engine: Engine, best: dict[str, Tensor], progress: Progress, line: dict[str, float]
) -> None:
    """Append the epoch to the log and replace the checkpoint."""
    log.debug("epoch %s", line)
    if place is None or not distributed.leads():
        return
    known = place.log.read_text(encoding="utf-8").splitlines() if place.log.exists() else []
    kept = known[: progress.epoch - 1]  # a line an epoch; a repeated epoch replaces its line
    with atomic(place.log) as temporary:
        temporary.write_text("\n".join([*kept, json.dumps(line)]) + "\n", encoding="utf-8")
    checkpoint.save(place.checkpoint, engine, best, progress, place.identity)
    _inside(place).unlink(missing_ok=True)


def _bar() -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    more = (TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[best]}"))
    return Bar(*columns, *more, console=Console(stderr=True), transient=True, disable=not distributed.leads())
