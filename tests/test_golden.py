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
        return theirs["pos_emb.weight"][1:]  # of which we have as many as the backbone's max_len says
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


CASES = {  # as released, but for the causal mask where a case is called causal
    "llmesr_sasrec_causal_full_nofusion": {"causal": True},
    "llmesr_sasrec_causal_full": {"causal": True},
    "llmesr_sasrec_bidirectional_full": {"causal": False, "pads": "attended", "max_len": 7},
    "llmesr_sasrec_bidirectional_padded": {"causal": False, "pads": "attended", "max_len": 7},
}


def _method(case: str, theirs: dict[str, Tensor]) -> LLMESR:
    """Ours, with the authors' parameters."""
    backbone = SASRec(SASRecConfig(**{"d": 8, "max_len": 105, "dropout": 0.0, **CASES[case]}))
    fused = "fusion" if any(name.startswith("llm2id") for name in theirs) else "nofusion"
    config = {
        "fusion": LLMESRConfig(fusion="cross_attention", fusion_causal=False, drop_last=True),
        "nofusion": LLMESRConfig(fusion="none", drop_last=True),
    }[fused]
    method = LLMESR(config, backbone, rank_loss("bce", 40), Sizes(40, 12, 8, backbone.config.max_len))
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            parameter.copy_(_translate(name, theirs)[: len(parameter)])
    method.semantic.attach(theirs["llm_item_emb.weight"][:-1].numpy())
    return method


def _items(padded: Tensor) -> list[list[int]]:
    """Left-padded sequences as lists."""
    return [[item for item in row if item] for row in padded.tolist()]


@pytest.mark.parametrize("case", CASES)
def test_states_losses_teachers_gradients_and_scores_are_the_authors(case: str) -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / f"{case}.npz").items()}
    method = _method(case, {name.removeprefix("param/"): golden[name] for name in golden if name.startswith("param/")})

    B, real = len(golden["seq"]), golden["seq"] > 0
    layout = lay_out(real.sum(1).numpy())
    sequences = Sequences(golden["seq"][real], layout)
    targets, drawn = golden["pos"][real], golden["neg"][real]
    batch = SequenceBatch(
        torch.arange(1, B + 1), sequences, torch.arange(len(targets)), targets, Negatives(drawn[:, None])
    )
    vectors = ItemVectors(method.item_vectors(), None)
    states = method.batch_states(batch, vectors)
    torch.testing.assert_close(states, golden["user_vectors"][real], rtol=0, atol=1e-5)
    rank = method.ranking(states, batch, vectors)
    torch.testing.assert_close(rank, golden["rank_loss"], rtol=0, atol=1e-5)

    M = golden["neighbour_seq"].shape[1]
    histories = from_lists([[*items, 40] for items in _items(golden["neighbour_seq"].flatten(0, 1))])  # 40 is dropped
    neighbors = np.concatenate([np.zeros((1, M), np.int64), 1 + np.arange(B * M).reshape(B, M)])
    embeddings, table = method.semantic.embeddings.numpy(), method.collaborative.table.detach().clone()
    method.prepare(histories, Knowledge(embeddings, neighbors))
    with torch.no_grad():
        method.collaborative.table.copy_(table)
    t, taught = method.teach(method.plan(batch).teachers)
    assert bool(taught.all())
    torch.testing.assert_close(t, golden["teacher"], rtol=0, atol=1e-5)

    loss = rank + method.alpha * self_distillation(method.batch_users(states, batch, vectors), t, taught)
    torch.testing.assert_close(loss, golden["loss"], rtol=0, atol=1e-5)
    loss.backward()
    gradients = {name.removeprefix("grad/"): value for name, value in golden.items() if name.startswith("grad/")}
    for name, parameter in method.named_parameters():
        expected = _translate(name, gradients)[: len(parameter)]
        rows = slice(1, None) if name == "collaborative.table" else slice(None)
        torch.testing.assert_close(parameter.grad[rows], expected[rows], rtol=0, atol=1e-4)

    method.eval()
    users = method.user_vectors(from_lists(_items(golden["predict_seq"])), np.arange(1, B + 1))
    scores = (method.item_vectors()[golden["predict_candidates"]] @ users[:, :, None]).squeeze(-1)
    torch.testing.assert_close(scores, golden["predict_scores"], rtol=0, atol=1e-5)
