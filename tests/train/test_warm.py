"""Carrying a finished training over to more items, and training on what is new."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.data.histories import from_lists
from longtail.errors import RunError
from longtail.methods.base import Knowledge, TrainedMethod
from longtail.model import build_method, sizes_of
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import sampler
from longtail.train.replay import Replay
from longtail.train.warm import Warm, carry

ITEMS, E = 9, 6
PLACES = np.array([0, 1, 3, 4, 5, 7, 8])  # where six old items are among nine
SETTINGS = {"backbone": {"d": 4, "max_len": 5}, "method": {"text_neighbors": 2, "order_neighbors": 2}}


def _method(name: str, items: int, settings: dict[str, object]) -> TrainedMethod:
    """Prepared on a circle of that many items."""
    config = lt.Recommender(name, "sasrec", settings).config
    train = from_lists([[1 + (start + step) % items for step in range(5)] for start in range(items)])
    vectors = np.random.default_rng(items).normal(size=(items + 1, E)).astype(np.float32)
    none = np.zeros((train.users + 1, 2), np.int64)
    knowledge = Knowledge(vectors, none, np.ones((train.users + 1, E), np.float32))
    method = build_method(config, sizes_of(config, train, items, knowledge))
    method.prepare(train, knowledge)
    assert isinstance(method, TrainedMethod)
    return method


@pytest.mark.parametrize("name", ["longtail", "llmesr", "llminit", "plain", "delta", "rlmrec"])
def test_old_rows_and_all_other_weights_are_bit_equal(name: str) -> None:
    settings = SETTINGS if name == "longtail" else {"backbone": SETTINGS["backbone"]}
    old, new = _method(name, 6, settings), _method(name, ITEMS, settings)
    prepared = {key: value.clone() for key, value in new.state_dict().items()}
    carry(old.state_dict(), new, PLACES)
    fresh = np.setdiff1d(np.arange(ITEMS + 1), PLACES)
    for key, was in old.named_parameters():
        mine = dict(new.named_parameters())[key]
        by_item = mine.shape != was.shape
        assert torch.equal(mine[PLACES] if by_item else mine, was), key
        if by_item:
            assert torch.equal(mine[fresh], prepared[key][fresh]), key
    for key, mine in new.named_buffers():
        if len(mine.shape) and len(mine) == ITEMS + 1:  # edges, counts: of the new data
            assert key not in prepared or torch.equal(mine, prepared[key]), key


def test_what_was_chosen_stays() -> None:
    old, new = _method("longtail", 6, SETTINGS), _method("longtail", ITEMS, SETTINGS)
    old.gamma.copy_(torch.tensor([3.0, 5.0]))
    old.dial.fill_(0.25)
    carry(old.state_dict(), new, PLACES)
    assert new.gamma.tolist() == [3.0, 5.0] and float(new.dial) == 0.25


def test_weights_of_another_shape_are_refused() -> None:
    old = _method("llminit", 6, {"backbone": {"d": 8, "max_len": 5}})
    with pytest.raises(RunError, match=r"weights '.*' are \(6, 8\), not \(6, 4\)"):
        carry(old.state_dict(), _method("llminit", ITEMS, {"backbone": SETTINGS["backbone"]}), PLACES)


def test_new_items_begin_where_their_texts_say_and_old_ones_stay() -> None:
    old, new = _method("longtail", 6, SETTINGS), _method("longtail", ITEMS, SETTINGS)
    fresh = np.setdiff1d(np.arange(ITEMS + 1), PLACES)
    counts = np.ones(ITEMS + 1, np.int64)
    given = {"state": old.state_dict(), "items": PLACES, "counts": counts, "vectors": None}
    others = dict.fromkeys(("max_len", "new", "validated", "cold", "config", "identity"))
    warm = Warm(**given, **others)  # type: ignore[arg-type]
    warm.start(new)
    table = new.item_vectors()
    assert torch.equal(table[PLACES], old.item_vectors())
    torch.testing.assert_close(table[fresh], table[PLACES[1:]].mean(0).expand(len(fresh), -1))  # they have no texts


def _batches(prefixes: bool, users: int) -> TrainingBatches:
    train = from_lists([[1 + (start + step) % ITEMS for step in range(6)] for start in range(users)])
    drawn = sampler("softmax", train, ITEMS)
    return TrainingBatches(train, drawn, batch_size=4, max_len=5, prefixes=prefixes)


def test_an_epoch_has_every_new_target_and_a_share_of_others() -> None:
    whole = _batches(True, 20)
    new = np.zeros(120, bool)
    new[[5, 17, 66]] = True  # 66 is the first of its user: there is nothing before it
    batches = Replay(whole, new, share=3.0, size=4)
    epochs = [list(batches.epoch(np.random.default_rng(seed))) for seed in range(2)]
    for epoch in epochs:
        assert [len(batch.targets) for batch in epoch] == [4, 4] and len(batches) == 2
        users = torch.cat([batch.users for batch in epoch]).tolist()
        assert {1, 3} <= set(users) and len(users) == 8
    assert sorted(torch.cat([one.users for one in epochs[0]])) != sorted(torch.cat([one.users for one in epochs[1]]))


@pytest.mark.parametrize("prefixes", [True, False])
def test_steps_grow_with_what_is_new_and_not_with_what_there_is(prefixes: bool) -> None:
    def steps(users: int, touched: int) -> int:
        new = np.zeros(6 * users, bool)
        new[5 : 6 * touched : 6] = True
        return len(Replay(_batches(prefixes, users), new, share=1.0, size=4))

    assert steps(100, 8) == steps(400, 8) == 4 and steps(400, 16) == 8


def test_nothing_new_is_no_batch() -> None:
    batches = Replay(_batches(True, 5), np.zeros(30, bool), share=1.0, size=4)
    assert not list(batches.epoch(np.random.default_rng(0))) and not len(batches.new)
