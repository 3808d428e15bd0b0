"""SASRec: how its weights start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longtail.methods.base import Sizes
from longtail.methods.plain import Plain
from longtail.model import ModelConfig, build_method
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.layout import lay_out
from longtail.train.engine import seeded


def _backbone(start: str) -> SASRec:
    with seeded(3):
        return SASRec(SASRecConfig(d=64, max_len=50, dropout=0.0, start=start)).eval()


@pytest.mark.parametrize(("start", "deviation"), [("xavier", (2 / (64 + 64)) ** 0.5), ("normal", 0.02)])
def test_weights_start_with_the_deviation_that_the_setting_names(start: str, deviation: float) -> None:
    backbone = _backbone(start)
    weights = [block.attention.value.weight for block in backbone.blocks]
    assert torch.stack(weights).std().item() == pytest.approx(deviation, rel=0.05)
    biases = [block.attention.value.bias.abs().max().item() for block in backbone.blocks]
    assert (max(biases) == 0) == (start == "normal")
    assert all((norm.weight == 1).all() for norm in (backbone.norm, backbone.blocks[0].attention_norm))


@pytest.mark.parametrize(("start", "deviation"), [("xavier", (2 / (3001 + 64)) ** 0.5), ("normal", 0.02)])
def test_the_table_of_item_vectors_starts_as_the_backbone_before_which_it_stands(start: str, deviation: float) -> None:
    config = ModelConfig.model_validate({"method": {"name": "plain"}, "backbone": {"name": "sasrec", "start": start}})
    with seeded(3):
        method = build_method(config, Sizes(items=3000, embedding_width=0, d=64, max_len=10))
    assert isinstance(method, Plain) and method.view.table.std().item() == pytest.approx(deviation, rel=0.02)


def test_a_normal_start_hardly_changes_what_it_is_given() -> None:
    """The state of each token points where its own embedded vector does."""
    vectors = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    layout = lay_out(np.array([5, 7]))
    alike = {}
    for start in ("xavier", "normal"):
        with torch.no_grad():
            states = _backbone(start)(vectors, layout)
        alike[start] = torch.cosine_similarity(states, vectors - vectors.mean(1, keepdim=True)).min().item()
    assert alike["normal"] > 0.99 > alike["xavier"]
