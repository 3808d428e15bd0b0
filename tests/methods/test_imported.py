"""Imported item vectors: what is trained, what stays, and what stands between them and the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import longtail as lt
from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.imported import Imported, ImportedConfig
from longtail.nn.backbones.bert4rec import BERT4Rec, BERT4RecConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import rank_loss, sampler
from tests.conftest import Planted

TRAIN = from_lists([[1, 2, 3, 4], [5, 6, 7], [8, 9, 1]])


def _vectors(width: int) -> np.ndarray:
    found = np.random.default_rng(width).normal(size=(10, width)).astype(np.float32)
    found[0] = 0
    return found


def _method(table: str, width: int, loss: str = "bce") -> Imported:
    torch.manual_seed(0)
    backbone = SASRec(SASRecConfig(d=4, max_len=5, dropout=0.0))
    method = Imported(ImportedConfig(table=table), backbone, rank_loss(loss, 9), Sizes(9, width, 4, 5))
    method.prepare(TRAIN, Knowledge(_vectors(width)))
    return method.train()


def _learn(method: Imported) -> None:
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1)
    batches = TrainingBatches(TRAIN, sampler("bce", TRAIN, 9), batch_size=3, max_len=5)
    for batch in batches.epoch(np.random.default_rng(0)):
        method.loss(method.plan(batch))["rank"].backward()
        optimizer.step()


@pytest.mark.parametrize("table", ["frozen", "trained"])
def test_as_wide_as_the_backbone_they_are_the_item_vectors(table: str) -> None:
    method = _method(table, 4)
    np.testing.assert_array_equal(method.item_vectors().detach().numpy(), _vectors(4))
    backbone = method.backbone.positions.weight.detach().clone()
    _learn(method)
    assert not torch.equal(method.backbone.positions.weight, backbone)
    same = np.array_equal(method.item_vectors().detach().numpy(), _vectors(4))
    assert same == (table == "frozen")


@pytest.mark.parametrize("table", ["frozen", "trained"])
def test_of_another_width_they_go_through_an_adapter(table: str) -> None:
    method = _method(table, 6)
    layers = [method.view.first, method.view.second] if table == "frozen" else [method.adapter]
    for _ in range(2):
        x = _vectors(6) if table == "frozen" else method.view.table.detach().numpy()
        for layer in layers:
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        for ids in (None, torch.tensor([3, 1])):
            found = method.item_vectors(ids).detach().numpy()
            np.testing.assert_allclose(found, x if ids is None else x[ids.numpy()], atol=1e-5)
        before = {name: weight.detach().clone() for name, weight in method.named_parameters()}
        _learn(method)
        changed = {name for name, weight in method.named_parameters() if not torch.equal(weight, before[name])}
        assert {name for name in changed if name.startswith(("adapter", "view"))} == (
            {"view.table", "adapter.weight", "adapter.bias"}
            if table == "trained"
            else {f"view.{layer}.{kind}" for layer in ("first", "second") for kind in ("weight", "bias")}
        )


@pytest.mark.parametrize("width", [4, 6])
def test_where_items_are_hidden_a_frozen_table_still_learns_the_vector_of_the_mask(width: int) -> None:
    backbone = BERT4Rec(BERT4RecConfig(d=4, max_len=5, dropout=0.0))
    method = Imported(ImportedConfig(), backbone, rank_loss("bce", 9), Sizes(9, width, 4, 5))
    method.prepare(TRAIN, Knowledge(_vectors(width)))
    before = method.train().item_vectors().detach().clone()
    with torch.no_grad():
        method.mask.add_(1.0)
    for ids in (None, torch.tensor([0, 3])):
        moved = method.item_vectors(ids) - (before if ids is None else before[ids])
        torch.testing.assert_close(moved[0], torch.ones(4))
        assert not moved[1:].any()


@pytest.mark.parametrize("table", ["frozen", "trained"])
def test_vectors_from_a_file_train_and_load_again_without_it(planted: Planted, tmp_path: Path, table: str) -> None:
    vectors = planted.items.vectors
    path = tmp_path / "said.parquet"
    pl.DataFrame({"item_id": planted.data.items.ids, "vector": vectors.tolist()}).write_parquet(path)
    settings = {
        "backbone": {"d": 12, "max_len": 8, "dropout": 0.1},
        "method": {"table": table},
        "train": {"loss": "softmax", "lr": 0.02, "epochs": 15, "batch_size": 16, "device": "cpu"},
    }
    model = lt.Recommender("imported", "sasrec", settings)
    model.fit(planted.split, items=lt.embed_items(planted.data, f"file:{path}"))
    report = lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0))
    assert report.value("hr@2") > 0.9
    if table == "frozen":
        np.testing.assert_array_equal(model.method.item_vectors().detach().numpy()[1:], vectors)
    model.save(tmp_path / "run")
    path.unlink()
    users = ["u003", "u004"]
    assert lt.load(tmp_path / "run").recommend(users=users).equals(model.recommend(users=users))
