"""Layouts: padding and unpadding lose nothing, boxes cost least, and attention by boxes is attention one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.nn.attention import Attention, by_hand
from longtail.nn.layout import OVERHEAD, lay_out, length_bounds, moved, take

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(LENGTHS, st.lists(st.integers(1, 8), max_size=3))
def test_padding_and_unpadding_give_every_token_back(lengths: list[int], inner: list[int]) -> None:
    lengths = np.sort(lengths)
    layout = lay_out(lengths, np.array(sorted({*inner, 9})))
    x = torch.randn(lengths.sum(), 2, 3, requires_grad=True)
    boxes = layout.pad(x)
    assert [tuple(box.shape[:2]) for box in boxes] == list(layout.boxes)
    assert sum(box.shape[0] for box in boxes) == len(lengths)
    for box, real in zip(boxes, layout.real(), strict=True):
        assert not box[~real].any() and real.sum() == (box.abs().sum((2, 3)) > 0).sum()
    weights = torch.randn_like(x)
    (layout.unpad(boxes) * weights).sum().backward()
    torch.testing.assert_close(layout.unpad(boxes), x)
    torch.testing.assert_close(x.grad, weights)
    torch.testing.assert_close(layout.last(x), x[np.cumsum(lengths) - 1])


@settings(max_examples=30)
@given(LENGTHS, st.booleans())
def test_attention_over_a_layout_equals_attention_one_sequence_at_a_time(lengths: list[int], causal: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(6, 2, bias=True)
    lengths = np.sort(lengths)
    layout = lay_out(lengths, np.array([3, 9]))
    query, context = (torch.randn(lengths.sum(), 6) for _ in range(2))
    together = attention(query, context, layout, causal=causal)
    last = attention.last(layout.last(query), context, layout)
    twice = attention(*(torch.stack([x, x], 1) for x in (query, context)), layout, causal=causal)
    torch.testing.assert_close(twice, torch.stack([together, together], 1))
    for row, (stop, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        tokens = slice(stop - length, stop)
        q, k, v = attention.query(query[tokens]), attention.key(context[tokens]), attention.value(context[tokens])
        heads = []
        for head in (slice(0, 3), slice(3, 6)):
            scores = q[:, head] @ k[:, head].T / 3**0.5
            if causal:
                scores[torch.ones(length, length).triu(1).bool()] = -torch.inf
            heads.append(scores.softmax(-1) @ v[:, head])
        slow = attention.output(torch.cat(heads, -1))
        torch.testing.assert_close(together[tokens], slow, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[row], slow[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("views", [(), (2,)])
def test_the_gradient_of_attention_is_its_slope(causal: bool, p: float, views: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    attention = Attention(4, 2, bias=True, dropout=p).double()
    layout = lay_out(np.array([1, 2, 2, 4]), np.array([2, 4]))
    query, context = (torch.randn(9, *views, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def attended(query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)  # the same values are dropped every time
        return attention(query, context, layout, causal=causal)

    assert by_hand(query)
    torch.autograd.gradcheck(attended, (query, context))


def test_attention_with_dropout_agrees_on_average_with_attention_without() -> None:
    torch.manual_seed(0)
    attention = Attention(4, 1, bias=False, dropout=0.3)
    layout = lay_out(np.array([2, 5]))
    x = torch.randn(7, 4)
    dropped = torch.stack([attention(x, x, layout, causal=True) for _ in range(4000)]).mean(0)
    attention.eval()
    torch.testing.assert_close(dropped, attention(x, x, layout, causal=True), rtol=0, atol=0.05)


def test_taking_rows_has_the_gradient_of_indexing() -> None:
    x, index = torch.randn(5, 2, requires_grad=True), torch.tensor([4, 0, 2])
    weights = torch.randn(3, 2)
    (take(x, index) * weights).sum().backward()
    found, x.grad = x.grad, None
    (x[index] * weights).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_moving_keeps_the_shape_of_nested_tuples() -> None:
    layout = lay_out(np.array([1, 2, 3]))
    there = moved((layout, None, (torch.ones(2), 3)), torch.device("meta"))
    assert there[0].steps.device.type == there[2][0].device.type == "meta"
    assert there[0].boxes == layout.boxes and there[1] is None and there[2][1] == 3


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_length_bounds_cost_no_more_than_any_other_choice(lengths: list[int], batches: int) -> None:
    distinct = sorted(set(lengths))[:7]
    kept = np.array([length for length in lengths if length in distinct])

    def cost(bounds: tuple[int, ...]) -> float:
        total, low = 0.0, 0
        for high in bounds:
            total += high * sum(low < length <= high for length in kept) / batches + OVERHEAD
            low = high
        return total

    inner = [chosen for size in range(len(distinct)) for chosen in combinations(distinct[:-1], size)]
    best = min(cost((*chosen, distinct[-1])) for chosen in inner)
    assert cost(tuple(length_bounds(kept, batches).tolist())) == pytest.approx(best)
