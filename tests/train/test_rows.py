"""Rows of prefixes against rows of users: the same loss, and a training that learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.errors import ConfigError
from longtail.methods.base import TrainedMethod
from longtail.nn.losses import sampler
from tests.conftest import Planted


def fit(planted: Planted, method: str, backbone: str, *, rows: str = "prefixes", epochs: int = 1) -> lt.Recommender:
    settings = {
        "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
        "neighbors": {"k": 3},
        "train": {"loss": "softmax", "lr": 0.02, "epochs": epochs, "batch_size": 16, "device": "cpu", "rows": rows},
    }
    return lt.Recommender(method, backbone, settings).fit(planted.split, items=planted.items, users=planted.users)


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "ligr"])
def test_all_prefixes_together_have_the_loss_of_whole_sequences(planted: Planted, backbone: str) -> None:
    method, train = fit(planted, "plain", backbone).method, planted.split.train
    assert isinstance(method, TrainedMethod)
    drawn, everybody = sampler("softmax", train, 20), len(train.lengths) - 1
    method.eval()
    losses, gradients = [], []
    for prefixes in (False, True):
        batches = method.batches(train, drawn, everybody, prefixes=prefixes)
        (batch,) = batches.epoch(np.random.default_rng(0))
        loss = method.loss(method.plan(batch))["rank"]
        gradients.append(torch.autograd.grad(loss, list(method.parameters()), allow_unused=True))
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["plain", "llmesr", "rlmrec", "longtail"])
def test_it_learns(planted: Planted, method: str) -> None:
    model = fit(planted, method, "sasrec", epochs=15)
    value = lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0)).value("hr@2")
    assert value is not None and value > 0.9


def test_what_hides_items_has_no_prefixes(planted: Planted) -> None:
    with pytest.raises(ConfigError, match="rows = 'prefixes' is for training that predicts every next item"):
        fit(planted, "plain", "bert4rec")
