"""A bundle answers as its model, for every trained method on every backbone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import longtail as lt
from longtail.data.histories import from_lists
from longtail.errors import BundleError
from longtail.methods.base import TrainedMethod, methods
from longtail.model import is_trained
from longtail.nn.backbones.base import backbones
from longtail.serve.bundle import open_bundle
from longtail.serve.export import export
from longtail.serve.matrix import best
from longtail.serve.padded import Encoder
from longtail.serve.runtime import Runtime
from tests.conftest import Planted
from tests.serve.conftest import fitted

PAIRS = [(method, backbone) for method in methods.names() if is_trained(method) for backbone in backbones.names()]
ABLATIONS = [
    ("llmesr", "sasrec", {"views": "semantic", "fusion": "none"}),
    ("llmesr", "sasrec", {"views": "collaborative", "fusion": "none"}),
    ("llmesr", "gru4rec", {"fusion": "gated"}),
    ("llmesr", "bert4rec", {"fusion": "residual", "encoder": "split"}),
    ("llmesr", "ligr", {"fusion": "late"}),
    ("longtail", "sasrec", {"inner": {"name": "llmesr", "alpha": 0.0}, "tail": 0.5}),
    ("longtail", "gru4rec", {"inner": {"name": "delta"}, "text_weight": 0.0, "text_neighbors": 0}),
]


@pytest.fixture(scope="module", params=[(*pair, {}) for pair in PAIRS] + ABLATIONS, ids=lambda case: "-".join(case[:2]))
def model(request: pytest.FixtureRequest, planted: Planted) -> lt.Recommender:
    """Each trained method on each backbone, and other shapes of some."""
    method, backbone, settings = request.param
    return fitted(planted, method, backbone, settings=settings)


def test_the_padded_encoder_gives_the_vectors_of_the_packed_one(model: lt.Recommender) -> None:
    method = model.method
    assert isinstance(method, TrainedMethod)
    method.eval()
    lists = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [3, 5, 8, 9, 7, 9, 3, 2]]
    histories = from_lists(lists)
    with torch.no_grad():
        table = method.item_vectors()
        expected = method.user_vectors(histories, np.arange(1, 5))
        expected = method.served(expected, torch.from_numpy(histories.lengths[1:]))
        found = Encoder(method)(*_padded(lists, method, table))
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)


def _padded(lists: list[list[int]], method: TrainedMethod, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cloze = [0] if method.backbone.objective == "cloze" else []
    kept = [one[-method.sizes.max_len :] + cloze for one in lists]
    longest = max(map(len, kept))
    items = torch.tensor([one + [7] * (longest - len(one)) for one in kept])  # what padding holds must not matter
    return table[items], torch.tensor([len(one) for one in kept]), torch.tensor([len(one) for one in lists])


def test_the_bundle_answers_as_the_model(model: lt.Recommender, planted: Planted, tmp_path: Path) -> None:
    model.save(tmp_path / "run")
    made = export(tmp_path / "run", tmp_path / "bundle", items=planted.items)
    assert made.parity is not None and made.parity.users == 90
    assert made.parity.overlap == 1.0 and made.parity.largest < 1e-4
    runtime = Runtime(open_bundle(tmp_path / "bundle"))
    history = planted.data.items.internal(["i00", "i02", "i04"])
    scores = runtime.scores([history])[0]
    scores[history] = -np.inf
    expected = model.recommend(histories=[["i00", "i02", "i04"]], k=5)
    assert [runtime.items.ids[int(place)] for place in best(scores, 5)] == expected["item"].to_list()
    parts = runtime.split([history], np.arange(1, 21))
    assert np.allclose(parts.total[0], runtime.scores([history])[0][1:21], atol=1e-4)


def test_int8_keeps_most_of_the_list(run: Path, planted: Planted, tmp_path: Path) -> None:
    made = export(run, tmp_path / "bundle", items=planted.items, int8=True)
    assert made.parity is not None and made.parity.overlap >= 0.95
    whole = export(run, tmp_path / "whole", items=planted.items)
    assert made.files["items.safetensors"].bytes < whole.files["items.safetensors"].bytes


def test_without_embeddings_there_is_no_way_for_new_items_but_all_else_works(run: Path, tmp_path: Path) -> None:
    made = export(run, tmp_path / "bundle", users=False)
    assert made.text is None and made.users == 0 and "semantic.safetensors" not in made.files
    runtime = Runtime(open_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match="no semantic path"):
        runtime.additions.prepared(np.ones(12, np.float32))


def test_a_method_without_an_encoder_is_refused(planted: Planted, tmp_path: Path) -> None:
    fitted(planted, "popular", None).save(tmp_path / "run")
    with pytest.raises(BundleError, match="'popular', which has no encoder"):
        export(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_older_bundle_is_replaced_only_when_asked_and_other_folders_never(
    run: Path, planted: Planted, tmp_path: Path
) -> None:
    first = export(run, tmp_path / "bundle", items=planted.items)
    with pytest.raises(BundleError, match="--replace"):
        export(run, tmp_path / "bundle", items=planted.items)
    again = export(run, tmp_path / "bundle", items=planted.items, replace=True)
    assert again.files["encoder.onnx"] == first.files["encoder.onnx"]
    (tmp_path / "other").mkdir()
    with pytest.raises(BundleError, match="choose another"):
        export(run, tmp_path / "other", replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]  # nothing half made is left


def test_what_serves_imports_no_torch(bundle: Path) -> None:
    code = f"""
import sys
import longtail.cli_serve, longtail.serve.app, longtail.serve.minilm
from longtail.serve.bundle import open_bundle
from longtail.serve.live import Live
from longtail.serve.answers import answer
from longtail.serve.schema import Recommend
live = Live(open_bundle({str(bundle)!r}))
(found,) = answer(live, [Recommend(history=["i00", "i02"], explain=True, diversity=0.3)])
assert len(found.items) == 10
print(sorted({{"torch", "transformers", "sentence_transformers", "pandas"}} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
