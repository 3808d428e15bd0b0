"""Text and a delta: where vectors start, how far they go, and what is hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.delta import Delta, DeltaConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.items import principal_components
from longtail.nn.losses import rank_loss
from tests.conftest import Planted

LISTS = [[1, 2, 3], [2, 3], [2, 5, 2]]  # 4 and 6 occur nowhere


def method(**settings: object) -> tuple[Delta, np.ndarray]:
    torch.manual_seed(0)
    embeddings = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    embeddings[0] = 0
    made = Delta(
        DeltaConfig(**settings), SASRec(SASRecConfig(d=4, max_len=5)), rank_loss("softmax", 6), Sizes(6, 9, 4, 5)
    )
    made.prepare(from_lists(LISTS), Knowledge(embeddings))
    return made, embeddings


def test_vectors_start_at_the_principal_components() -> None:
    made, embeddings = method()
    for training in (True, False):
        made.train(training)
        found = made.item_vectors().detach().numpy()
        np.testing.assert_allclose(found[1:], principal_components(embeddings, 4)[1:], atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_delta_is_as_long_as_its_items_interactions_allow(training: bool) -> None:
    made, _ = method(bound=2.0, ripe=3.0)
    with torch.no_grad():
        made.delta.copy_(torch.randn(7, 4) * torch.tensor([[1.0], [5], [5], [0.01], [5], [5], [5]]))
    made.train(training)
    found = (made.item_vectors() - made.semantic(None)).detach()
    counts = np.array([0, 1, 4, 2, 0, 1, 0])
    limits = 2.0 * counts / (counts + 3.0)
    lengths = found.norm(dim=1).numpy()
    np.testing.assert_allclose(lengths[[1, 2, 4, 5, 6]], limits[[1, 2, 4, 5, 6]], atol=1e-5)
    torch.testing.assert_close(found[3], made.delta[3].detach())
    some = torch.tensor([2, 3])
    torch.testing.assert_close(made.item_vectors(some), made.item_vectors()[some])


def test_hidden_deltas_are_missing_in_training_alone() -> None:
    made, _ = method(hide=0.5)
    with torch.no_grad():
        made.delta.fill_(1.0)
    missing = torch.stack([(made.item_vectors() - made.semantic(None)).abs().sum(1) < 1e-5 for _ in range(200)])
    assert 0.4 < missing.float().mean() < 0.6 and missing.float().mean(0).std() < 0.1
    made.eval()
    torch.testing.assert_close(made.item_vectors() - made.semantic(None), torch.ones(7, 4))


def test_the_bound_holds_after_training(planted: Planted) -> None:
    settings = {
        "method": {"bound": 0.5, "ripe": 4.0, "hide": 0.2},
        "backbone": {"d": 16, "max_len": 8},
        "train": {"loss": "softmax", "lr": 0.05, "epochs": 3, "batch_size": 16, "device": "cpu"},
    }
    made = lt.Recommender("delta", settings=settings).fit(planted.split, items=planted.items).method
    assert isinstance(made, Delta)
    length = (made.item_vectors() - made.semantic(None)).norm(dim=1, keepdim=True)
    assert bool((length <= made.radius + 1e-5).all()) and length.max().item() > 0.1
