"""Training by Ray Train: the main path in every worker, within the process group that Ray Train sets up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from longtail import pipeline
from longtail.cluster.connect import connect, workers_of
from longtail.config import build
from longtail.errors import ClusterError, LongtailError, RunError
from longtail.files import ENDING, locked
from longtail.pipeline import RunConfig
from longtail.run_folder import lock_of

FAILURES = 3  # how often the workers are started again; each time they go on from the run folder's checkpoint
STATE = ".ray"  # in the run folder, while it trains: what Ray Train notes of its workers


class Mail:
    """An actor that keeps the first of the errors that are the user's to mend, which no new start would."""

    def __init__(self) -> None:
        self.error: LongtailError | None = None

    def put(self, error: LongtailError) -> None:
        self.error = self.error or error

    def first(self) -> LongtailError | None:
        return self.error


def fit(config: RunConfig, out: Path, *, workers: int | None = None, resume: bool = False) -> None:
    """`pipeline.fit` on `workers` processes of a CPU or GPU each, one a CPU or GPU of the cluster if not given.

    Run folder, tables and what else the config names must be on a file system that all machines share, under the same
    paths. If a worker or a machine is lost, all are started again, FAILURES times at most, and go on from the run
    folder's checkpoint. A RunError if there is one already and it is not to be gone on with.
    """
    if not resume and any((out / name).exists() for name in ("checkpoint/last.safetensors", "model.safetensors")):
        raise RunError(f"{out} already holds a run; pass resume=True (--resume), or choose another folder")
    ray = connect()
    from ray.train import FailureConfig, ScalingConfig, TrainingFailedError
    from ray.train import RunConfig as RayRun
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from longtail.cluster.meeting import Meeting

    gpus = ray.cluster_resources().get("GPU", 0) > 0 and (config.train is None or config.train.device != "cpu")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mail = ray.remote(Mail).options(num_cpus=0, scheduling_strategy=here).remote()  # not lost with another machine
    told: dict[str, Any] = {
        "folder": str(Path.cwd()), "config": config.model_dump(mode="json"), "out": str(out.resolve()), "mail": mail,
    }  # fmt: skip
    state = out.resolve() / STATE
    with locked(lock_of(out), out, ENDING if resume else 0.0):
        shutil.rmtree(state, ignore_errors=True)  # of a run that was killed, which Ray Train would take up
    trainer = TorchTrainer(
        _train,
        train_loop_config=told,
        torch_config=Meeting(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers_of(ray, workers, gpus), use_gpu=gpus),
        run_config=RayRun(name="fit", storage_path=str(state), failure_config=FailureConfig(max_failures=FAILURES)),
    )
    try:
        trainer.fit()
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        known = ray.get(mail.first.remote())
        told_last = f"the training ended, after {FAILURES} new starts at most: {error}; go on from the last checkpoint"
        raise known or ClusterError(f"{told_last} with --resume") from error
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _train(told: dict[str, Any]) -> None:
    """What each worker does; all but the first of them only compute."""
    ray, mail = connect(), told["mail"]
    if (error := ray.get(mail.first.remote())) is not None:
        raise error
    os.chdir(told["folder"])
    try:
        pipeline.fit(build(RunConfig, told["config"]), Path(told["out"]), resume=True)
    except LongtailError as error:
        ray.get(mail.put.remote(error))
        raise
