"""A step in bfloat16: what a GPU does, run on the CPU, whose own bfloat16 narrows the loss alone."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import LossName, sampler
from longtail.train.engine import Engine, seeded
from tests.conftest import Planted


def _losses(planted: Planted, method: str, loss: str, precision: str) -> tuple[list[float], torch.nn.Module]:
    """The sums of the losses of a few steps."""
    train = {"loss": loss, "epochs": 1, "batch_size": 16, "precision": precision, "device": "cpu"}
    settings = {"backbone": {"d": 16, "max_len": 8, "dropout": 0.1}, "neighbors": {"k": 3}, "train": train}
    model = lt.Recommender(method, "sasrec", settings).fit(planted.split, items=planted.items, users=planted.users)
    engine = Engine(model.method.train(), torch.device("cpu"), 1e-3, precision)
    engine.narrow = precision == "bfloat16"
    drawn = sampler(loss, planted.split.train, 20)
    batches = TrainingBatches(planted.split.train, drawn, batch_size=16, max_len=8)
    model.method.start_epoch()
    with seeded(5) as generator:
        steps = engine.steps(batches.epoch(generator))
        return [sum(value.item() for value in engine.step(step).values()) for step in steps], model.method


@pytest.mark.parametrize("loss", get_args(LossName))
@pytest.mark.parametrize("method", ["plain", "llmesr"])
def test_a_step_in_bfloat16_is_close_to_one_in_float32(method: str, loss: str, planted: Planted) -> None:
    wide, _ = _losses(planted, method, loss, "float32")
    narrow, trained = _losses(planted, method, loss, "bfloat16")
    assert len(wide) > 3 and narrow != wide
    np.testing.assert_allclose(narrow, wide, rtol=0.03)
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
