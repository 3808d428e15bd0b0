"""Each fusion of the views against its equation, one sequence and one view at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.errors import ConfigError
from longtail.nn.fuse import Gated, Late, Residual, sequence_fusion
from longtail.nn.layout import lay_out

LENGTHS = np.array([2, 5, 1])


def _sequences(d: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(LENGTHS.sum(), 2, d)).astype(np.float32))


def _slow_attention(fusion: Gated | Residual, x: Tensor) -> Tensor:
    """A_co = Attn(Q = S_se, K = V = S_co) and A_se the other way round, of one sequence (L, 2, d), causal, head by head."""
    made = []
    for own, part in ((0, fusion.attention.collaborative), (1, fusion.attention.semantic)):
        q, k, v = part.query(x[:, 1 - own]), part.key(x[:, own]), part.value(x[:, own])
        width = q.shape[1] // 2
        heads = []
        for head in (slice(0, width), slice(width, None)):
            scores = (q[:, head] @ k[:, head].T) / width**0.5
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(1) @ v[:, head])
        made.append(part.output(torch.cat(heads, 1)))
    return torch.stack(made, 1)


@pytest.mark.parametrize("name", ["gated", "residual"])
def test_a_fusion_beyond_the_paper_equals_its_equation(name: str) -> None:
    torch.manual_seed(0)
    fusion = sequence_fusion(name, 4)
    x = _sequences()
    slow = []
    for s in x.split(LENGTHS.tolist()):
        a = _slow_attention(fusion, s)
        views = []
        for view, own in enumerate((fusion.collaborative, fusion.semantic)):
            if name == "gated":
                g = 1 / (1 + torch.exp(-own(torch.cat([s[:, view], a[:, view]], 1))))
                views.append(g * s[:, view] + (1 - g) * a[:, view])
            else:
                total = s[:, view] + a[:, view]
                centred = total - total.mean(1, keepdim=True)
                views.append(centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * own.weight + own.bias)
        slow.append(torch.stack(views, 1))
    torch.testing.assert_close(fusion(x, lay_out(LENGTHS), causal=True), torch.cat(slow), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cross_attention", "gated", "residual"])
def test_a_causal_fusion_never_reads_the_future_and_a_bidirectional_one_does(name: str) -> None:
    fusion = sequence_fusion(name, 4)
    reads = {}
    for causal in (True, False):
        x = _sequences().requires_grad_()
        fusion(x, lay_out(LENGTHS), causal=causal)[2].square().sum().backward()  # first item of the second sequence
        assert not x.grad[:2].any() and not x.grad[7:].any()  # nor other sequences
        reads[causal] = bool(x.grad[3:7].abs().sum() > 1e-6)
    assert reads == {True: False, False: True}


def test_late_fusion_weighs_the_views_and_starts_at_one() -> None:
    late = Late()
    states = _sequences()
    assert torch.equal(late(states), states)
    with torch.no_grad():
        late.weights.copy_(torch.tensor([2.0, -0.5]))
    torch.testing.assert_close(late(states), torch.stack([2.0 * states[:, 0], -0.5 * states[:, 1]], 1))
    assert sequence_fusion("late", 4) is None and sequence_fusion("none", 4) is None


def test_a_width_that_has_no_two_heads_is_refused() -> None:
    for name in ("cross_attention", "gated", "residual"):
        with pytest.raises(ConfigError, match=r"backbone.d = 5 cannot be split into the 2 heads .* make it even"):
            sequence_fusion(name, 5)
