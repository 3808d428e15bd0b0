"""longtail: its scores and its training against slow loops, and what validation chooses."""

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
from longtail.nn.graph import Edges, Offsets
from longtail.nn.items import ItemVectors
from longtail.nn.losses import sampler
from tests.conftest import Planted

ASKED = [[3], [7, 1, 20], [5, 5, 2, 9, 11, 13]]
RECENT = 3


def fit(
    planted: Planted, *, loss: str = "softmax", epochs: int = 2, backbone: str = "sasrec", **method: Value
) -> lt.Recommender:
    settings = {
        "method": {"text_neighbors": 3, "order_neighbors": 4, "recent": RECENT, **method},
        "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
        "neighbors": {"k": 3},
        "train": {"loss": loss, "lr": 0.02, "epochs": epochs, "batch_size": 16, "device": "cpu"},
    }
    model = lt.Recommender("longtail", backbone, settings)
    return model.fit(planted.split, items=planted.items, users=planted.users)


def method_of(model: lt.Recommender) -> Longtail:
    assert isinstance(model.method, Longtail)
    return model.method


def term(edges: Edges, gamma: float, decay: float, history: list[int]) -> np.ndarray:
    """(I + 1,) of a loop over the edges of a history."""
    slow = np.zeros(len(edges.ids))
    for age, j in enumerate(history[::-1][:RECENT]):
        for i, w in zip(edges.ids[j].tolist(), edges.weights[j].tolist(), strict=True):
            slow[i] += gamma * decay**age * w
    return slow


