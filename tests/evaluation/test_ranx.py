"""HR, NDCG and MRR equal those of ranx 0.3; all comparisons with it are here."""

from __future__ import annotations

import os

os.environ["NUMBA_DISABLE_JIT"] = "1"  # read when ranx imports numba: compiling it takes two minutes, running it none

import numpy as np
import pytest
from ranx import Qrels, Run
from ranx import evaluate as ranx_evaluate

from longtail.evaluation.metrics import METRICS

NAMES = {"hr": "hit_rate", "ndcg": "ndcg", "mrr": "mrr"}


@pytest.mark.parametrize("distinct", [10_000, 7])
def test_metrics_equal_those_of_ranx(distinct: int) -> None:
    """With 7 distinct scores for 60 items almost every target is tied. ranx knows no ties, it sorts: so that they count
    against the model there too, the target is given to it half a step below the items it is tied with."""
    generator = np.random.default_rng(distinct)
    scores = generator.integers(0, distinct, size=(50, 60)).astype(np.float64)  # whole numbers: one step is 1
    targets = generator.integers(0, 60, size=50)
    goal = scores[np.arange(50), targets]
    ranks = (scores >= goal[:, None]).sum(1) - 1
    assert ((scores == goal[:, None]).sum(1) > 1).mean() > 0.9 or distinct > 60
    scores[np.arange(50), targets] -= 0.5
    users = [f"u{user}" for user in range(50)]
    qrels = Qrels({user: {f"i{target}": 1} for user, target in zip(users, targets, strict=True)})
    run = Run({user: {f"i{i}": float(s) for i, s in enumerate(row)} for user, row in zip(users, scores, strict=True)})
    for k in (1, 5, 20):
        for name, metric in METRICS.items():
            assert ranx_evaluate(qrels, run, f"{NAMES[name]}@{k}") == pytest.approx(float(metric(ranks, k).mean()))
