"""GRU4Rec, BERT4Rec and LiGR against slow references, one sequence and one view at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.nn.backbones.base import Backbone, backbones
from longtail.nn.layout import lay_out
from longtail.train.engine import seeded

D, LENGTHS, BOUNDS = 6, np.array([1, 2, 2, 5, 7]), np.array([2, 7])


def _backbone(name: str, **settings: float | str) -> Backbone:
    config, backbone = backbones.get(name)
    with seeded(3):
        return backbone(config(name=name, d=D, max_len=9, **{"dropout": 0.0, **settings}))


def _states(backbone: Backbone, vectors: Tensor, lengths: np.ndarray, bounds: np.ndarray | None = None) -> Tensor:
    layout = lay_out(lengths, bounds)
    return backbone(backbone.embed(vectors, layout), layout)


def _slow_gru(backbone: Backbone, sequence: Tensor) -> Tensor:
    """(L, d) to (L, d): r and z gate, n is new; h' = (1 - z) n + z h, all without bias."""
    inner, outer = backbone.gru.weight_ih_l0.chunk(3), backbone.gru.weight_hh_l0.chunk(3)
    h, states = torch.zeros(D), []
    for x in sequence:
        r, z = ((inner[gate] @ x + outer[gate] @ h).sigmoid() for gate in (0, 1))
        n = (inner[2] @ x + r * (outer[2] @ h)).tanh()
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.stack(states)


def _attended(attention: torch.nn.Module, x: Tensor, *, causal: bool) -> Tensor:
    """(L, d) to (L, d), with one head."""
    scores = attention.query(x) @ attention.key(x).T / D**0.5
    if causal:
        scores = scores + torch.full(scores.shape, -torch.inf).triu(1)
    return attention.output(scores.softmax(-1) @ attention.value(x))


def _slow_ligr(backbone: Backbone, sequence: Tensor) -> Tensor:
    x = D**0.5 * sequence + backbone.positions.weight[: len(sequence)]
    for block in backbone.blocks:
        x = x + block.attention_gate(x).sigmoid() * _attended(block.attention, block.attention_norm(x), causal=True)
        gate, value = block.inner(block.forward_norm(x)).split(4 * D, -1)
        x = x + block.forward_gate(x).sigmoid() * block.outer(gate * gate.sigmoid() * value)
    return backbone.norm(x)


def _slow_bert(backbone: Backbone, sequence: Tensor) -> Tensor:
    x = D**0.5 * sequence + backbone.positions.weight[: len(sequence)]
    for block in backbone.blocks:
        query = block.attention_norm(x)
        scores = block.attention.query(query) @ block.attention.key(x).T / D**0.5
        h = block.forward_norm(query + block.attention.output(scores.softmax(-1) @ block.attention.value(x)))
        x = h + block.feed_forward(h)
    return backbone.norm(x)


SLOW = {"gru4rec": _slow_gru, "ligr": _slow_ligr, "bert4rec": _slow_bert}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("bounds", [None, BOUNDS], ids=["one box", "two boxes"])
def test_states_and_gradients_are_those_of_one_sequence_and_one_view_at_a_time(name: str, bounds: np.ndarray) -> None:
    backbone = _backbone(name)
    vectors = torch.randn(LENGTHS.sum(), 2, D, generator=torch.Generator().manual_seed(0))
    found = _states(backbone, vectors, LENGTHS, bounds)
    sequences = vectors.split(LENGTHS.tolist())
    slow = torch.cat([torch.stack([SLOW[name](backbone, one[:, view]) for view in (0, 1)], 1) for one in sequences])
    torch.testing.assert_close(found, slow, rtol=0, atol=2e-6)
    weights = torch.randn_like(slow)
    gradients = [torch.autograd.grad((one * weights).sum(), list(backbone.parameters())) for one in (found, slow)]
    for fast, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SLOW)
def test_dropout_is_for_training_alone(name: str) -> None:
    backbone, vectors = _backbone(name, dropout=0.5), torch.randn(17, D)
    with seeded(1):
        assert not torch.equal(_states(backbone, vectors, LENGTHS), _states(backbone, vectors, LENGTHS))
    backbone.eval()
    assert torch.equal(_states(backbone, vectors, LENGTHS), _states(backbone, vectors, LENGTHS))


def test_what_training_predicts_is_a_setting_of_the_backbone() -> None:
    assert [_backbone("bert4rec", **more).masked for more in ({}, {"masked": 0.3})] == [0.6, 0.3]
    assert _backbone("sasrec").masked is None
    assert [_backbone("gru4rec", **more).last_only for more in ({}, {"targets": "last"})] == [False, True]


def test_ligr_starts_by_hardly_changing_what_it_is_given() -> None:
    """As a normal start does for SASRec: the state of each token points where its own vector does."""
    vectors = torch.randn(12, D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = _states(_backbone("ligr"), vectors, np.array([5, 7]))
    centred = vectors - vectors.mean(1, keepdim=True)
    assert torch.cosine_similarity(states, centred).min() > 0.99