@pytest.mark.parametrize("inner", ["llminit", "plain", "llmesr"])
def test_a_score_is_that_of_the_method_inside_and_the_edges_of_the_last_items(planted: Planted, inner: str) -> None:
    settings: dict[str, Value] = {"text_weight": 2.0, "order_weight": 0.5, "tail": 0.3}
    method = method_of(fit(planted, inner={"name": inner}, choose=False, **settings))
    histories = from_lists(ASKED)
    found = np.concatenate([block.numpy().copy() for _, block in method.eval().scorer(2)(histories)])
    with torch.no_grad():
        u = method.inner.user_vectors(histories, np.arange(1, 4))
        dots = (u @ method.inner.item_vectors().T).numpy()
    counts = planted.split.train.counts(20)
    for row, history in enumerate(ASKED):
        slow = term(method.text, 2.0, 0.6, history) + term(method.order, 0.5, 0.6, history)
        assert np.count_nonzero(slow[1:]) > 3
        expected = dots[row] + slow - 0.3 * np.log1p(counts)
        np.testing.assert_allclose(found[row, 1:], expected[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_training_adds_the_text_term_that_scores_have(planted: Planted, loss: str) -> None:
    method, train = method_of(fit(planted, text_weight=2.0, loss=loss)), planted.split.train
    batch = method.batches(train, sampler(loss, train, 20), 16).batch(np.array([1, 2, 5]), np.random.default_rng(0))
    step = method.plan(batch)
    offsets = step.extra.offsets
    assert isinstance(offsets, Offsets)
    dense = torch.zeros(len(batch.at), 21).index_put((offsets.rows, offsets.items), offsets.values, accumulate=True)
    items, steps = batch.sequences.items.tolist(), batch.sequences.layout.steps.tolist()
    for row, at in enumerate(batch.at.tolist()):
        slow = term(method.text, 2.0, 0.6, items[at - steps[at] : at + 1])
        np.testing.assert_allclose(dense[row], slow, atol=1e-5)
    method.eval()  # no dropout
    vectors = method.item_vectors()
    scores = method.batch_states(batch, ItemVectors(vectors, None))[batch.at] @ vectors.T + dense
    if loss == "softmax":
        slow = torch.nn.functional.cross_entropy(scores[:, 1:], batch.targets - 1)
    else:
        drawn, expected = batch.negatives.items, batch.negatives.log_expected
        others = (scores[:, drawn] - expected).masked_fill(drawn == batch.targets[:, None], -torch.inf)
        own = scores.gather(1, batch.targets[:, None])
        slow = (torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]).mean()
    torch.testing.assert_close(method.loss(step)["rank"], slow)


@pytest.mark.parametrize(
    ("loss", "backbone", "settings"),
    [("bce", "sasrec", {}), ("softmax", "bert4rec", {}), ("softmax", "sasrec", {"offset": False})],
)
def test_elsewhere_the_text_term_comes_after_training(
    planted: Planted, loss: str, backbone: str, settings: dict[str, Value]
) -> None:
    method, train = method_of(fit(planted, loss=loss, backbone=backbone, **settings)), planted.split.train
    batches = method.batches(train, sampler(loss, train, 20), 16)
    step = method.plan(next(batches.epoch(np.random.default_rng(0))))
    inside = step._replace(extra=step.extra.extra)
    method.eval()
    assert step.extra.offsets is None
    torch.testing.assert_close(method.loss(step)["rank"], method.inner.loss(inside)["rank"])


def test_the_method_inside_keeps_its_other_losses(planted: Planted) -> None:
    method, train = method_of(fit(planted, inner={"name": "llmesr", "alpha": 0.3})), planted.split.train
    batches = method.batches(train, sampler("softmax", train, 20), 16)
    losses = method.loss(method.plan(next(batches.epoch(np.random.default_rng(0)))))
    assert set(losses) == {"rank", "distillation"} and losses["distillation"].item() > 0


def test_the_weights_are_those_that_are_best_on_validation_and_are_saved(planted: Planted, tmp_path: Path) -> None:
    model = fit(planted, text_weight=4.0, order_weight=0.01, tail=0.0)
    method = method_of(model)
    chosen, values = method.gamma.clone(), {}
    for gamma in [(0.0, 0.0), (4.0, 0.01), tuple(chosen.tolist())]:
        method.gamma.copy_(torch.tensor(gamma))
        values[gamma] = model.validate().overall
    assert max(values.values()) == values[tuple(chosen.tolist())]
    model.save(tmp_path)
    assert torch.equal(method_of(lt.load(tmp_path)).gamma, chosen)
    kept = method_of(fit(planted, choose=False, text_weight=4.0, order_weight=0.01))
    assert kept.gamma.tolist() == pytest.approx([4.0, 0.01])


def test_items_that_nobody_has_had_get_vectors_from_their_texts_when_training_ends(planted: Planted) -> None:
    model = fit(planted, choose=False, tail=0.0)
    method, counts = method_of(model), planted.split.train.counts(20)
    before = method.item_vectors().detach().clone()
    assert method.told is None  # fitting chose already, and lets the embeddings go
    counts[[4, 9]] = 0
    method.told = planted.items.matrix(planted.data.items, "items"), counts
    method.choose(model.validate)
    changed = (method.item_vectors() != before).any(1).nonzero().flatten()
    assert changed.tolist() == [4, 9]


def test_terms_without_weight_are_left_out(planted: Planted) -> None:
    method = method_of(fit(planted, inner="plain", text_weight=0.0, order_weight=0.0))
    assert method.text.M == method.order.M == 0 and not method.settings.needs_embeddings
    plain = lt.Recommender(
        "plain",
        settings={
            "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
            "train": {"loss": "softmax", "lr": 0.02, "epochs": 2, "batch_size": 16, "device": "cpu"},
        },
    ).fit(planted.split)
    weights = plain.method.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in method.inner.state_dict().items())


@pytest.mark.parametrize("inner", [5, "lllminit", {"name": "llmint"}])
def test_a_method_inside_that_there_is_not_is_told(inner: Value) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        lt.Recommender("longtail", settings={"method": {"inner": inner}})


@pytest.mark.parametrize("inner", ["melt", "longtail", "popular"])
def test_the_method_inside_is_trained_in_one_stage(inner: str) -> None:
    with pytest.raises(ConfigError, match=f"method.inner = '{inner}': name a method that is trained in one stage"):
        lt.Recommender("longtail", settings={"method": {"inner": {"name": inner}}})


def test_where_nothing_is_said_training_is_what_the_method_wants() -> None:
    usual = lt.Recommender("longtail").config.train
    assert usual is not None and (usual.loss, usual.lr, usual.patience) == ("softmax", 2e-3, 4)
    told = lt.Recommender("longtail", settings={"train": {"loss": "bce"}}).config.train
    assert told is not None and (told.loss, told.lr) == ("bce", 2e-3)
    other = lt.Recommender("llmesr").config.train
    assert other is not None and (other.loss, other.lr, other.patience) == ("bce", 1e-3, 20)
