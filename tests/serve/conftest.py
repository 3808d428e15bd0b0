"""Bundles of models that were fitted on the planted data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import longtail as lt
from longtail.config import Value
from longtail.serve.export import export
from longtail.serve.live import Live
from tests.conftest import Planted

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
