"""Each ablation and variant of LLM-ESR changes what it says and nothing else, against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.config import build
from longtail.data.histories import from_lists
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.llmesr import LLMESR, LLMESRConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.items import ItemVectors, principal_components
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss, sampler

LISTS = [[1, 2, 3, 4, 5, 6, 7], [3, 4], [], [8, 1, 9], [2], [5, 5, 6]]
NEIGHBORS = np.array([[0, 0], [2, 4], [1, 0], [1, 2], [5, 0], [4, 6], [0, 0]])
MAX_LEN, D = 5, 8
VIEWS = {
    "collaborative": {"views": "collaborative", "fusion": "none"},
    "semantic": {"views": "semantic", "fusion": "none"},
}


def _embeddings() -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    made[0] = 0
    return made


def _method(loss: str = "bce", drawn: str = "xavier", **settings: object) -> LLMESR:
    torch.manual_seed(0)
    backbone = SASRec(SASRecConfig(d=D, max_len=MAX_LEN, dropout=0.0, start=drawn))
    method = LLMESR(LLMESRConfig(**settings), backbone, rank_loss(loss, 9), Sizes(9, 12, D, MAX_LEN))
    method.prepare(from_lists(LISTS), Knowledge(_embeddings(), NEIGHBORS))
    return method


def _batch(lists: list[list[int]] = LISTS, loss: str = "bce") -> SequenceBatch:
    histories = from_lists(lists)
    batches = TrainingBatches(histories, sampler(loss, histories, 9), batch_size=6, max_len=MAX_LEN)
    return next(batches.epoch(np.random.default_rng(0)))


def _losses(method: LLMESR) -> dict[str, float]:
    method.start_epoch()
    return {name: value.item() for name, value in method.loss(method.plan(_batch())).items()}


def _shapes(method: LLMESR) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in method.state_dict().items()}


ADDED_AND_LOST = {  # prefixes of the weights a value adds to the default's, and of those it takes away
    ("alpha", 0.0): ((), ()),
    ("distillation", "contrastive"): ((), ()),
    ("students_below", 80.0): ((), ()),
    ("start", "random"): ((), ()),
    ("alignment", 0.5): ((), ()),
    ("adapter", "one_layer"): (("semantic.first.",), ("semantic.first.", "semantic.second.")),
    ("embeddings", "trained"): (("semantic.embeddings",), ()),
    ("encoder", "split"): (("twin.",), ()),
    ("fusion", "none"): ((), ("fusion.",)),
    ("fusion", "gated"): (("fusion.",), ("fusion.",)),
    ("fusion", "residual"): (("fusion.",), ("fusion.",)),
    ("fusion", "late"): (("late.weights",), ("fusion.",)),
}


@pytest.mark.parametrize(("setting", "changes"), ADDED_AND_LOST.items(), ids=lambda x: "_".join(map(str, x)))
def test_a_value_adds_and_takes_away_the_weights_it_names_and_no_others(
    setting: tuple[str, object], changes: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    plain, varied = _shapes(_method()), _shapes(_method(**dict([setting])))
    added = {name for name in varied if plain.get(name) != varied[name]}
    lost = {name for name in plain if plain[name] != varied.get(name)}
    for names, prefixes in ((added, changes[0]), (lost, changes[1])):
        assert all(name.startswith(prefixes) for name in names) if prefixes else not names
        assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)


@pytest.mark.parametrize("view", VIEWS)
def test_one_view_alone_is_the_backbone_over_that_views_vectors(view: str) -> None:
    method = _method(**VIEWS[view])
    assert not any(name.startswith(("fusion", "late", "twin")) for name in method.state_dict())
    assert {"collaborative", "semantic"} & {name.split(".")[0] for name in method.state_dict()} == {view}
    method.eval()
    own = {
        "collaborative": lambda: method.collaborative.table,
        "semantic": lambda: method.semantic.second(method.semantic.first(torch.from_numpy(_embeddings()))),
    }[view]()
    torch.testing.assert_close(method.item_vectors(), own)
    one = lay_out(np.array([3]))
    ids = torch.tensor([3, 1, 4])
    expected = method.backbone(method.backbone.embed(own[ids], one), one)
    torch.testing.assert_close(method.states(own[ids], one), expected)
    torch.testing.assert_close(method.final(own[ids], one), expected[-1:])
    assert set(_losses(method.train())) == {"rank", "distillation"}


def test_without_the_semantic_view_and_with_a_random_start_no_text_is_needed() -> None:
    config = LLMESRConfig(**VIEWS["collaborative"], start="random")
    assert not config.needs_embeddings and config.needs_neighbors
    method = LLMESR(config, SASRec(SASRecConfig(d=D, max_len=5)), rank_loss("bce", 9), Sizes(9, 0, D, MAX_LEN))
    method.prepare(from_lists(LISTS), Knowledge(None, NEIGHBORS))
    assert math.isfinite(sum(_losses(method).values()))
    assert all(LLMESRConfig(**VIEWS[view]).needs_embeddings for view in VIEWS)


@pytest.mark.parametrize("drawn", ["xavier", "normal"])
def test_a_random_start_draws_the_collaborative_view_as_the_backbone_draws_weights(drawn: str) -> None:
    pca, random = _method(drawn=drawn), _method(drawn=drawn, start="random")
    torch.testing.assert_close(pca.collaborative.table, torch.from_numpy(principal_components(_embeddings(), D)))
    torch.manual_seed(0)
    backbone = SASRec(SASRecConfig(d=D, max_len=MAX_LEN, dropout=0.0, start=drawn))
    expected = torch.empty(10, D)
    backbone.start(expected)
    assert torch.equal(random.collaborative.table, expected)
    rest = {name: value for name, value in random.state_dict().items() if not name.startswith("collaborative")}
    assert all(torch.equal(value, pca.state_dict()[name]) for name, value in rest.items())


def test_split_encoders_run_each_view_through_its_own_backbone() -> None:
    method = _method(encoder="split")
    assert not torch.equal(method.twin.positions.weight, method.backbone.positions.weight)  # drawn apart
    assert sum(p.numel() for p in method.twin.parameters()) == sum(p.numel() for p in method.backbone.parameters())
    ids, one = torch.tensor([3, 1, 4, 1]), lay_out(np.array([4]))
    vectors = method.item_vectors()[ids]
    co, se = method.backbone.embed(vectors[:, :D], one), method.twin.embed(vectors[:, D:], one)
    co, se = method.fusion(torch.stack([co, se], 1), one, causal=True).unbind(1)
    expected = torch.cat([method.backbone(co, one), method.twin(se, one)], -1)
    torch.testing.assert_close(method.states(vectors, one), expected)
    torch.testing.assert_close(method.final(vectors, one), expected[-1:])


def test_split_encoders_both_teach_without_dropout() -> None:
    method = _method(encoder="split")
    for module in (method.backbone, method.twin):
        module.dropout.p = 0.5
    method.train()
    step = method.plan(_batch())
    first, again = method.teach(step.teachers)[0], method.teach(step.teachers)[0]
    assert torch.equal(first, again) and method.backbone.training and method.twin.training


def test_late_fusion_is_a_weighted_sum_of_the_two_scores() -> None:
    late, none = _method(fusion="late"), _method(fusion="none")
    with torch.no_grad():
        late.late.weights.copy_(torch.tensor([0.5, 3.0]))
    late.eval(), none.eval()
    u, v = late.encode(torch.tensor([[1, 2, 3]]))[0, -1], none.encode(torch.tensor([[1, 2, 3]]))[0, -1]
    table = none.item_vectors()
    expected = 0.5 * table[:, :D] @ v[:D] + 3.0 * table[:, D:] @ v[D:]
    torch.testing.assert_close(late.item_vectors() @ u, expected)


@pytest.mark.parametrize("settings", [{}, {"encoder": "split"}, {"fusion": "late"}, *VIEWS.values()], ids=str)
def test_padding_alone_ends_in_each_views_own_encoder(settings: dict[str, object]) -> None:
    method = _method(drop_last=True, **settings)
    with torch.no_grad():
        for number, encoder in enumerate(method.encoders(), start=1):
            encoder.norm.bias.fill_(number)
        if method.late is not None:
            method.late.weights.copy_(torch.tensor([2.0, 3.0]))
    expected = {"split": [1.0, 2.0], "late": [2.0, 3.0]}.get(str(settings.get("encoder") or settings.get("fusion")))
    expected = expected or ([1.0] if "views" in settings else [1.0, 1.0])
    torch.testing.assert_close(method.nothing(), torch.tensor([expected]).repeat_interleave(D, 1))
    zero = _method(**settings).nothing()
    assert zero.shape == (1, len(expected) * D) and not zero.any()


@pytest.mark.parametrize("fusion", ["gated", "residual"])
def test_a_fusion_of_sequences_feeds_the_shared_backbone(fusion: str) -> None:
    method = _method(fusion=fusion)
    ids, one = torch.tensor([3, 1, 4, 1]), lay_out(np.array([4]))
    vectors = method.item_vectors()[ids]
    embedded = torch.stack([method.backbone.embed(half, one) for half in vectors.chunk(2, 1)], 1)
    fused = method.fusion(embedded, one, causal=True)
    expected = torch.cat([method.backbone(view, one) for view in fused.unbind(1)], -1)
    torch.testing.assert_close(method.states(vectors, one), expected)


@pytest.mark.parametrize("teacher", ["exact", "bank"])
def test_contrastive_distillation_changes_that_loss_alone(teacher: str) -> None:
    method = _method(teacher=teacher, distillation="contrastive", temperature=0.7, alpha=0.3)
    plain = _losses(_method(teacher=teacher, alpha=0.3))
    method.start_epoch()
    step = method.plan(_batch())
    losses = method.loss(step)
    assert losses["rank"].item() == pytest.approx(plain["rank"], rel=1e-6) and set(losses) == set(plain)
    t, taught = method.teach(step.teachers)
    states = method.batch_states(step.batch, ItemVectors(method.item_vectors(), None))
    u, t = states[step.batch.sequences.layout.ends][taught], t[taught]
    assert 1 < len(u) < len(taught)
    cosines = (u / u.norm(dim=1, keepdim=True)) @ (t / t.norm(dim=1, keepdim=True)).T / 0.7
    slow = 0.3 * -cosines.log_softmax(1).diagonal().mean()
    assert losses["distillation"].item() == pytest.approx(slow.item(), rel=1e-4)
    other = _losses(_method(teacher=teacher, distillation="contrastive", temperature=0.1, alpha=0.3))
    assert other["distillation"] != pytest.approx(slow.item(), rel=1e-2)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_alignment_draws_the_views_of_the_sequences_items_together_and_no_others(loss: str) -> None:
    method = _method(loss, alignment=0.5, temperature=0.4, alpha=0.0)
    batch = _batch([[1, 2, 3], [2, 5], [], [], [], []], loss)
    losses = method.loss(method.plan(batch))
    assert set(losses) == {"rank", "alignment"}
    ids = torch.tensor([1, 2, 3, 5])
    co = method.collaborative.table[ids]
    se = method.semantic.second(method.semantic.first(torch.from_numpy(_embeddings())[ids]))
    cosines = _unit(co) @ _unit(se).T / 0.4
    slow = -(cosines.log_softmax(1).diagonal().mean() + cosines.log_softmax(0).diagonal().mean()) / 2
    assert losses["alignment"].item() == pytest.approx(0.5 * slow.item(), rel=1e-4)
    losses["alignment"].backward()
    touched = method.collaborative.table.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == ids.tolist() and method.semantic.first.weight.grad.abs().sum() > 0
    assert "alignment" not in method.loss(_method(loss).plan(batch))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("teacher", ["exact", "bank"])
def test_only_users_below_the_percentile_are_distilled(teacher: str) -> None:
    """Training counts 7, 2, 0, 3, 1, 3: the 60th percentile is 3, and 1, 4 and 6 are head."""
    method = _method(teacher=teacher, students_below=60.0)
    method.start_epoch()
    step = method.plan(_batch())
    _, taught = method.teach(step.teachers)
    users = step.batch.users
    assert set(users[taught].tolist()) == {2, 5}  # who have neighbors
    everybody = _method(teacher=teacher)
    everybody.start_epoch()
    step = everybody.plan(_batch())
    assert set(step.batch.users[everybody.teach(step.teachers)[1]].tolist()) == {1, 2, 4, 5}


def test_trained_embeddings_are_trained_and_saved_and_frozen_ones_neither() -> None:
    for settings, trained in (({}, False), ({"embeddings": "trained"}, True)):
        method = _method(**settings)
        sum(method.loss(method.plan(_batch())).values()).backward()
        assert ("semantic.embeddings" in dict(method.named_parameters())) == trained
        assert ("semantic.embeddings" in method.state_dict()) == trained
        if trained:
            assert method.semantic.embeddings.grad[[1, 2, 3]].abs().sum() > 0
            torch.testing.assert_close(method.semantic.embeddings.detach(), torch.from_numpy(_embeddings()))


def test_the_values_of_a_setting_give_different_models() -> None:
    """Every one of the values in the table above, and both single views, changes a loss or a score."""
    base, scores = _losses(_method()), _scores(_method())
    for name, value in [*ADDED_AND_LOST, *(("views", view) for view in VIEWS)]:
        method = _method(**VIEWS[value] if name == "views" else {name: value})
        # late weights start at one, and trained embeddings at the LLM's: they differ after a step
        if (name, value) in {("fusion", "late"), ("embeddings", "trained")}:
            continue
        same = _losses(method) == pytest.approx(base, rel=1e-5) and torch.allclose(_scores(method), scores)
        assert not same, (name, value)


def _scores(method: LLMESR) -> Tensor:
    method.eval()
    scores = method.encode(torch.tensor([[1, 2, 3]]))[0, -1] @ method.item_vectors().T
    method.train()
    return scores.detach()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": "none"}, "views = 'none': input should be 'both', 'collaborative' or 'semantic'"),
        (
            {"views": "semantic"},
            r"^method: views = 'semantic' leaves nothing for fusion = 'cross_attention' to work on; set fusion = 'none', or",
        ),
        ({"views": "collaborative", "fusion": "late"}, r"views = 'collaborative' leaves nothing for fusion = 'late'"),
        ({**VIEWS["semantic"], "fusion_causal": False}, r"nothing for fusion_causal = False .* fusion_causal = True"),
        ({**VIEWS["semantic"], "encoder": "split"}, r"nothing for encoder = 'split' .* set encoder = 'shared'"),
        ({**VIEWS["collaborative"], "alignment": 0.1}, r"nothing for alignment = 0.1 .* set alignment = 0.0"),
        ({**VIEWS["semantic"], "start": "random"}, r"nothing for start = 'random' .*, or views = 'both'"),
        ({**VIEWS["collaborative"], "adapter": "one_layer"}, r"nothing for adapter = 'one_layer'"),
        ({**VIEWS["collaborative"], "embeddings": "trained"}, r"nothing for embeddings = 'trained'"),
        ({"students_below": 100}, "students_below = 100: input should be less than 100"),
        ({"temperature": 0}, "temperature = 0: input should be greater than 0"),
        ({"fusion": "gate"}, "fusion = 'gate': input should be 'cross_attention', 'none', 'gated'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(LLMESRConfig, settings, "method")
