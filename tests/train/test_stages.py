"""Methods of several stages: each stops on its own, begins from the best of the one before, and resumes exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from longtail.data.histories import from_lists
from longtail.evaluation.drawn import training
from longtail.evaluation.stored import Case, Stored
from longtail.experiment import epochs_of
from longtail.methods.base import Knowledge, Sizes, TrainedMethod
from longtail.methods.cities import CITIES, CITIESConfig
from longtail.methods.melt import MELT, MELTConfig
from longtail.methods.plain import Plain, PlainConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import rank_loss, sampler
from longtail.pipeline import run_config
from longtail.train.checkpoint import Progress
from longtail.train.engine import Engine, seeded
from longtail.train.loop import Place, TrainConfig, train
from longtail.watch import curve, log_rows

LISTS = [[1 + (start + step) % 8 for step in range(3 + start % 4)] for start in range(30)] + [[9, 1, 2], [10, 3, 4]]
HISTORIES = from_lists(LISTS)
CONFIG = TrainConfig(batch_size=8, epochs=3, patience=2, lr=1e-2, device="cpu")


class Staged(Plain):
    """Plain in three stages, keeping account of them."""

    stages = 3

    def __init__(self) -> None:
        with seeded(7, 0):
            super().__init__(PlainConfig(), _backbone(), rank_loss("bce", 10), Sizes(10, 0, 8, 6))
        self.begun: list[tuple[int, list[float]]] = []
        self.seen: list[tuple[int, int]] = []

    def start_stage(self) -> None:
        self.begun.append((self.stage, self.view.table.flatten().tolist()))

    def start_epoch(self) -> None:
        self.seen.append((self.stage, self.epoch))


def _backbone() -> SASRec:
    return SASRec(SASRecConfig(d=8, max_len=6, dropout=0.3))


def _staged(name: str) -> TrainedMethod:
    kind, config = (MELT, MELTConfig()) if name == "melt" else (CITIES, CITIESConfig())
    with seeded(7, 0):
        method = kind(config, _backbone(), rank_loss("bce", 10), Sizes(10, 0, 8, 6))
        method.prepare(HISTORIES, Knowledge())
    return method


def _batches() -> TrainingBatches:
    return TrainingBatches(HISTORIES, sampler("bce", HISTORIES, 10), batch_size=8, max_len=6)


def _place(folder: Path, resume: bool = False) -> Place:
    folder.mkdir(exist_ok=True)
    return Place(folder / "checkpoint" / "last.safetensors", folder / "log.jsonl", "x", resume)


def _weights(method: torch.nn.Module) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in method.state_dict().items()}


def test_each_stage_stops_by_itself_and_the_next_begins_from_its_best_weights() -> None:
    method, tables = Staged(), []
    values = iter([0.9, 0.5, 0.6, 0.1, 0.2, 0.3, 0.2, 0.1, 0.0])

    def validate() -> float:
        tables.append(method.view.table.flatten().tolist())
        return next(values)

    progress = train(method, _batches(), validate, CONFIG, seed=1)
    # out of patience after 3, out of epochs after 6, out of patience after 9
    assert method.seen == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]
    assert method.begun == [(2, tables[0]), (3, tables[5])]
    assert progress == Progress(9, 7, 0.2, 3, 6)
    assert method.view.table.flatten().tolist() == tables[6]  # the best of the last stage, not of all


def test_the_log_tells_the_stages_and_the_last_alone_says_how_good_the_method_is(tmp_path: Path) -> None:
    values = [0.9, 0.5, 0.6, 0.1, 0.2, 0.3, 0.2, 0.1, 0.0]
    rest = iter(values)
    train(Staged(), _batches(), lambda: next(rest), CONFIG, 1, _place(tmp_path))
    assert [row["stages_left"] for row in log_rows(tmp_path)] == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert curve(tmp_path) == values[6:]
    empty = pl.DataFrame()
    run = Stored(tmp_path, 1, {}, {}, {}, 1, empty, empty, pl.DataFrame(log_rows(tmp_path)), [], empty)
    drawn = training([Case("staged", [run])])
    assert "9 epochs, best NDCG@10 0.2000 after epoch 7" in drawn.alt
    one = Plain(PlainConfig(), _backbone(), rank_loss("bce", 10), Sizes(10, 0, 8, 6))
    train(one, _batches(), lambda: 0.5, CONFIG, 1, _place(tmp_path / "one"))
    assert "stages_left" not in log_rows(tmp_path / "one")[0] and curve(tmp_path / "one") == [0.5] * 3


def test_what_is_left_to_do_counts_the_epochs_of_all_stages() -> None:
    given = ["data.interactions=bundled:online_retail", "train.epochs=7"]
    epochs = {name: epochs_of(run_config(None, [*given, f"method={name}"])) for name in ("plain", "melt", "cities")}
    assert epochs == {"plain": 7, "melt": 14, "cities": 21}


def test_each_stage_has_an_optimiser_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Engine] = []

    class Recorded(Engine):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr("longtail.train.loop.Engine", Recorded)
    train(Staged(), _batches(), lambda: 0.5, CONFIG, seed=1)
    steps = [engine.optimizer.state_dict()["state"][0]["step"].item() for engine in made]
    assert steps == [3 * len(_batches())] * 3  # the first value is the best, and patience is two more


@pytest.mark.parametrize("name", ["melt", "cities"])
@pytest.mark.parametrize("stop", [2, 3, 4, 6, 7])
def test_a_run_interrupted_in_any_epoch_of_any_stage_resumes_to_the_same_end(
    tmp_path: Path, name: str, stop: int
) -> None:
    values = [0.1, 0.2, 0.15, 0.05, 0.06, 0.04, 0.3, 0.2, 0.1]
    whole, every = _staged(name), iter(values)
    reference = train(whole, _batches(), lambda: next(every), CONFIG, 1, _place(tmp_path / "whole"))
    assert reference.stage == whole.stages and reference.epoch == 3 * whole.stages
    calls: list[int] = []

    def validate() -> float:
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return values[len(calls) - 1]

    if stop < reference.epoch:
        with pytest.raises(KeyboardInterrupt):
            train(_staged(name), _batches(), validate, CONFIG, 1, _place(tmp_path / "cut"))
    else:
        train(_staged(name), _batches(), validate, CONFIG, 1, _place(tmp_path / "cut"))
    again, rest = _staged(name), iter(values[stop:])
    with seeded(99, 99):  # another start: everything must come from the checkpoint
        for weight in again.parameters():
            torch.nn.init.normal_(weight)
    progress = train(again, _batches(), lambda: next(rest), CONFIG, 1, _place(tmp_path / "cut", resume=True))
    assert progress == reference and again.stage == whole.stage
    assert _weights(again) == _weights(whole)
    assert np.isfinite(np.concatenate(list(_weights(whole).values()))).all()
