"""MELT's branches against loops over users and contexts, one sequence at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.melt import MELT, MELTConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, TrainingBatches
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss, sampler

LISTS = [[1, 2, 3, 1, 4, 5, 1], [3, 2], [], [8, 1, 2, 3], [2], [5, 1, 6], [1, 2, 3, 2, 1, 9], [3, 7]]
MAX_LEN = 5  # the first and the seventh are cut
CONFIG = MELTConfig(
    user_percentile=60, item_percentile=60
)  # lengths 7 2 4 1 3 6 2: tail up to 3; counts 7 6 5 1 2 1 1 1 1


def _method(config: MELTConfig = CONFIG, stage: int = 2, epoch: int = 1) -> MELT:
    torch.manual_seed(0)
    backbone = SASRec(SASRecConfig(d=8, max_len=MAX_LEN, dropout=0.0))
    method = MELT(config, backbone, rank_loss("bce", 9), Sizes(9, 0, 8, MAX_LEN))
    method.prepare(from_lists(LISTS), Knowledge())
    method.stage, method.epoch = stage, epoch
    return method.train()


def _batch(seed: int = 0) -> SequenceBatch:
    histories = from_lists(LISTS)
    batches = TrainingBatches(histories, sampler("bce", histories, 9), batch_size=8, max_len=MAX_LEN)
    return next(batches.epoch(np.random.default_rng(seed)))


def _f(method: MELT, items: list[int]) -> Tensor:
    """The user vector of one sequence, (d,)."""
    one = lay_out(np.array([len(items)]))
    return method.backbone(method.backbone.embed(method.view.table[torch.tensor(items)], one), one)[-1]


def _contexts(item: int) -> list[list[int]]:
    found = []
    for one in LISTS:
        for at in (place for place, other in enumerate(one) if other == item):
            found.append(one[: at + 1][-MAX_LEN:])
            if len(one) > 1:
                found.append(one[at:][::-1][-MAX_LEN:])
    return found


def _context(method: MELT, contexts: list[list[int]]) -> Tensor:
    """c_i, (d,)."""
    z = torch.stack([_f(method, one) for one in contexts])
    return (z + z @ method.user_branch.weight.T + method.user_branch.bias).mean(0)


def _w_i(method: MELT, c: Tensor) -> Tensor:
    return method.item_branch.weight @ c + method.item_branch.bias


def _sequences(packed: object) -> list[list[int]]:
    """Packed sequences in the order they were asked for."""
    flat = [items.tolist() for run, layout in packed.runs for items in run.split(layout.lengths.tolist())]
    return [flat[place] for place in packed.places]


def test_head_and_tail_are_by_training_lengths_and_counts() -> None:
    method = _method()
    assert (method.t_user, method.t_item) == (3, 1)  # of 3.6 and 1.8
    assert method.head_items.tolist() == [1, 2, 3, 5] and method.tail_items.tolist() == [4, 6, 7, 8, 9]


def test_an_epoch_begins_with_the_rows_that_a_loop_over_contexts_finds_for_tail_items() -> None:
    method = _method()
    before = method.view.table.detach().clone()
    with torch.no_grad():
        slow = {item: _w_i(method, _context(method, _contexts(item))) for item in method.tail_items}
    method.start_epoch()
    assert method.training
    for item in range(10):
        torch.testing.assert_close(method.view.table[item], slow.get(item, before[item]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [{"stage": 1}, {"config": MELTConfig(lambda_item=0)}])
def test_rows_stay_in_the_first_stage_and_without_the_item_branch(case: dict[str, object]) -> None:
    method = _method(**case)
    before = method.view.table.detach().clone()
    method.start_epoch()
    assert torch.equal(method.view.table, before)


def test_the_user_branch_is_a_loop_over_head_users() -> None:
    method, seen = _method(epoch=37), set()
    for seed in range(20):
        step = method.plan(_batch(seed))
        users = step.extra.users
        both = _sequences(users.histories)
        short, full = both[: len(both) // 2], both[len(both) // 2 :]
        assert sorted(full) == sorted(one[-MAX_LEN:] for one in LISTS if len(one) > 3)
        losses, turned = [], np.pi / 2 * 36 / 180
        for few, whole in zip(short, full, strict=True):
            assert whole[-len(few) :] == few
            seen.add(len(few))
            weight = abs(np.sin(turned + np.pi / 2 * (len(whole) - 3 - 1) / (MAX_LEN - 3 - 1)))
            x = _f(method, few)
            losses.append(weight * (method.user_branch.weight @ x + method.user_branch.bias - _f(method, whole)) ** 2)
        found = method.loss(step)["users"]
        torch.testing.assert_close(found, 0.1 * torch.stack(losses).mean().float(), rtol=1e-4, atol=1e-6)
    assert seen == {1, 2}  # 1 .. t_U - 1


def test_the_item_branch_is_a_loop_over_head_items_and_their_contexts() -> None:
    config = MELTConfig(user_percentile=60, item_percentile=75)  # items 1 and 2 are head
    method, sizes = _method(config, epoch=19), set()
    assert method.t_item == 5
    for seed in range(20):
        step = method.plan(_batch(seed))
        items = step.extra.items
        contexts, owners = _sequences(items.contexts), items.owners.tolist()
        losses, turned = [], np.pi / 2 * 18 / 180
        for row, item in enumerate(items.items.tolist()):
            own = [one for one, owner in zip(contexts, owners, strict=True) if owner == row]
            possible = _contexts(item)
            for one in own:
                possible.remove(one)  # each context at most once
            sizes.add(len(own))
            count = sum(one.count(item) for one in LISTS)
            weight = abs(np.sin(turned + np.pi / 100 * (min(count, 5 + 50) - 5 - 1)))
            losses.append(weight * (_w_i(method, _context(method, own)) - method.view.table[item]) ** 2)
        found = method.loss(step)["items"]
        torch.testing.assert_close(found, 0.4 * torch.stack(losses).mean().float(), rtol=1e-4, atol=1e-6)
    assert sizes == {1, 2, 3, 4, 5}


def test_each_head_item_is_drawn_once_an_epoch_in_the_mean() -> None:
    method = _method()
    histories = from_lists(LISTS)
    batches = TrainingBatches(histories, sampler("bce", histories, 9), batch_size=2, max_len=MAX_LEN)
    drawn = [len(method.plan(batch).extra.items.items) for batch in batches.epoch(np.random.default_rng(0))]
    assert drawn == [2, 2, 2, 1]  # ceil(4 items * 2 of 7 users), and of the one user that is left


def _scores(method: MELT, users: list[int]) -> Tensor:
    return torch.cat(
        [scores.clone() for _, scores in method.scorer(3)(from_lists([LISTS[user - 1] for user in users]))]
    )


def test_tail_users_are_helped_when_served_and_head_users_are_not() -> None:
    method = _method().eval()
    scores = _scores(method, list(range(1, 9)))
    with torch.no_grad():
        for row, one in enumerate(LISTS):
            plain = _f(method, one[-MAX_LEN:]) if one else torch.zeros(8)
            helped = plain + method.user_branch.weight @ plain + method.user_branch.bias
            expected = method.view.table @ (helped if 1 <= len(one) <= 3 else plain)
            torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-5)
        method.stage = 1
        assert not torch.allclose(_scores(method, [2]), scores[1])


def test_the_first_stage_is_the_plain_loss_and_a_branch_of_weight_0_is_left_out() -> None:
    method = _method(stage=1)
    assert set(method.loss(method.plan(_batch()))) == {"rank"}
    method = _method(MELTConfig(lambda_user=0, lambda_item=0))
    losses = method.loss(method.plan(_batch()))
    assert losses["users"] == losses["items"] == 0 < losses["rank"]
    torch.testing.assert_close(_scores(method.eval(), [2])[0], method.view.table @ _f(method, LISTS[1]))


def test_without_head_users_there_is_nothing_to_learn_for_users() -> None:
    equal = from_lists([[1, 2, 3], [2, 3, 4]])
    method = _method()
    method.prepare(equal, Knowledge())
    step = method.plan(
        TrainingBatches(equal, sampler("bce", equal, 9), batch_size=2, max_len=5).batch(
            np.array([1, 2]), np.random.default_rng(0)
        )
    )
    assert step.extra.users is None
    losses = method.loss(step)
    assert losses["users"] == 0
    sum(losses.values()).backward()
