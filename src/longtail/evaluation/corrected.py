"""Estimates of full-ranking metrics from ranks among uniform candidates (Krichene and Rendle, KDD 2020, sec. 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import gammaln

from longtail.data.histories import IntArray
from longtail.evaluation.metrics import METRICS, Ranks, Values

GAMMA = 0.1  # weight of variance against squared bias
DENSE, PARTS = 1000, 4096  # ranks of a large catalogue: each of the first, then parts of equal size
Metric = Callable[[Ranks, int], Values]


def corrected(ranks: IntArray, pool: IntArray, N: int, ks: tuple[int, ...]) -> dict[str, dict[str, Values]]:
    """Estimator to metric@k to its values (n,), whose mean over users estimates the figure of the full ranking.

    ranks (n,) from 0 among N uniform candidates and the target; pool (n,) how many items, the target included, each
    user's were drawn from. A value may lie outside [0, 1]: only means over many users are estimates.
    """
    n = int(np.median(pool)) if len(pool) else N + 1  # pools differ by the few items a user has touched
    names = {f"{name}@{k}": (metric, k) for k in ks for name, metric in METRICS.items()}
    tables = balanced(n, N, list(names.values()))
    return {
        "unbiased": {name: unbiased_rank(ranks, pool, N, metric, k) for name, (metric, k) in names.items()},
        "balanced": {name: table[ranks] for name, table in zip(names, tables, strict=True)},
    }


def unbiased_rank(ranks: IntArray, pool: IntArray, N: int, metric: Metric, k: int) -> Values:
    """The metric at r = 1 + (n - 1) (r' - 1) / N, an unbiased estimate of the full rank r from the sampled rank r'.

    The estimate of the rank is unbiased; that of a metric, which is no linear function of it, is not.
    """
    estimate = ranks * (pool - 1) / N  # from 0, no whole number
    return np.where(estimate <= k - 1, metric(estimate, k), 0.0)  # type: ignore[arg-type]


def balanced(n: int, N: int, metrics: Sequence[tuple[Metric, int]], gamma: float = GAMMA) -> Values:
    """(m, N + 1) f(r'), what each of m metrics@k gives each sampled rank: least bias^2 + gamma variance.

    f = ((1 - gamma) A'A + gamma diag(c))^-1 A'b, with A = sqrt(p) P(r' | r), b = sqrt(p) metric(r), c = the sum over r
    of p P(r' | r), and p uniform over the n full ranks. P is hypergeometric, because candidates are drawn without
    replacement.
    """
    middles, p = _ranks(n)
    chance = _hypergeometric(n, N, middles)  # (ranks, N + 1)
    truth = np.stack([metric(middles, k) for metric, k in metrics], axis=1)  # (ranks, m)
    normal = (1 - gamma) * (chance.T * p) @ chance + gamma * np.diag(p @ chance)
    return np.linalg.lstsq(normal, (chance.T * p) @ truth, rcond=None)[0].T.astype(np.float64)


def _ranks(n: int) -> tuple[IntArray, Values]:
    """Ranks from 0 that stand for all n, and the share of all that each stands for."""
    edges = np.unique(np.concatenate([np.arange(min(n, DENSE)), np.linspace(min(n, DENSE), n, PARTS).astype(np.int64)]))
    return (edges[:-1] + edges[1:] - 1) // 2, np.diff(edges) / n


def _hypergeometric(n: int, N: int, ranks: IntArray) -> Values:
    """(ranks, N + 1) the chance of j of N candidates ahead of a target that r of n - 1 other items are ahead of."""
    r, j = ranks[:, None].astype(np.float64), np.arange(N + 1.0)
    possible = (j <= r) & (N - j <= n - 1 - r)
    with np.errstate(invalid="ignore"):
        logarithm = _choose(r, j) + _choose(n - 1 - r, N - j) - _choose(np.float64(n - 1), np.float64(N))
    return np.where(possible, np.exp(np.where(possible, logarithm, 0.0)), 0.0)


def _choose(n: Values | np.float64, k: Values | np.float64) -> Values:
    """log of n over k."""
    found: Values = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(np.maximum(n - k, 0.0) + 1.0)
    return found
