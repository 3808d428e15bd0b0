"""What every ablation and variant of LLM-ESR must do besides: learn, be saved, leak nothing, train all of its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.config import Value
from longtail.methods.base import TrainedMethod
from longtail.nn.batch import TrainingBatches
from longtail.nn.layout import lay_out, moved
from longtail.nn.losses import sampler
from tests.conftest import Planted

Settings = dict[str, dict[str, Value]]
VARIANTS: dict[str, Settings] = {
    "no_collaborative_view": {"method": {"views": "semantic", "fusion": "none"}},
    "no_semantic_view": {"method": {"views": "collaborative", "fusion": "none"}},
    "no_text_at_all": {"method": {"views": "collaborative", "fusion": "none", "start": "random", "alpha": 0.0}},
    "no_distillation": {"method": {"alpha": 0.0}},
    "split_encoders": {"method": {"encoder": "split"}},
    "no_fusion": {"method": {"fusion": "none"}},
    "gated": {"method": {"fusion": "gated"}},
    "residual": {"method": {"fusion": "residual"}},
    "late": {"method": {"fusion": "late"}},
    "one_layer": {"method": {"adapter": "one_layer"}},
    "random_start": {"method": {"start": "random"}},
    "trained_embeddings": {"method": {"embeddings": "trained"}},
    "contrastive": {"method": {"distillation": "contrastive"}},
    "alignment": {"method": {"alignment": 0.1}},
    "tail_students": {"method": {"students_below": 80.0}},
    "dot": {"neighbors": {"similarity": "dot"}},
    "euclidean": {"neighbors": {"similarity": "euclidean"}},
    "popularity": {"neighbors": {"similarity": "popularity"}},
    "rich_teachers": {"neighbors": {"min_history": 4}},
}


def _fit(planted: Planted, variant: str, epochs: int, loss: str = "softmax") -> lt.Recommender:
    chosen = VARIANTS[variant]
    settings: Settings = {
        "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
        "train": {"loss": loss, "lr": 0.01, "epochs": epochs, "patience": epochs, "batch_size": 16, "device": "cpu"},
        "neighbors": {"k": 3, **chosen.get("neighbors", {})},
        "method": chosen.get("method", {}),
    }
    model = lt.Recommender("llmesr", settings=settings)
    return model.fit(planted.split, items=planted.items, users=planted.users)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_and_a_saved_model_recommends_the_same_bit_for_bit(
    variant: str, planted: Planted, tmp_path: Path
) -> None:
    model = _fit(planted, variant, epochs=30)
    value = lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0)).value("hr@2")
    assert value is not None and value > 0.9
    model.save(tmp_path)
    again = lt.load(tmp_path)
    users = planted.data.users.ids
    assert again.recommend(users=users, k=7).equals(model.recommend(users=users, k=7))
    assert again.config == model.config
    saved = model.method.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in again.method.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_reads_no_future_item_and_trains_every_weight_without_waiting_for_a_device(
    variant: str, planted: Planted
) -> None:
    """One epoch twice gives the same weights. On torch's meta device, reading a value back would be an error."""
    method, again = (_method(planted, variant) for _ in range(2))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in method.state_dict().items())
    items = torch.tensor([[3, 7, 1, 20, 5], [3, 7, 1, 9, 2]])
    with torch.no_grad():
        states = method.encode(items)  # (2, 5, D)
        last = method.final(method.item_vectors()[items].flatten(0, 1), lay_out(np.array([5, 5])))
    torch.testing.assert_close(states[0, :3], states[1, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(states[:, -1], last, rtol=0, atol=1e-5)
    drawn = sampler("bce", planted.split.train, 20)
    batches = TrainingBatches(planted.split.train, drawn, batch_size=16, max_len=8)
    method.train()
    step = method.plan(next(batches.epoch(np.random.default_rng(0))))
    there = torch.device("meta")
    losses = method.to(there).loss(moved(step, there))
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_trained_embeddings_are_gone_on_with_from_a_checkpoint(planted: Planted, tmp_path: Path) -> None:
    def settings(epochs: int) -> Settings:
        train: dict[str, Value] = {"lr": 0.02, "epochs": epochs, "batch_size": 16, "device": "cpu"}
        return {"method": {"embeddings": "trained"}, "backbone": {"d": 8}, "neighbors": {"k": 3}, "train": train}

    both = {"items": planted.items, "users": planted.users}
    given = planted.items.vectors.copy()
    whole = lt.Recommender("llmesr", settings=settings(2)).fit(planted.split, **both)
    lt.Recommender("llmesr", settings=settings(1)).fit(planted.split, **both, run=tmp_path)
    resumed = lt.Recommender("llmesr", settings=settings(2)).fit(planted.split, **both, run=tmp_path, resume=True)
    expected = whole.method.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.method.state_dict().items())
    assert not np.allclose(expected["semantic.embeddings"][1:].numpy(), given)
    assert np.array_equal(planted.items.vectors, given)


def _method(planted: Planted, variant: str) -> TrainedMethod:
    method = _fit(planted, variant, epochs=1, loss="bce").method
    assert isinstance(method, TrainedMethod)
    return method
