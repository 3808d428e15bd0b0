"""What every method must do: trained ones on every backbone, and on one with every loss, and the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import longtail as lt
from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes, TrainedMethod, methods
from longtail.model import BACKBONE, build_method, is_trained
from longtail.nn.backbones.base import backbones
from longtail.nn.batch import TrainingBatches
from longtail.nn.items import ItemVectors
from longtail.nn.layout import lay_out, moved
from longtail.nn.losses import LossName, sampler
from tests.conftest import Planted, plant, walks

PAIRS = [(method, backbone) for method in methods.names() if is_trained(method) for backbone in backbones.names()]
NEXT_ITEM, CLOZE = (
    [pair for pair in PAIRS if backbones.get(pair[1])[1].objective == objective] for objective in ("next_item", "cloze")
)
LOSSES = {  # none knows a backbone, and the baselines rank as plain does
    (method, BACKBONE, loss)
    for method in {method for method, _ in PAIRS}
    for loss in (get_args(LossName) if method in {"plain", "llmesr"} else ("bce",))
}
CASES = sorted(LOSSES | {(*pair, "softmax") for pair in PAIRS})
SETTINGS = {  # where the defaults do not suit planted data, whose items and users are all alike
    "melt": {"user_percentile": 10, "item_percentile": 10},  # few are tail, and learned from the rest
    "imported": {"table": "trained"},  # frozen vectors of 12 numbers, mapped through 6, are too few for twenty items
}
CLASSICAL = [(method,) for method in methods.names() if not is_trained(method)]
LEARNERS = {"item_knn"}  # of these; the vectors of the planted items are random, and all items are equally popular


def _fit(
    planted: Planted, method: str, backbone: str | None = None, loss: str = "", seed: int = 1, epochs: int | None = None
) -> lt.Recommender:
    cloze = backbone is not None and backbones.get(backbone)[1].objective == "cloze"
    lr, usual = (0.01, 60) if cloze else (0.02, 30)  # half of what it reads is hidden, so that it learns more slowly
    epochs = epochs or usual
    if backbone:
        epochs = max(2 * epochs // (methods.get(method)[1].stages + 1), 1)  # of each stage
    training = {
        "method": SETTINGS.get(method, {}),
        "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
        "train": {"loss": loss, "lr": lr, "epochs": epochs, "patience": epochs, "batch_size": 16, "device": "cpu"},
    }
    settings = {"seed": seed, "neighbors": {"k": 3}, **(training if backbone else {})}
    model = lt.Recommender(method, backbone, settings)
    return model.fit(planted.split, items=planted.items, users=planted.users)


@pytest.fixture(scope="module", params=CASES + CLASSICAL, ids="-".join)
def fitted(request: pytest.FixtureRequest, planted: Planted) -> lt.Recommender:
    """Each method, if it is trained on each backbone with each loss, fitted on the planted data."""
    return _fit(planted, *request.param)


def _batches(model: lt.Recommender, planted: Planted, loss: str) -> TrainingBatches:
    """Batches as `model` is trained with."""
    return model.method.batches(planted.split.train, sampler(loss, planted.split.train, 20), 16)


def _untrained(method: str, backbone: str, planted: Planted) -> TrainedMethod:
    model = _fit(planted, method, backbone, "softmax", epochs=1)
    assert model.method is not None
    return model.method


def test_it_learns_the_checkerboard(fitted: lt.Recommender, planted: Planted) -> None:
    report = lt.evaluate(fitted, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0))
    value = report.value("hr@2")
    learns = fitted.config.train is not None or fitted.config.method.name in LEARNERS
    assert value is not None and (value > 0.9) == learns


def test_scores_are_finite_and_seen_items_and_padding_never_return(fitted: lt.Recommender, planted: Planted) -> None:
    users = planted.data.users.ids
    found = fitted.recommend(users=users, k=20)
    assert np.isfinite(found["score"].to_numpy()).all()
    for user, history in zip(users, map(planted.data.histories().of, range(1, len(users) + 1)), strict=True):
        seen = set(planted.data.items.external(history))
        given = found.filter(found["user"] == user)["item"]
        assert not seen & set(given) and set(given) <= set(planted.data.items.ids) and given.n_unique() == len(given)
        assert len(given) == 20 - len(seen) or fitted.config.train is None  # which may have nothing to say of an item


def test_a_saved_model_recommends_the_same_bit_for_bit(fitted: lt.Recommender, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = lt.load(tmp_path)
    users = [f"u{user:03d}" for user in range(90)]
    assert again.recommend(users=users, k=7).equals(fitted.recommend(users=users, k=7))
    assert again.facts() == fitted.facts()
    bare = [["i00", "i02"], ["i19"]]
    assert again.recommend(histories=bare).equals(fitted.recommend(histories=bare))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_same_seed_gives_the_same_model(case: tuple[str, str, str], planted: Planted) -> None:
    first, second, other = (_fit(planted, *case, seed=seed, epochs=2) for seed in (1, 1, 2))
    weights = [{k: v.tolist() for k, v in model.method.state_dict().items()} for model in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("case", CLASSICAL, ids="-".join)
def test_without_training_there_is_no_chance_nor_a_backbone(case: tuple[str], planted: Planted) -> None:
    first, other = (_fit(planted, *case, seed=seed) for seed in (1, 2))
    weights = [{k: v.tolist() for k, v in model.method.state_dict().items()} for model in (first, other)]
    assert weights[0] == weights[1]
    assert not list(first.method.parameters()) and first.facts()["backbone"] == first.facts()["loss"] == "-"


@pytest.mark.parametrize("case", CLASSICAL, ids="-".join)
@settings(max_examples=25)
@given(data=st.data())
def test_without_training_neither_company_nor_names_change_a_score(
    case: tuple[str], planted: Planted, data: st.DataObject
) -> None:
    """Users and items in another order, other users beside them, other blocks: the same scores in that order."""
    lists = data.draw(st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=8), min_size=1, max_size=6))
    order = data.draw(st.permutations(range(len(lists))))
    rename = np.array([0, *data.draw(st.permutations(range(1, 21)))])
    train, vectors = planted.split.train, planted.items.matrix(planted.data.items)
    renamed = np.empty_like(vectors)
    renamed[rename] = vectors
    found = []
    for histories, known, asked, rows in (
        (train, vectors, from_lists(lists), 64),
        (train._replace(items=rename[train.items]), renamed, from_lists([rename[lists[row]] for row in order]), 2),
    ):
        method = build_method(lt.Recommender(*case).config, Sizes(20, 12, 0, 0))
        before = [array.copy() for array in (*histories, *asked, known)]
        method.prepare(histories, Knowledge(known))
        found.append(np.concatenate([scores.numpy().copy() for _, scores in method.scorer(rows)(asked)]))
        assert all(map(np.array_equal, before, (*histories, *asked, known)))  # what is given is only read
    np.testing.assert_allclose(found[1][:, rename[1:]], found[0][list(order), 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", NEXT_ITEM, ids="-".join)
@settings(max_examples=25)
@given(data=st.data())
def test_future_items_never_change_past_vectors(pair: tuple[str, str], planted: Planted, data: st.DataObject) -> None:
    method = _cached(pair, planted)
    items = torch.tensor([data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=8))])
    cut = data.draw(st.integers(1, items.shape[1] - 1))
    changed = items.clone()
    changed[0, cut:] = torch.tensor(
        data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=1)) * (len(items[0]) - cut)
    )
    with torch.no_grad():
        before, after = method.encode(items)[0, :cut], method.encode(changed)[0, :cut]
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)
    method.train()  # the gradient of a position reaches no later item, in training mode either
    vectors = method.item_vectors()[items].detach().requires_grad_()
    method.states(vectors[0], lay_out(np.array([items.shape[1]])))[cut - 1].square().sum().backward()
    method.eval()
    assert not vectors.grad[0, cut:].any()


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@settings(max_examples=25)
@given(data=st.data())
def test_neither_company_nor_padding_nor_order_of_users_changes_a_vector(
    pair: tuple[str, str], planted: Planted, data: st.DataObject
) -> None:
    method = _cached(pair, planted)
    lists = data.draw(st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=8), min_size=1, max_size=6))
    order = data.draw(st.permutations(range(len(lists))))
    padding = data.draw(st.integers(0, 8 - max(map(len, lists))))
    width = max(map(len, lists)) + padding
    batch = torch.tensor([lists[row] + [0] * (width - len(lists[row])) for row in order])
    with torch.no_grad():
        together = method.encode(batch)
        for row, source in enumerate(order):
            alone = method.encode(torch.tensor([lists[source]]))
            torch.testing.assert_close(together[row, : len(lists[source])], alone[0], rtol=0, atol=1e-5)
        lengths = np.array([len(lists[row]) for row in order])
        final = method.final(method.item_vectors()[batch[batch > 0]], lay_out(lengths))  # the shortcut to the last
    torch.testing.assert_close(final, together[np.arange(len(order)), lengths - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@settings(max_examples=25)
@given(data=st.data())
def test_neither_company_nor_order_of_users_changes_a_user_vector(
    pair: tuple[str, str], planted: Planted, data: st.DataObject
) -> None:
    """It is the state of the last item, or of a hidden one after it, whoever else is encoded."""
    method = _cached(pair, planted)
    lists = data.draw(st.lists(st.lists(st.integers(1, 20), max_size=8), min_size=1, max_size=6).filter(any))
    users = np.array(data.draw(st.permutations(range(len(lists))))) + 1
    found = method.user_vectors(from_lists(lists), users)
    for user, vector in zip(users, found, strict=True):
        items = lists[user - 1][-method.sizes.max_len :]
        alone = torch.zeros_like(vector)
        if items:
            asked = [*items, 0] if pair in CLOZE else items
            with torch.no_grad():
                alone = method.final(method.item_vectors()[asked], lay_out(np.array([len(asked)])))[0]
        torch.testing.assert_close(vector, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pair", CLOZE, ids="-".join)
def test_a_hidden_item_is_asked_for_from_both_sides(pair: tuple[str, str], planted: Planted) -> None:
    method = _cached(pair, planted)
    sequences = torch.tensor([[3, 7, 0, 20, 5], [4, 7, 0, 20, 5], [3, 7, 0, 20, 6]])
    with torch.no_grad():
        states = method.states(method.item_vectors()[sequences.flatten()], lay_out(np.array([5, 5, 5])))
    asked = states.view(3, 5, -1)[:, 2]
    assert (asked[1:] - asked[0]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("pair", CLOZE, ids="-".join)
def test_where_items_are_hidden_students_are_made_as_user_vectors_are(pair: tuple[str, str], planted: Planted) -> None:
    model = _fit(planted, *pair, "softmax", epochs=1)
    batch, method = next(_batches(model, planted, "softmax").epoch(np.random.default_rng(0))), model.method
    vectors = ItemVectors(method.item_vectors(), None)
    with torch.no_grad():
        students = method.batch_users(method.batch_states(batch, vectors), batch, vectors)
    expected = method.user_vectors(planted.split.train, batch.users.numpy())
    torch.testing.assert_close(students, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_renaming_items_renames_the_recommendations(pair: tuple[str, str], planted: Planted) -> None:
    method = _cached(pair, planted)
    rename = torch.cat(
        [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(20, generator=torch.Generator().manual_seed(3))]
    )
    items = torch.tensor([[3, 7, 1, 20], [5, 6, 2, 9]])
    with torch.no_grad():
        table = method.item_vectors()
        before = method.encode(items) @ table.T  # (B, L, I + 1)
        renamed = torch.empty_like(table)
        renamed[rename] = table  # the new id of item i is rename[i]
        states = method.states(renamed[rename[items]].flatten(0, 1), lay_out(np.array([4, 4])))
        after = states.unflatten(0, (2, 4)) @ renamed.T
    torch.testing.assert_close(after[..., rename], before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", [(*pair, "softmax") for pair in PAIRS] + CLASSICAL, ids="-".join)
def test_renaming_every_id_in_the_files_changes_no_figure(case: tuple[str, ...], planted: Planted) -> None:
    """New names in the same order: the whole pipeline, training included, gives the same ranks."""
    renamed = plant(
        walks().with_columns(
            pl.format("x{}", "user_id").alias("user_id"), pl.format("x{}", "item_id").alias("item_id")
        ),
        prefix="x",
    )
    ranks = [
        lt.evaluate(_fit(one, *case, epochs=2), one.split, protocol=lt.ProtocolConfig(sampled=5)).ranks
        for one in (planted, renamed)
    ]
    assert ranks[0].equals(ranks[1])


def test_shuffling_the_rows_of_the_file_changes_nothing(planted: Planted) -> None:
    shuffled = plant(walks().sample(fraction=1.0, shuffle=True, seed=5))
    assert shuffled.data.hash == planted.data.hash
    first, second = (_fit(one, "llmesr", "sasrec", "bce", epochs=2) for one in (planted, shuffled))
    assert first.recommend(users=["u001"]).equals(second.recommend(users=["u001"]))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("max_len", [3, 50])
def test_what_inference_reads_has_been_trained(pair: tuple[str, str], max_len: int) -> None:
    """With histories of one length, no position of a test-time sequence may be one that no target ever reached."""
    walk = walks().with_columns(timestamp=pl.col("timestamp").cast(pl.Int64))
    equal = walk.filter(pl.len().over("user_id") >= 7).group_by("user_id", maintain_order=True).head(7)
    planted = plant(equal)
    settings = {"backbone": {"d": 8, "max_len": max_len, "dropout": 0.0}, "neighbors": {"k": 2}}
    more = {
        "train": {"loss": "softmax", "epochs": 1, "device": "cpu"},
        "method": {"alpha": 0} if pair[0] == "llmesr" else {},
    }
    model = lt.Recommender(*pair, {**settings, **more}).fit(planted.split, items=planted.items, users=planted.users)
    fresh = lt.Recommender(*pair, {**settings, **more, "train": {"lr": 1e-30, "epochs": 1, "device": "cpu"}})
    before = fresh.fit(planted.split, items=planted.items, users=planted.users).method.backbone.state_dict()
    positions = model.method.backbone.state_dict().get("positions.weight")
    if positions is None:
        pytest.skip("no positions")
    used = model.method.sizes.max_len
    assert used == min(max_len, 4)  # five training items: positions 0 to 3 have targets
    used += pair in CLOZE  # and MASK comes after
    assert (positions[:used] != before["positions.weight"][:used]).any(dim=1).all()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_losses_have_names_and_are_finite(case: tuple[str, str, str], planted: Planted) -> None:
    model = _fit(planted, *case, epochs=1)
    batches = _batches(model, planted, case[2])
    model.method.train()
    model.method.start_epoch()
    losses = model.method.loss(model.method.plan(next(batches.epoch(np.random.default_rng(0)))))
    assert "rank" in losses and all(math.isfinite(value.item()) for value in losses.values())


_METHODS: dict[tuple[str, str], TrainedMethod] = {}


def _cached(pair: tuple[str, str], planted: Planted) -> TrainedMethod:
    """A lightly trained method; Hypothesis calls a test many times."""
    if pair not in _METHODS:
        _METHODS[pair] = _untrained(*pair, planted)
    return _METHODS[pair]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_step_stays_on_its_device_and_never_waits_for_it(case: tuple[str, str, str], planted: Planted) -> None:
    """On torch's meta device, which has shapes but no values, reading a value back to decide or a tensor left on the CPU
    is an error: what passes here runs on a GPU without synchronising. Every weight learns in one stage or another."""
    model = _fit(planted, *case, epochs=1)
    batches = _batches(model, planted, case[2])
    method, steps, there = model.method.train(), [], torch.device("meta")
    for stage in range(1, method.stages + 1):
        method.stage = stage
        method.start_epoch()
        steps.append(method.plan(next(batches.epoch(np.random.default_rng(0)))))
    method.to(there)
    for stage, step in enumerate(steps, start=1):
        method.stage = stage
        losses = method.loss(moved(step, there))
        torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(("backbone", "setting"), [("bert4rec", {"masked": 0.3}), ("gru4rec", {"targets": "last"})])
def test_what_a_backbone_says_of_its_targets_reaches_the_training(
    backbone: str, setting: dict[str, float | str], planted: Planted
) -> None:
    train = {"train": {"loss": "softmax", "epochs": 1, "batch_size": 16, "device": "cpu"}}
    tables = []
    for more in ({}, setting):
        settings = {**train, "backbone": {"d": 8, "max_len": 8, "dropout": 0.0, **more}}
        tables.append(lt.Recommender("plain", backbone, settings).fit(planted.split).method.item_vectors())
    assert not torch.equal(*tables)
