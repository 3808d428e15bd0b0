"""The loop: same seed same result, early stopping, interruption and resumption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.data.histories import from_lists
from longtail.errors import RunError
from longtail.methods.base import Sizes
from longtail.methods.plain import Plain, PlainConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import rank_loss, sampler
from longtail.train.engine import Engine, seeded
from longtail.train.loop import Place, TrainConfig, train

LISTS = [[1 + (start + step) % 8 for step in range(3 + start % 4)] for start in range(40)]
CONFIG = TrainConfig(batch_size=8, epochs=6, patience=3, lr=1e-2, device="cpu")


def _method() -> Plain:
    with seeded(7, 0):
        backbone = SASRec(SASRecConfig(d=8, max_len=6, dropout=0.3))
        return Plain(PlainConfig(), backbone, rank_loss("bce", 8), Sizes(8, 0, 8, 6))


def _batches() -> TrainingBatches:
    histories = from_lists(LISTS)
    return TrainingBatches(histories, sampler("bce", histories, 8), batch_size=8, max_len=6)


def _rising() -> object:
    values = iter(np.arange(1, 100) / 100)
    return lambda: float(next(values))


def _place(folder: Path, resume: bool = False, identity: str = "x") -> Place:
    folder.mkdir(exist_ok=True)
    return Place(folder / "checkpoint" / "last.safetensors", folder / "log.jsonl", identity, resume)


def _weights(method: Plain) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in method.state_dict().items()}


def test_the_same_seed_gives_the_same_weights_and_leaves_no_trace_in_global_generators() -> None:
    before = torch.get_rng_state()
    first, second, other = _method(), _method(), _method()
    train(first, _batches(), _rising(), CONFIG, seed=1)
    train(second, _batches(), _rising(), CONFIG, seed=1)
    train(other, _batches(), _rising(), CONFIG, seed=2)
    assert _weights(first) == _weights(second) != _weights(other)
    assert torch.equal(before, torch.get_rng_state())


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    train(_method(), _batches(), _rising(), CONFIG, 1, _place(tmp_path))
    losses = [json.loads(line)["rank"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


def test_it_stops_after_patience_epochs_and_keeps_the_weights_of_the_best() -> None:
    method, seen = _method(), []
    values = iter([0.1, 0.5, 0.2, 0.5, 0.3, 0.9])

    def validate() -> float:
        seen.append(_weights(method))
        return next(values)

    progress = train(method, _batches(), validate, CONFIG, seed=1)
    assert (progress.epoch, progress.best_epoch, progress.best) == (5, 2, 0.5)  # a tie is no improvement
    assert _weights(method) == seen[1]
    assert not method.training


@pytest.mark.parametrize(("stop", "average"), [(1, 0.0), (3, 0.0), (3, 0.9), (4, 0.0)])
def test_a_run_interrupted_in_any_epoch_resumes_to_the_same_end(tmp_path: Path, stop: int, average: float) -> None:
    whole, config = _method(), CONFIG.model_copy(update={"average": average})
    reference = train(whole, _batches(), _rising(), config, 1, _place(tmp_path / "whole"))

    values, calls = _rising(), []

    def validate() -> float:
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return values()

    with pytest.raises(KeyboardInterrupt):
        train(_method(), _batches(), validate, config, 1, _place(tmp_path / "cut"))
    again, rest = _method(), iter(np.arange(stop + 1, 100) / 100)
    with seeded(99, 99):  # another start: everything must come from the checkpoint
        torch.nn.init.normal_(again.view.table)
    progress = train(again, _batches(), lambda: float(next(rest)), config, 1, _place(tmp_path / "cut", resume=True))
    assert progress == reference
    assert _weights(again) == _weights(whole)

    def epochs(run: str) -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        return [(line["epoch"], line["rank"]) for line in lines]

    assert epochs("cut") == epochs("whole")


def test_what_is_validated_and_kept_are_running_averages_and_what_is_trained_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, plain, steps, seen = _method(), _method(), [], []
    step = Engine.step

    def watched(engine: Engine, *given: object) -> dict[str, torch.Tensor]:
        losses = step(engine, *given)
        steps.append([weight.detach().clone() for weight in engine.method.parameters()])
        return losses

    monkeypatch.setattr(Engine, "step", watched)
    started = [weight.detach().clone() for weight in method.parameters()]

    def validate() -> float:
        seen.append([weight.detach().clone() for weight in method.parameters()])
        return float(len(seen))

    train(method, _batches(), validate, CONFIG.model_copy(update={"average": 0.9, "epochs": 2}), seed=1)
    expected = started
    for done, weights in enumerate(steps, start=1):
        decay = min(0.9, (1 + done) / (10 + done))
        expected = [decay * one + (1 - decay) * other for one, other in zip(expected, weights, strict=True)]
    for found in (seen[-1], list(method.parameters())):
        torch.testing.assert_close([each.detach() for each in found], expected)
    trained, before = steps[-1], list(steps)
    train(plain, _batches(), _rising(), CONFIG.model_copy(update={"epochs": 2}), seed=1)
    assert all(torch.equal(*pair) for pair in zip(trained, steps[-1], strict=True)) and len(steps) == 2 * len(before)


def test_a_finished_run_resumed_does_nothing_more(tmp_path: Path) -> None:
    first, second = _method(), _method()
    train(first, _batches(), _rising(), CONFIG, 1, _place(tmp_path))

    def never() -> float:
        raise AssertionError("it trained again")

    train(second, _batches(), never, CONFIG, 1, _place(tmp_path, resume=True))
    assert _weights(first) == _weights(second)


def test_foreign_corrupt_and_newer_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(_method(), _batches(), _rising(), CONFIG, 1, _place(tmp_path))
    with pytest.raises(RunError, match="another config"):
        train(_method(), _batches(), _rising(), CONFIG, 1, _place(tmp_path, True, identity="y"))
    with monkeypatch.context() as patch:
        patch.setattr("longtail.train.checkpoint.FORMAT", 0)
        with pytest.raises(RunError, match="newer longtail"):
            train(_method(), _batches(), _rising(), CONFIG, 1, _place(tmp_path, True))
    path = tmp_path / "checkpoint" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be read"):
        train(_method(), _batches(), _rising(), CONFIG, 1, _place(tmp_path, True))
