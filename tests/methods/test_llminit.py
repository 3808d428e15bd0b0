"""LLMInit: where training starts, and that nothing else is different from plain."""

from __future__ import annotations

import numpy as np
import torch

from longtail.data.histories import from_lists
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.llminit import LLMInit, LLMInitConfig
from longtail.methods.plain import Plain, PlainConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.batch import TrainingBatches
from longtail.nn.losses import rank_loss, sampler

TRAIN = from_lists([[1, 2, 3, 4], [5, 6, 7], [8, 9, 1]])


def _method(kind: type[LLMInit] | type[Plain], config: LLMInitConfig | PlainConfig) -> LLMInit | Plain:
    torch.manual_seed(0)
    return kind(config, SASRec(SASRecConfig(d=4, max_len=5, dropout=0.0)), rank_loss("bce", 9), Sizes(9, 12, 4, 5))


def test_the_table_starts_at_the_principal_components_and_is_trained() -> None:
    embeddings = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    embeddings[0] = 0
    method = _method(LLMInit, LLMInitConfig())
    method.prepare(TRAIN, Knowledge(embeddings))
    centred = embeddings[1:].astype(np.float64) - embeddings[1:].mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    table = method.view.table.detach().numpy()
    np.testing.assert_allclose(np.abs(table[1:]), np.abs(left * singular)[:, :4], atol=1e-5)
    np.testing.assert_allclose(table[1:].T @ table[1:], np.diag(singular[:4] ** 2), atol=1e-4)
    assert not table[0].any() and method.view.table.requires_grad


def test_from_the_same_table_its_loss_is_that_of_plain() -> None:
    methods = _method(LLMInit, LLMInitConfig()), _method(Plain, PlainConfig())
    embeddings = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    methods[0].prepare(TRAIN, Knowledge(embeddings))
    batches = TrainingBatches(TRAIN, sampler("bce", TRAIN, 9), batch_size=3, max_len=5)
    batch = next(batches.epoch(np.random.default_rng(0)))
    different = [method.loss(method.plan(batch))["rank"].item() for method in methods]
    methods[1].load_state_dict(methods[0].state_dict())
    same = [method.loss(method.plan(batch))["rank"].item() for method in methods]
    assert different[0] != different[1] and same[0] == same[1] == different[0]
