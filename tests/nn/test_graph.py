"""The graph of items: its edges against slow loops, and losses of scores with something added against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.nn import graph, losses
from longtail.nn.graph import ItemGraph, Offsets, nearest_by_text
from longtail.nn.items import ItemVectors
from longtail.nn.negatives import Negatives, NoNegatives

ITEMS = 9
LISTS = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=6), min_size=1, max_size=7)


def some_graph(seed: int = 0, M: int = 3) -> ItemGraph:
    draws = np.random.default_rng(seed)
    ids = np.stack([draws.permutation(ITEMS)[:M] + 1 for _ in range(ITEMS + 1)]).astype(np.int32)
    weights = draws.random((ITEMS + 1, M), dtype=np.float32)
    ids[0], weights[0], ids[4, 1:], weights[4, 1:] = 0, 0, 0, 0  # padding, and an item with one edge
    return ItemGraph(torch.from_numpy(ids), torch.from_numpy(weights))


@given(LISTS, st.integers(1, 4), st.booleans(), st.integers(1, 40))
def test_scores_are_those_of_a_loop_over_edges(lists: list[list[int]], b: int, by_item: bool, entries: int) -> None:
    edges, asked, decay = some_graph(), from_lists(lists), 0.7
    slow = np.zeros((len(lists), ITEMS + 1))
    for row, history in enumerate(lists):
        for age, j in enumerate(reversed(history)):
            for i, w in zip(edges.ids[j].tolist(), edges.weights[j].tolist(), strict=True):
                slow[row, i] += decay**age * w
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graph, "ENTRIES", entries)
        for start in range(0, len(lists), b):
            part = slice(start, min(start + b, len(lists)))
            n = part.stop - part.start
            scores = torch.ones(ITEMS + 1, n).T if by_item else torch.ones(n, ITEMS + 1)
            edges.adder(asked, decay)(scores, part)
            np.testing.assert_allclose(scores.numpy() - 1, slow[part], atol=1e-5)


def some_offsets(n: int, seed: int = 3) -> tuple[Offsets, torch.Tensor]:
    """Offsets of n rows, one pair of them twice, and the same as (n, ITEMS + 1)."""
    draws = np.random.default_rng(seed)
    items, rows, recency = draws.integers(1, ITEMS + 1, 3 * n), np.sort(draws.integers(0, n, 3 * n)), np.ones(3 * n)
    made = some_graph().offsets(items, rows, recency.astype(np.float32))
    dense = torch.zeros(n, ITEMS + 1).index_put((made.rows, made.items), made.values, accumulate=True)
    assert (dense > 0).sum() < len(made.values) and bool((made.rows.diff() >= 0).all())
    return made, dense


def some_scores(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (n, 4), item vectors (I + 1, 4) and targets (n,)."""
    draws = torch.Generator().manual_seed(1)
    states, table = (torch.randn(rows, 4, generator=draws, requires_grad=True) for rows in (n, ITEMS + 1))
    return states, table, torch.randint(1, ITEMS + 1, (n,), generator=draws)


@pytest.mark.parametrize("logits", [2**23, 20])
def test_softmax_with_offsets_is_cross_entropy_of_the_sums(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", logits)
    states, table, targets = some_scores(11)
    offsets, dense = some_offsets(11)
    none = NoNegatives().draw(np.arange(11), np.random.default_rng(0))
    made = losses.softmax(states, targets, none, ItemVectors(table, None), offsets)
    slow = torch.nn.functional.cross_entropy((states @ table.T + dense)[:, 1:], targets - 1)
    torch.testing.assert_close(made, slow)
    torch.testing.assert_close(torch.autograd.grad(made, (states, table)), torch.autograd.grad(slow, (states, table)))


@pytest.mark.parametrize("logits", [2**23, 20])
def test_sampled_softmax_with_offsets_is_that_of_the_sums(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", logits)
    states, table, targets = some_scores(11)
    drawn, log_expected = torch.tensor([1, 3, 4, 8]), torch.tensor([0.5, -1.0, 0.2, 0.1])
    offsets, dense = some_offsets(11)
    made = losses.softmax(states, targets, Negatives(drawn, log_expected), ItemVectors(table, None), offsets)
    scores = states @ table.T + dense
    others = (scores[:, drawn] - log_expected).masked_fill(drawn == targets[:, None], -torch.inf)
    own = scores.gather(1, targets[:, None])
    slow = (torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]).mean()
    torch.testing.assert_close(made, slow)
    torch.testing.assert_close(torch.autograd.grad(made, (states, table)), torch.autograd.grad(slow, (states, table)))


@pytest.mark.parametrize(("M", "rows"), [(3, 1024), (3, 2), (20, 4)])
def test_edges_by_text_are_how_far_a_cosine_is_above_the_next(
    M: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "ROWS", rows)
    embeddings = np.random.default_rng(5).normal(size=(ITEMS + 1, 4)).astype(np.float32)
    embeddings[[0, 6]] = 0  # padding, and an item without a text
    ids, gaps = nearest_by_text(embeddings, M)
    assert ids.shape == gaps.shape == (ITEMS + 1, M)
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    for j in range(ITEMS + 1):
        others = [i for i in range(1, ITEMS + 1) if i not in (j, 6)] if j not in (0, 6) else []
        near = sorted(others, key=lambda i: -float(units[j] @ units[i]))[: M + 1]
        floor = float(units[j] @ units[near[-1]]) if near else 0.0
        expected = {i: float(units[j] @ units[i]) - floor for i in near[:M]}
        assert {int(i) for i in ids[j] if i} == set(expected)
        for i, gap in zip(ids[j].tolist(), gaps[j].tolist(), strict=True):
            assert gap == pytest.approx(expected.get(i, 0.0), abs=1e-5)
