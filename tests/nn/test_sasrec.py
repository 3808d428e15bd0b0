"""SASRec: how its weights start, and its released behaviour against literally padded sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from longtail.methods.base import Sizes
from longtail.methods.plain import Plain
from longtail.model import ModelConfig, build_method
from longtail.nn.attention import Attention
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


LENGTHS = (1, 2, 4, 7)
MAX_LEN = 7


def _released(causal: bool, heads: int = 2) -> SASRec:
    with seeded(5):
        config = SASRecConfig(d=8, heads=heads, max_len=MAX_LEN, dropout=0.0, causal=causal, pads="attended")
        backbone = SASRec(config)
        for parameter in backbone.parameters():  # norms and biases too: at their start they would hide mistakes
            nn.init.normal_(parameter, std=0.4)
    return backbone


def _padded(backbone: SASRec, embedded: Tensor, causal: bool) -> Tensor:
    """States (n, d) of one embedded sequence (n, d), zeros put before it up to max_len and attended to.

    Torch's own attention; what stands at padding is zeroed before and after every block, as in the released code.
    """
    x = torch.cat([embedded.new_zeros(MAX_LEN - len(embedded), embedded.shape[1]), embedded])
    real = (torch.arange(MAX_LEN) >= MAX_LEN - len(embedded))[:, None]
    later = torch.ones(MAX_LEN, MAX_LEN, dtype=torch.bool).triu(1) if causal else None
    for block in backbone.blocks:
        mine = block.attention
        parts = [(getattr(mine, name).weight, getattr(mine, name).bias) for name in ("query", "key", "value")]
        q = block.attention_norm(x)
        attended, _ = nn.functional.multi_head_attention_forward(
            *(q, x, x, x.shape[1], mine.heads),
            *(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
            *(None, None, False, 0.0, mine.output.weight, mine.output.bias),
            attn_mask=later,
            training=False,
        )
        h = block.forward_norm(q + attended)
        x = (h + block.feed_forward(h)) * real
    return backbone.norm(x)[MAX_LEN - len(embedded) :]


@pytest.mark.parametrize("causal", [False, True])
def test_attended_pads_are_those_of_literally_padded_sequences(causal: bool) -> None:
    """States, last states and gradients, two views at once, in boxes of several lengths."""
    backbone = _released(causal)
    layout = lay_out(np.array(LENGTHS), np.array([2, 7]))
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(sum(LENGTHS), 2, 8, generator=generator)
    weights = torch.randn(sum(LENGTHS), 2, 8, generator=generator)
    states = backbone(backbone.embed(views, layout), layout)
    (states * weights).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in backbone.named_parameters()}
    backbone.zero_grad()

    embedded = backbone.embed(views, layout)
    slow = torch.cat(
        [
            torch.stack([_padded(backbone, part[:, view], causal) for view in (0, 1)], 1)
            for part in embedded.split(LENGTHS)
        ]
    )
    torch.testing.assert_close(states, slow, rtol=0, atol=2e-5)
    torch.testing.assert_close(backbone.final(embedded, layout), layout.last(slow), rtol=0, atol=2e-5)
    (slow * weights).sum().backward()
    for name, parameter in backbone.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_a_sequence_of_padding_alone_has_the_state_of_zero_vectors() -> None:
    backbone = _released(causal=False)
    torch.testing.assert_close(backbone.padding_state(), backbone.norm.bias)
    with torch.no_grad():  # a literal one: zero goes in, and is zeroed again after each block
        x = torch.zeros(MAX_LEN, 8)
        for block in backbone.blocks:
            x = block(x, lay_out(np.array([MAX_LEN]))) * 0
        torch.testing.assert_close(backbone.padding_state(), backbone.norm(x)[-1])


def test_the_number_of_pads_matters_only_where_they_are_attended_to() -> None:
    layout, vectors = lay_out(np.array([3])), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for pads, same in (("masked", True), ("attended", False)):
        states = []
        for max_len in (7, 200):
            with seeded(3):
                backbone = SASRec(SASRecConfig(d=8, max_len=200, dropout=0.0, pads=pads))
            for block in backbone.blocks:
                block.padded = max_len if pads == "attended" else None
            states.append(backbone(vectors, layout))
        assert torch.allclose(*states) == same


@pytest.mark.parametrize(("causal", "sees"), [(True, False), (False, True)])
def test_only_without_the_causal_mask_does_a_position_see_later_ones(causal: bool, sees: bool) -> None:
    with seeded(3):
        backbone = SASRec(SASRecConfig(d=8, max_len=9, dropout=0.0, causal=causal))
    vectors = torch.randn(4, 8, requires_grad=True)
    (backbone(vectors, lay_out(np.array([4])))[1] @ torch.arange(8.0)).backward()
    assert bool(vectors.grad[2:].abs().sum() > 1e-6) == sees


def test_dropout_leaves_of_many_pads_what_it_leaves_of_so_many_keys() -> None:
    """Mean and deviation of 3,000 draws, against dropout of the weights of 40 literal pads; one key would vary more."""
    torch.manual_seed(0)
    attention = Attention(6, 1, bias=True, dropout=0.5)
    nn.init.normal_(attention.value.bias)
    layout, x, count = lay_out(np.array([2])), torch.randn(2, 6), 40
    with torch.no_grad():
        ours = torch.stack([attention(x, x, layout, causal=False, pads=torch.tensor([count])) for _ in range(3000)])
        padded = torch.cat([torch.zeros(count, 6), x])
        q, k, v = attention.query(x), attention.key(padded), attention.value(padded)
        weights = (q @ k.T / 6**0.5).softmax(-1)  # (2, 42)
        kept = torch.rand(3000, *weights.shape) < 0.5
        theirs = attention.output((weights * kept / 0.5) @ v)
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.1, atol=1e-3)
