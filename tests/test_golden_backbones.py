"""Our LLM-ESR on GRU4Rec and BERT4Rec against numbers from the authors' released code (tests/golden/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.data.histories import from_lists
from longtail.methods.base import Sizes, Teachers
from longtail.methods.llmesr import LLMESR, LLMESRConfig, self_distillation
from longtail.nn.backbones.base import backbones
from longtail.nn.batch import SequenceBatch, Sequences, gather
from longtail.nn.items import MASK, ItemVectors
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss
from longtail.nn.negatives import Negatives
from tests.test_golden import GOLDEN, _translate

MASKED = 41  # their id of [MASK]
Golden = dict[str, Tensor]


def _theirs(ours: str, values: Golden) -> Tensor:
    """Their tensor for our parameter: their last row, of [MASK], is our row 0."""
    if ours == "collaborative.table":
        return torch.cat([values["id_item_emb.weight"][-1:], values["id_item_emb.weight"][1:-1]])
    return values[ours] if ".gru." in ours else _translate(ours, values)


def _method(name: str, golden: Golden) -> LLMESR:
    """Their weights in our modules. [MASK]'s zero LLM vector is theirs; ours is learned from there."""
    theirs = {name.removeprefix("param/"): value for name, value in golden.items() if name.startswith("param/")}
    config, backbone = backbones.get(name)
    made = backbone(config(name=name, d=8, max_len=105, dropout=0.0))
    method = LLMESR(LLMESRConfig(), made, rank_loss("bce", 40), Sizes(40, 12, 8, 106))
    learned = {name: parameter for name, parameter in method.named_parameters() if name != "semantic.mask"}
    assert len(learned) == len(list(method.parameters())) - (name == "bert4rec")
    with torch.no_grad():
        for ours, parameter in learned.items():
            parameter.copy_(_theirs(ours, theirs))
    method.semantic.attach(theirs["llm_item_emb.weight"][:-1].numpy())
    method.fusion_causal = False  # theirs sees the future under GRU4Rec, too
    return method


def _batch(name: str, golden: Golden) -> SequenceBatch:
    """Their batch. For GRU4Rec they have a target a user, ours has one a position; it can hold theirs as well."""
    B, L = golden["seq"].shape
    layout, seq = lay_out(np.full(B, L)), golden["seq"].flatten()
    targets, drawn = golden["pos"].flatten(), golden["neg"].flatten()
    at = layout.ends if name == "gru4rec" else torch.nonzero(targets).squeeze(1)
    kept = slice(None) if name == "gru4rec" else at
    sequences = Sequences(torch.where(seq == MASKED, MASK, seq), layout)
    return SequenceBatch(torch.arange(1, B + 1), sequences, at, targets[kept], Negatives(drawn[kept, None]))


def _teachers(golden: Golden) -> Teachers:
    """Their teachers: histories as they are. Ours end in [MASK] where the backbone hides items."""
    B, M, L = golden["neighbour_seq"].shape
    histories = from_lists(golden["neighbour_seq"].flatten(0, 1).tolist())
    sequences = gather(histories, np.arange(1, B * M + 1), L)
    return Teachers(torch.arange(B * M).view(B, M), torch.ones(B, M, dtype=torch.bool), (sequences,), None)


def _users(name: str, method: LLMESR, seq: Tensor) -> Tensor:
    """User vectors of sequences that are full. There [MASK] takes the place of an item, but not of its position: theirs
    drops the oldest item and counts positions from it. Ours keeps it, because max_len does not count [MASK]."""
    if name == "gru4rec":
        return method.encode(seq)[:, -1]
    items, layout = gather(from_lists(seq.tolist()), np.arange(1, len(seq) + 1), seq.shape[1] - 1, asking=True)
    return method.final(method.item_vectors()[items], layout._replace(steps=layout.steps + 1))


@pytest.mark.parametrize("name", ["gru4rec", "bert4rec"])
def test_states_losses_teachers_gradients_and_scores_are_the_authors(name: str) -> None:
    golden = {key: torch.from_numpy(array) for key, array in np.load(GOLDEN / f"llmesr_{name}_full.npz").items()}
    method, batch = _method(name, golden), _batch(name, golden)
    vectors = ItemVectors(method.item_vectors(), None)
    states = method.batch_states(batch, vectors)
    torch.testing.assert_close(states.view(golden["user_vectors"].shape), golden["user_vectors"], rtol=0, atol=1e-5)
    rank = method.ranking(states, batch, vectors)
    torch.testing.assert_close(rank, golden["rank_loss"], rtol=0, atol=1e-5)
    t, taught = method.teach(_teachers(golden))
    torch.testing.assert_close(t, golden["teacher"], rtol=0, atol=1e-5)
    loss = rank + method.alpha * self_distillation(batch.sequences.layout.last(states), t, taught)
    torch.testing.assert_close(loss, golden["loss"], rtol=0, atol=1e-5)

    loss.backward()
    gradients = {key.removeprefix("grad/"): value for key, value in golden.items() if key.startswith("grad/")}
    for ours, parameter in method.named_parameters():
        if ours == "semantic.mask":  # what theirs has instead is the gradient of a frozen row
            assert parameter.grad.any()
            continue
        torch.testing.assert_close(parameter.grad, _theirs(ours, gradients), rtol=0, atol=1e-4)

    method.eval()
    users = _users(name, method, golden["predict_seq"])
    scores = (method.item_vectors()[golden["predict_candidates"]] @ users[:, :, None]).squeeze(-1)
    torch.testing.assert_close(scores, golden["predict_scores"], rtol=0, atol=1e-5)
