"""Our LLM-ESR on SASRec against numbers from the authors' released code (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.llmesr import LLMESR, LLMESRConfig, self_distillation
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import SequenceBatch, Sequences
from longtail.nn.items import ItemVectors
from longtail.nn.layout import lay_out
from longtail.nn.losses import rank_loss
from longtail.nn.negatives import Negatives

GOLDEN = Path(__file__).parent / "golden"
NAMES = {  # ours: theirs
    "collaborative.table": "id_item_emb.weight",
    "semantic.first": "adapter.0",
    "semantic.second": "adapter.1",
    "backbone.positions.weight": "pos_emb.weight",
    "backbone.norm": "backbone.last_layernorm",
    "fusion.collaborative": "llm2id",
    "fusion.semantic": "id2llm",
}


def _translate(ours: str, theirs: dict[str, Tensor]) -> Tensor:
    """Their tensor for our parameter: packed q/k/v, 1 x 1 convolutions, a mask row and a padding position less."""
    parts = ours.split(".")
    kind = parts[-1]
    if ours == "collaborative.table":
        return theirs["id_item_emb.weight"][:-1]
    if ours == "backbone.positions.weight":
        return theirs["pos_emb.weight"][1:]
    if parts[:2] == ["backbone", "blocks"]:
        block = parts[2]
        if parts[3] == "attention":
            if parts[4] == "output":
                return theirs[f"backbone.attention_layers.{block}.out_proj.{kind}"]
            packed = theirs[f"backbone.attention_layers.{block}.in_proj_{kind}"].chunk(3)
            return packed[("query", "key", "value").index(parts[4])]
        if parts[3] == "feed_forward":
            convolution = {"0": "conv1", "3": "conv2"}[parts[4]]
            tensor = theirs[f"backbone.forward_layers.{block}.{convolution}.{kind}"]
            return tensor.squeeze(-1) if kind == "weight" else tensor
        norm = {"attention_norm": "attention_layernorms", "forward_norm": "forward_layernorms"}[parts[3]]
        return theirs[f"backbone.{norm}.{block}.{kind}"]
    if parts[0] == "fusion":
        short = {"query": "linear_q", "key": "linear_k", "value": "linear_v", "output": "linear_output"}[parts[2]]
        return theirs[f"{NAMES['.'.join(parts[:2])]}.{short}.{kind}"]
    return theirs[f"{NAMES['.'.join(parts[:-1])]}.{kind}"]


@pytest.mark.parametrize("case", ["llmesr_sasrec_causal_full_nofusion", "llmesr_sasrec_causal_full"])
def test_states_losses_teachers_gradients_and_scores_are_the_authors(case: str) -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / f"{case}.npz").items()}
    theirs = {name.removeprefix("param/"): value for name, value in golden.items() if name.startswith("param/")}
    fusion = "none" if case.endswith("nofusion") else "cross_attention"
    backbone = SASRec(SASRecConfig(d=8, max_len=105, dropout=0.0))
    method = LLMESR(LLMESRConfig(fusion=fusion), backbone, rank_loss("bce", 40), Sizes(40, 12, 8, 106))
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            parameter.copy_(_translate(name, theirs))
    method.semantic.attach(theirs["llm_item_emb.weight"][:-1].numpy())
    if method.fusion is not None:  # the released fusion sees the future; ours, which is causal, is not in these numbers
        forward = method.fusion.forward
        method.fusion.forward = lambda x, layout, causal: forward(x, layout, causal=False)

    B, L = golden["seq"].shape
    layout = lay_out(np.full(B, L))
    targets, drawn = golden["pos"].flatten(), golden["neg"].flatten()
    at = torch.nonzero(targets).squeeze(1)
    sequences = Sequences(golden["seq"].flatten(), layout)
    batch = SequenceBatch(torch.arange(1, B + 1), sequences, at, targets[at], Negatives(drawn[at, None]))
    vectors = ItemVectors(method.item_vectors(), None)
    states = method.batch_states(batch, vectors)
    torch.testing.assert_close(states.view(B, L, -1), golden["user_vectors"], rtol=0, atol=1e-5)
    rank = method.ranking(states, batch, vectors)
    torch.testing.assert_close(rank, golden["rank_loss"], rtol=0, atol=1e-5)

    histories = from_lists(golden["neighbour_seq"].flatten(0, 1).tolist())
    M = golden["neighbour_seq"].shape[1]
    neighbors = np.concatenate([np.zeros((1, M), np.int64), 1 + np.arange(B * M).reshape(B, M)])
    embeddings, table = method.semantic.embeddings.numpy(), method.collaborative.table.detach().clone()
    method.prepare(histories, Knowledge(embeddings, neighbors))
    with torch.no_grad():
        method.collaborative.table.copy_(table)
    t, taught = method.teach(method.plan(batch).teachers)
    assert bool(taught.all())
    torch.testing.assert_close(t, golden["teacher"], rtol=0, atol=1e-5)

    loss = rank + method.alpha * self_distillation(layout.last(states), t, taught)
    torch.testing.assert_close(loss, golden["loss"], rtol=0, atol=1e-5)
    loss.backward()
    gradients = {name.removeprefix("grad/"): value for name, value in golden.items() if name.startswith("grad/")}
    for name, parameter in method.named_parameters():
        expected = _translate(name, gradients)
        rows = slice(1, None) if name == "collaborative.table" else slice(None)
        torch.testing.assert_close(parameter.grad[rows], expected[rows], rtol=0, atol=1e-4)

    method.eval()
    users = method.encode(golden["predict_seq"])[:, -1]
    scores = (method.item_vectors()[golden["predict_candidates"]] @ users[:, :, None]).squeeze(-1)
    torch.testing.assert_close(scores, golden["predict_scores"], rtol=0, atol=1e-5)
