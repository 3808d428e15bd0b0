"""longtail: its scores and its training against slow loops, and the weights that validation chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.config import Value
from longtail.data.histories import from_lists
from longtail.errors import ConfigError
from longtail.methods.longtail import Longtail
from longtail.nn.graph import Offsets
from longtail.nn.items import ItemVectors
from longtail.nn.losses import sampler
from tests.conftest import Planted

ASKED = [[3], [7, 1, 20], [5, 5, 2, 9, 11, 13]]


def fit(planted: Planted, *, loss: str = "softmax", epochs: int = 2, **method: Value) -> lt.Recommender:
    settings = {
        "method": {"text_neighbors": 3, "order_neighbors": 4, "recent": 3, **method},
        "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
        "train": {"loss": loss, "lr": 0.02, "epochs": epochs, "batch_size": 16, "device": "cpu"},
    }
    return lt.Recommender("longtail", "sasrec", settings).fit(planted.split, items=planted.items)


def term(method: Longtail, history: list[int], gammas: tuple[float, float]) -> np.ndarray:
    """(I + 1,) of a loop over the edges of a history."""
    slow = np.zeros(method.sizes.items + 1)
    graphs = ((method.text_ids, method.text_edges), (method.order_ids, method.order_edges))
    for gamma, (ids, edges) in zip(gammas, graphs, strict=True):
        for age, j in enumerate(history[::-1][:3]):
            for i, w in zip(ids[j].tolist(), edges[j].tolist(), strict=True):
                slow[i] += gamma * method.settings.decay**age * w
    return slow


@pytest.mark.parametrize("text", ["start", "map", "none"])
def test_a_score_is_a_dot_product_and_the_edges_of_the_last_items(planted: Planted, text: str) -> None:
    method = fit(planted, text=text, choose=False, text_weight=2.0, order_weight=0.5).method
    assert isinstance(method, Longtail)
    histories = from_lists(ASKED)
    found = np.concatenate([block.numpy().copy() for _, block in method.eval().scorer(2)(histories)])
    with torch.no_grad():
        u = method.user_vectors(histories, np.arange(1, 4))
        dots = (u @ method.item_vectors().T).numpy()
    for row, history in enumerate(ASKED):
        slow = term(method, history, (2.0, 0.5))
        assert np.count_nonzero(slow[1:]) > 3
        np.testing.assert_allclose(found[row, 1:], dots[row, 1:] + slow[1:], rtol=1e-4, atol=1e-5)


def test_training_adds_the_text_term_that_scores_have(planted: Planted) -> None:
    method = fit(planted, offset=True, text_weight=2.0).method
    assert isinstance(method, Longtail)
    train = planted.split.train
    batch = method.batches(train, sampler("softmax", train, 20), 16).batch(
        np.array([1, 2, 5]), np.random.default_rng(0)
    )
    step = method.plan(batch)
    assert isinstance(step.extra, Offsets)
    dense = torch.zeros(len(batch.at), 21).index_put(
        (step.extra.rows, step.extra.items), step.extra.values, accumulate=True
    )
    items, steps = batch.sequences.items.tolist(), batch.sequences.layout.steps.tolist()
    for row, at in enumerate(batch.at.tolist()):
        np.testing.assert_allclose(dense[row], term(method, items[at - steps[at] : at + 1], (2.0, 0.0)), atol=1e-5)
    method.eval()  # no dropout
    vectors = method.item_vectors()
    states = method.batch_states(batch, ItemVectors(vectors, None))[batch.at]
    slow = torch.nn.functional.cross_entropy((states @ vectors.T + dense)[:, 1:], batch.targets - 1)
    torch.testing.assert_close(method.loss(step)["rank"], slow)


def test_the_weights_are_those_that_are_best_on_validation_and_are_saved(planted: Planted, tmp_path: Path) -> None:
    model = fit(planted, text_weight=4.0, order_weight=0.01)
    method = model.method
    assert isinstance(method, Longtail)
    chosen, values = method.gamma.clone(), {}
    for gamma in [(0.0, 0.0), (4.0, 0.01), tuple(chosen.tolist())]:
        method.gamma = torch.tensor(gamma)
        values[gamma] = lt.evaluate(model, planted.split, name="valid", protocol=lt.ProtocolConfig(sampled=0)).value(
            "ndcg@10"
        )
    assert max(values.values()) == values[tuple(chosen.tolist())]
    method.gamma = chosen
    model.save(tmp_path)
    again = lt.load(tmp_path).method
    assert isinstance(again, Longtail) and torch.equal(again.gamma, chosen)
    kept = fit(planted, choose=False, text_weight=4.0, order_weight=0.01).method
    assert isinstance(kept, Longtail) and kept.gamma.tolist() == pytest.approx([4.0, 0.01])


@pytest.mark.parametrize(("loss", "backbone"), [("bce", "sasrec"), ("softmax", "bert4rec")])
def test_an_offset_wants_a_softmax_of_next_items(planted: Planted, loss: str, backbone: str) -> None:
    settings = {"method": {"offset": True}, "train": {"loss": loss, "epochs": 1}}
    model = lt.Recommender("longtail", backbone, settings)
    with pytest.raises(ConfigError, match="offset = true needs"):
        model.fit(planted.split, items=planted.items)
