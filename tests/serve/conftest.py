"""Bundles of models that were fitted on the planted data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import longtail as lt
from longtail.config import Value
from longtail.data.histories import Histories, offsets_of
from longtail.data.ids import IdMap
from longtail.data.split import leave_one_out
from longtail.methods.base import Knowledge, Sizes
from longtail.model import build_method
from longtail.run_folder import Known
from longtail.serve.export import export
from longtail.serve.live import Live
from longtail.text.embeddings import Embeddings, Provenance
from tests.conftest import Planted

ITEMS, USERS, WIDTH = 3000, 200, 12  # of `many`
SETTINGS: dict[str, dict[str, Value]] = {"melt": {"user_percentile": 10, "item_percentile": 10}}


def fitted(
    planted: Planted, method: str, backbone: str | None, epochs: int = 1, settings: Mapping[str, Value] | None = None
) -> lt.Recommender:
    """A small model."""
    training: dict[str, Value] = {
        "method": {**SETTINGS.get(method, {}), **(settings or {})},
        "backbone": {"d": 16, "max_len": 6, "dropout": 0.1},
        "train": {
            "loss": "softmax",
            "lr": 0.02,
            "epochs": epochs,
            "patience": epochs,
            "batch_size": 16,
            "device": "cpu",
        },
    }
    model = lt.Recommender(method, backbone, {"seed": 1, "neighbors": {"k": 3}, **(training if backbone else {})})
    return model.fit(planted.split, items=planted.items, users=planted.users)


@pytest.fixture(scope="session")
def trained(planted: Planted) -> lt.Recommender:
    """longtail on SASRec."""
    return fitted(planted, "longtail", "sasrec", epochs=15)


@pytest.fixture(scope="session")
def run(trained: lt.Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run folder."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    trained.save(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(run: Path, planted: Planted) -> Path:
    """Its bundle; not to be written to."""
    out = run.with_name("small.bundle")
    export(run, out, items=planted.items)
    return out


@pytest.fixture
def live(bundle: Path) -> Live:
    """What answers from it, with nothing added."""
    from longtail.serve.bundle import open_bundle

    return Live(open_bundle(bundle))


@pytest.fixture(scope="session")
def many_texts() -> Embeddings:
    """Texts of the items of `many`, in twenty topics."""
    rng = np.random.default_rng(0)
    topics = 3 * rng.normal(size=(20, WIDTH))[rng.integers(20, size=ITEMS)]
    rows = (topics + rng.normal(size=(ITEMS, WIDTH))).astype(np.float32)
    ids = pl.Series([f"i{at:04d}" for at in range(1, ITEMS + 1)])
    return Embeddings(rows, ids, Provenance("made up", "made up"), np.ones(ITEMS, np.bool_))


@pytest.fixture(scope="session")
def many(many_texts: Embeddings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a longtail with the weights it starts from, edges, and a dial, over 3,000 items."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(30, 60, USERS)
    bought = 1 + (ITEMS * rng.random(lengths.sum()) ** 3).astype(np.int64)
    split = leave_one_out(Histories(bought, offsets_of(lengths)), ITEMS)
    model = lt.Recommender("longtail", "sasrec", {"backbone": {"d": 16, "max_len": 8}})
    torch.manual_seed(0)
    model.method = build_method(model.config, Sizes(ITEMS, WIDTH, 16, 8))
    model.method.prepare(split.train, Knowledge(np.concatenate([np.zeros((1, WIDTH), "f4"), many_texts.vectors])))
    assert model.method.dial is not None
    model.method.dial.fill_(10.0)  # as much as the products, which are large at the start
    text = pl.DataFrame({"title": many_texts.ids, "kind": [f"kind {at % 600}" for at in range(ITEMS)]})
    users = IdMap(pl.Series([f"u{at:03d}" for at in range(1, USERS + 1)]))
    model.known = Known(users, IdMap(many_texts.ids), text, split, "made up", "")
    folder = tmp_path_factory.mktemp("many") / "run"
    model.save(folder)
    return folder
