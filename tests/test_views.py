"""A run with views beyond text, which a third of the items lack: fit, evaluate, save and load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import longtail as lt
from longtail import pipeline
from longtail.config import Value, build, override
from longtail.text.views import join_views
from tests.conftest import Planted, vectors

SMALL: dict[str, Value] = {
    "backbone": {"name": "sasrec", "d": 8, "max_len": 8},
    "train": {"epochs": 2, "batch_size": 16, "lr": 0.01},
    "neighbors": {"k": 2},
}


def lacking_third(planted: Planted) -> tuple[lt.Embeddings, list[int]]:
    """Image vectors of two thirds of the items, and the internal ids of the others."""
    images = vectors(planted.data.items.ids, 6, 7)
    gone = [1, 4, 7, 10, 13, 16, 19]
    keep = np.setdiff1d(np.arange(20), np.array(gone) - 1)
    return lt.Embeddings(images.vectors[keep], images.ids.gather(keep), images.provenance, np.ones(13, bool)), gone


@pytest.mark.parametrize("method", [
    {"name": "llmesr", "teacher": "bank"}, {"name": "llmesr", "teacher": "bank", "view_adapters": "each"},
    {"name": "delta"}, {"name": "longtail"}, {"name": "text_knn"},
], ids=lambda table: "-".join(map(str, table.values())))  # fmt: skip
def test_a_run_in_which_a_third_of_the_items_lack_a_view(
    method: dict[str, Value], planted: Planted, tmp_path: Path
) -> None:
    images, gone = lacking_third(planted)
    items = join_views(planted.items, images)
    name = str(method["name"])
    settings = {"method": method, **({} if name == "text_knn" else SMALL)}
    model = lt.Recommender(name, None if name == "text_knn" else "sasrec", settings)
    model.fit(planted.split, items=items, users=planted.users)
    report = lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0))
    assert 0 <= report.value("ndcg@10") <= 1
    model.save(tmp_path / "run")
    again = lt.load(tmp_path / "run")
    assert model.recommend(users=["u000", "u001"], k=5).equals(again.recommend(users=["u000", "u001"], k=5))
    weights = again.method.state_dict()
    learned = next((weights[key] for key in weights if key.endswith("semantic.absent")), None)
    if name in {"llmesr", "delta"}:
        assert learned is not None and learned.shape == (2, 8)
        assert not learned[0].any() and learned[1].any()  # all items have a text; for images it was learned
    assert len(gone) == 7


def test_the_learned_vector_tells_an_item_without_an_image_from_one_at_the_mean(planted: Planted) -> None:
    images, gone = lacking_third(planted)
    model = lt.Recommender("delta", "sasrec", {**SMALL, "method": {"name": "delta"}})
    model.fit(planted.split, items=join_views(planted.items, images))
    view = model.method.eval().semantic
    mapped = view.affine(view.embeddings)
    rows = (view.table - mapped).abs().sum(1) > 1e-6
    assert torch.flatten(rows.nonzero()).tolist() == gone


def test_the_pipeline_joins_the_views_that_its_settings_name(planted: Planted, tmp_path: Path) -> None:
    planted.data.save(tmp_path / "data")
    images, _ = lacking_third(planted)
    pl.DataFrame({"item_id": images.ids, "vector": images.vectors}).write_parquet(tmp_path / "images.parquet")
    planted.items.save(tmp_path / "texts")
    file = tmp_path / "run.toml"
    file.write_text(
        '[data]\ninteractions = "data"\n[method]\nname = "delta"\n[text]\nmodel = "file:texts"\n'
        '[[text.views]]\nmodel = "file:images.parquet"\n[backbone]\nname = "sasrec"\nd = 8\n[train]\nepochs = 1\n'
    )
    config = pipeline.run_config(file)
    items, _ = pipeline.knowledge(config, planted.data, planted.split)
    assert items is not None and items.views is not None and items.views.widths == (12, 6)
    assert items.views.lacking[:, 1].sum() == 7
    pipeline.fit(config, tmp_path / "run")
    assert pipeline.report(tmp_path / "run", settings=["protocol.sampled=5"]).value("ndcg@10") >= 0
    plain = build(pipeline.RunConfig, override(config.model_dump(mode="json"), ["text.views=[]"]))
    items, _ = pipeline.knowledge(plain, planted.data, planted.split)
    assert items is not None and items.views is None and items.width == 12
