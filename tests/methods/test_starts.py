"""Item vectors that are held to the sphere, to the null space of texts, or that start smoothed over followers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import longtail as lt
from longtail.data.histories import from_lists
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.cosine import Cosine, CosineConfig
from longtail.methods.graph_init import GraphInit, GraphInitConfig
from longtail.methods.null_space import NullSpace, NullSpaceConfig
from longtail.nn.backbones.sasrec import SASRec, SASRecConfig
from longtail.nn.items import principal_components
from longtail.nn.losses import rank_loss
from tests.conftest import Planted

TRAIN = from_lists([[1, 2, 3, 2, 5], [4, 5, 1], [6, 2, 3]])  # 7 occurs nowhere
LOSS, SIZES = rank_loss("softmax", 7), Sizes(7, 9, 4, 5)


def backbone() -> SASRec:
    torch.manual_seed(0)
    return SASRec(SASRecConfig(d=4, max_len=5, dropout=0.0))


@pytest.fixture
def embeddings() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(8, 9)).astype(np.float32)
    rows[0] = 0
    return rows


def test_scores_are_cosines_over_the_temperature(embeddings: np.ndarray) -> None:
    made = Cosine(CosineConfig(temperature=0.2), backbone(), LOSS, SIZES)
    made.prepare(TRAIN, Knowledge(embeddings))
    ((_, scores),) = made.eval().scorer(3)(TRAIN)
    found, start = scores.numpy(), principal_components(embeddings, 4)
    assert np.abs(found).max() <= 1 / 0.2 + 1e-5
    np.testing.assert_allclose(made.item_vectors().detach()[1:].norm(dim=1), np.ones(7), atol=1e-6)
    along = (made.item_vectors().detach().numpy() * start).sum(1)
    np.testing.assert_allclose(along, np.linalg.norm(start, axis=1), rtol=1e-5)  # only the length is gone
    with torch.no_grad():  # a longer vector is the same vector
        made.view.table[3] *= 7
    ((_, again),) = made.scorer(3)(TRAIN)
    np.testing.assert_allclose(again.numpy()[:, 1:], found[:, 1:], atol=1e-4)


def test_ids_are_learned_beside_the_text_alone(planted: Planted) -> None:
    settings = {
        "method": {"free": 6},
        "backbone": {"d": 16, "max_len": 8},
        "train": {"loss": "softmax", "lr": 0.05, "epochs": 2, "batch_size": 16, "device": "cpu"},
    }
    made = lt.Recommender("null_space", settings=settings).fit(planted.split, items=planted.items).method
    assert isinstance(made, NullSpace)
    vectors = made.item_vectors().detach().numpy()[1:]
    assert vectors.shape[1] == 16 and np.abs(vectors[:, 10:]).max() > 0.05
    z = vectors[:, :10]
    z = z[:, z.std(0) > 0]
    np.testing.assert_allclose(z.std(0), z[:, 0].std(), rtol=1e-3)  # whitened, and as it began
    assert abs(np.linalg.norm(z, axis=1).mean() - 1) < 1e-4


def test_ids_begin_at_nothing_and_some_columns_are_the_texts(embeddings: np.ndarray) -> None:
    made = NullSpace(NullSpaceConfig(), backbone(), LOSS, SIZES)
    made.prepare(TRAIN, Knowledge(embeddings))
    vectors = made.item_vectors().detach().numpy()
    assert not vectors[:, 2:].any() and not vectors[0].any()
    start = principal_components(embeddings, 2)[1:]
    shape = vectors[1:, :2] / start
    np.testing.assert_allclose(shape, np.broadcast_to(shape[0], shape.shape), rtol=1e-4)
    with pytest.raises(ConfigError, match="free = 4"):
        NullSpace(NullSpaceConfig(free=4), backbone(), LOSS, SIZES)


def test_the_start_is_smoothed_over_followers(embeddings: np.ndarray) -> None:
    made = GraphInit(GraphInitConfig(smooth=0.25, neighbors=3), backbone(), LOSS, SIZES)
    made.prepare(TRAIN, Knowledge(embeddings))
    counts, pairs = TRAIN.counts(7), np.zeros((8, 8))
    for user in range(1, 4):
        history = TRAIN.of(user).tolist()
        for at, j in enumerate(history):
            for gap, i in enumerate(history[at + 1 :], start=1):
                pairs[j, i] += 0.8 ** (gap - 1)
    pairs[np.diag_indices(8)] += np.where(counts > 0, pairs.trace() / counts.sum() * 4.0, 0)
    smoothed = embeddings.copy()
    for j in range(1, 8):
        s = pairs[j] / (np.sqrt(counts[j] * counts) + 4.0)
        s[np.argsort(-s, kind="stable")[3:]] = 0
        if s.sum():
            smoothed[j] = 0.75 * embeddings[j] + 0.25 * (s / s.sum()) @ embeddings
    np.testing.assert_allclose(smoothed[7], embeddings[7])
    np.testing.assert_allclose(made.view.table.detach(), principal_components(smoothed, 4), atol=1e-4)
