"""Item vectors: the folded adapter, the distinct gather and the principal components equal their slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longtail.nn.items import Adapter, CollaborativeView, ItemVectors, SemanticView, distinct, principal_components


def _view(
    items: int = 12,
    width: int = 10,
    d: int = 4,
    adapter: Adapter = "two_layers",
    trained: bool = False,
    *,
    masked: bool = False,
) -> SemanticView:
    torch.manual_seed(0)
    view = SemanticView(items, width, d, adapter=adapter, trained=trained, masked=masked)
    embeddings = np.random.default_rng(0).normal(size=(items + 1, width)).astype(np.float32)
    embeddings[0] = 0
    view.attach(embeddings)
    return view


def test_the_folded_adapter_and_its_gradients_equal_the_two_layers() -> None:
    view = _view()
    weights = torch.randn(13, 4)
    slow = view.second(view.first(view.embeddings))
    (slow * weights).sum().backward()
    expected = {name: p.grad.clone() for name, p in view.named_parameters()}
    view.zero_grad()
    fast = view(None)
    (fast * weights).sum().backward()
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close({name: p.grad for name, p in view.named_parameters()}, expected)


def test_a_learned_vector_is_added_to_what_the_map_makes_of_no_text() -> None:
    plain, view = _view(), _view(masked=True)
    torch.testing.assert_close(view(None), plain(None))  # it starts at zero
    with torch.no_grad():
        view.mask.copy_(torch.arange(4.0))
    expected = plain(None).detach()
    expected[0] += torch.arange(4.0)
    ids = torch.tensor([0, 3, 7])
    for mode in (True, False):
        view.train(mode)
        torch.testing.assert_close(view(None), expected)
        torch.testing.assert_close(view(ids), expected[ids])
    view.train()
    view(ids).sum().backward()
    assert view.mask.grad.tolist() == [1.0] * 4


def test_in_evaluation_the_table_is_the_map_of_the_current_weights() -> None:
    view = _view()
    view.eval()
    with torch.no_grad():
        before = view(torch.tensor([3])).clone()
        view.second.bias.add_(1.0)
        view.train()
        view.eval()
        torch.testing.assert_close(view(torch.tensor([3])), before + 1.0)
        torch.testing.assert_close(view(None), view.second(view.first(view.embeddings)))


def test_an_adapter_of_one_layer_is_one_affine_map() -> None:
    view = _view(adapter="one_layer")
    assert {name: tuple(p.shape) for name, p in view.named_parameters()} == {
        "first.weight": (4, 10),
        "first.bias": (4,),
    }
    slow = torch.stack([view.first.weight @ row + view.first.bias for row in view.embeddings])
    torch.testing.assert_close(view(None), slow)
    view.eval()
    torch.testing.assert_close(view(torch.tensor([5, 2])), slow[[5, 2]])


def test_trained_embeddings_start_at_the_llms_and_move_in_their_own_copy() -> None:
    frozen, view = _view(), _view(trained=True)
    given = np.random.default_rng(0).normal(size=(13, 10)).astype(np.float32)
    given[0] = 0
    before = given.copy()
    view.attach(given)
    torch.testing.assert_close(view(None), frozen(None))
    ids = torch.tensor([2, 7])
    view(ids).square().sum().backward()
    gradient = view.embeddings.grad
    assert (gradient.abs().sum(1) > 0).nonzero().flatten().tolist() == [2, 7]
    with torch.no_grad():
        view.embeddings.sub_(gradient)
    assert np.array_equal(given, before)  # what was given may be a file
    moved = view(None).detach()
    assert (moved - frozen(None)).abs().sum(1).nonzero().flatten().tolist() == [2, 7]
    view.eval()
    torch.testing.assert_close(view.table, moved)


def test_a_trained_view_that_is_loaded_keeps_the_table_it_was_saved_with() -> None:
    """Bit for bit, even where another machine or thread count would fold to other last digits."""
    view = _view(trained=True).eval()
    saved = view.state_dict()
    assert set(saved) == {"embeddings", "table", "first.weight", "first.bias", "second.weight", "second.bias"}
    assert "embeddings" not in _view().state_dict()
    saved["table"] = saved["table"] + 1e-7
    again = SemanticView(12, 10, 4, trained=True)
    again.load_state_dict(saved)
    again.eval()
    assert torch.equal(again.table, saved["table"]) and torch.equal(again.embeddings, view.embeddings)


def test_the_distinct_gather_equals_a_look_up_in_the_whole_table() -> None:
    view = CollaborativeView(50, 4)
    items = [torch.tensor([[3, 0, 7], [7, 7, 49]]), torch.tensor([5])]
    ids = distinct(items, 50)
    assert ids is not None and ids.tolist() == [0, 3, 5, 7, 49]
    few, whole = ItemVectors(view(ids), ids), ItemVectors(view(None), None)
    for part in items:
        torch.testing.assert_close(few.of(part), whole.of(part))
    few.of(items[0]).sum().backward()
    gradient = view.table.grad.clone()
    view.table.grad = None
    whole.of(items[0]).sum().backward()
    torch.testing.assert_close(gradient, view.table.grad)
    assert distinct([torch.arange(30)], 50) is None  # the whole catalogue is cheaper


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    rows = np.random.default_rng(1).normal(size=(41, 9)).astype(np.float32)
    rows[0] = 0
    found = principal_components(rows, 5)
    centred = rows[1:] - rows[1:].mean(axis=0)
    _, _, v = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ v[:5].T
    np.testing.assert_allclose(np.abs(found[1:]), np.abs(expected), atol=1e-4)
    assert not found[0].any()
    assert not principal_components(rows, 12)[:, 9:].any()  # no more components than dimensions
    order = np.random.default_rng(2).permutation(40)
    shuffled = np.concatenate([rows[:1], rows[1:][order]])
    np.testing.assert_allclose(principal_components(shuffled, 5)[1:], found[1:][order], atol=1e-5)


def _two_views(each: bool, adapter: Adapter = "two_layers") -> SemanticView:
    """Views 6 and 4 wide; items 2 and 5 lack the first, items 5 and 7 the second."""
    torch.manual_seed(0)
    view = SemanticView(12, 10, 4, adapter=adapter, views=(6, 4), each=each)
    embeddings = np.random.default_rng(0).normal(size=(13, 10)).astype(np.float32)
    lacking = np.zeros((13, 2), np.float32)
    lacking[[2, 5], 0] = lacking[[5, 7], 1] = 1
    view.attach(embeddings, lacking)
    return view


def test_an_absent_view_has_a_learned_vector_that_only_its_items_get_and_teach() -> None:
    for each in (False, True):
        view = _two_views(each)
        before = view(None).detach()
        with torch.no_grad():
            view.absent.copy_(torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]]))
        added = (view(None) - before).round(decimals=4)
        assert [row for row in range(13) if added[row].any()] == [2, 5, 7]
        assert added[[2, 5, 7], 0].tolist() == [1, 11, 10]
        ids = torch.tensor([0, 5, 9])
        for mode in (True, False):
            view.train(mode)
            torch.testing.assert_close(view(ids), view(None)[ids])
        view.train()
        view(torch.tensor([1, 2, 3])).sum().backward()
        assert view.absent.grad.tolist() == [[1.0] * 4, [0.0] * 4]


def test_one_adapter_a_view_is_the_sum_of_what_each_makes_of_its_own() -> None:
    view = _two_views(each=True)
    text, image = view.embeddings[:, :6], view.embeddings[:, 6:]
    (pair,) = view.further
    slow = view.second(view.first(text)) + pair[1](pair[0](image))
    torch.testing.assert_close(view(None), slow)
    assert view.first.weight.shape == (3, 6) and pair[0].weight.shape == (2, 4)
    single = _two_views(each=True, adapter="one_layer")
    slow = single.first(text) + single.further[0][0](image)
    torch.testing.assert_close(single(None), slow)
    joint = _two_views(each=False)
    assert not len(joint.further) and joint.first.weight.shape == (5, 10)
    torch.testing.assert_close(joint(None), joint.second(joint.first(joint.embeddings)))


def test_one_view_has_the_weights_and_draws_of_before() -> None:
    torch.manual_seed(3)
    view = SemanticView(12, 10, 4)
    after = torch.rand(1)
    torch.manual_seed(3)
    first, second = torch.nn.Linear(10, 5), torch.nn.Linear(5, 4)
    for layer in (first, second):
        torch.nn.init.xavier_normal_(layer.weight)
    assert torch.equal(after, torch.rand(1))
    assert list(view.state_dict()) == ["table", "first.weight", "first.bias", "second.weight", "second.bias"]
    assert torch.equal(view.first.weight, first.weight) and torch.equal(view.second.weight, second.weight)


def test_rows_that_were_never_trained_are_filled_by_what_the_others_say_of_embeddings() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(61, 5)).astype(np.float32)
    trained = embeddings @ generator.normal(size=(5, 3)).astype(np.float32) + 0.5
    view, counts = CollaborativeView(60, 3), np.full(61, 9)
    counts[[7, 60]] = 0
    began = trained.copy()
    began[[7, 60]] = 100.0
    view.start_from(began)
    view.fill(embeddings, counts)
    np.testing.assert_allclose(view.table.detach()[1:], trained[1:], atol=0.05)
    np.testing.assert_array_equal(view.table.detach()[0], began[0])
    view.start_from(began)
    view.fill(embeddings, np.full(61, 9))
    np.testing.assert_array_equal(view.table.detach(), began)


def test_items_that_lack_training_get_what_their_texts_say_and_others_stay() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(201, 6)).astype(np.float32)
    truth = (vectors @ generator.normal(size=(6, 3)) + 1).astype(np.float32)
    counts = generator.integers(0, 3, 201)
    counts[0] = 0
    table = np.where(counts[:, None] > 0, truth, 7).astype(np.float32)
    table[0] = 0

    def filled(*given: object) -> np.ndarray:
        view = CollaborativeView(200, 3)
        view.start_from(table)
        view.fill(*given)  # type: ignore[arg-type]
        return view.table.detach().numpy()

    made = filled(vectors, counts)
    cosines = (made * truth).sum(1)[1:] / np.linalg.norm(made[1:], axis=1) / np.linalg.norm(truth[1:], axis=1)
    assert cosines.min() > 0.999 and not made[0].any() and np.array_equal(made[counts > 0], table[counts > 0])
    known = counts[1:] > 0
    length = np.linalg.norm(made[1:][~known], axis=1).mean()
    assert length == pytest.approx(np.linalg.norm(truth[1:][known], axis=1).mean(), rel=0.2)
    some = np.zeros(201, bool)
    some[[0, 5]] = True
    assert np.flatnonzero((filled(vectors, counts, some) != table).any(1)).tolist() in ([5], [])
    mean = np.average(table[1:][known], axis=0, weights=(counts / (counts + 4.0))[1:][known])
    np.testing.assert_allclose(filled(None, counts)[1:][~known], np.tile(mean, ((~known).sum(), 1)), 1e-5)
    np.testing.assert_array_equal(filled(vectors, np.zeros(201, np.int64)), table)
