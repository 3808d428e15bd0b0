"""Re-ranking of one request's candidates: diversity (MMR, DPP), calibration by popularity, exploration; pure numpy.

All functions take the scores (n,) of candidates that are already scored and give indices into them, best first: min(k,
number of candidates) of them, each once. A score of -inf means not a candidate. Scores of a model have no scale of
their own, so that a strength would mean something else for each model; here

    r_i = (s_i - min s) / (max s - min s), over the candidates given,

stands in for the score s_i. So how many candidates are given matters: a few hundred of the best are meant, not the
whole catalogue. Equal values are decided by the score, and equal scores by the index.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from longtail.errors import DataError
from longtail.registry import nearest

Floats = npt.NDArray[np.floating]
Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Reranker: TypeAlias = Literal["mmr", "dpp"]
POOL, FEWEST, MOST = 10, 100, 1000  # candidates for each place of a list, and in all
RESIDUAL = 1e-10  # a residual variance that is none: rounding of a candidate that repeats what was taken
MIXED = 0.01  # alpha of Steck (2018, sec. 3.1): what of the history's shares is mixed into the list's
LEVELS = 20  # values of Z in `ucb` (M = 20 in Vaswani et al., 2020)


class Explored(NamedTuple):
    """A list in which chance had a part. indices (k,); propensities (k,): P(this item at this place), over all draws.

    They are marginal, not given the places before: what inverse propensity weighting of a place's click divides by.
    """

    indices: Indices
    propensities: Values


def candidates(k: int) -> int:
    """How many of the best a list of k is chosen from: 10 k, but 100 at least and 1000 at most.

    >>> candidates(5), candidates(20), candidates(500)
    (100, 200, 1000)
    """
    return max(min(max(POOL * k, FEWEST), MOST), k)


def named(name: str) -> Reranker:
    """What makes lists diverse; a DataError if nothing is called so."""
    known = get_args(Reranker)
    if name not in known:
        raise DataError(f"unknown reranker {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return cast(Reranker, name)


def diverse(scores: Floats, vectors: Floats, k: int, diversity: float, by: Reranker) -> Indices:
    """A list by `mmr` or `dpp`; vectors (n, D) of any length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return (mmr if by == "mmr" else dpp)(scores, units, k, diversity)


def plain(scores: Floats, k: int) -> Indices:
    """The k best candidates (k,), best first.

    >>> plain(np.array([0.1, 0.9, -np.inf, 0.5]), k=5).tolist()
    [1, 3, 0]
    """
    return _ordered(scores)[0][:k]


def mmr(scores: Floats, vectors: Floats, k: int, diversity: float) -> Indices:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each place, given the list S so far, takes

        argmax_i (1 - diversity) r_i - diversity max_{j in S} cos(v_i, v_j)

    and the first place the best r. vectors (n, D): unit rows, or zero for a candidate of which nothing is known.

    >>> vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> mmr(np.array([3.0, 2.0, 1.0]), vectors, k=2, diversity=0.5).tolist()
    [0, 2]
    """
    order, relevance = _ordered(scores)
    unit, gain = vectors[order], (1 - diversity) * relevance  # (n, D), (n,)
    left, nearest = np.ones(len(order), np.bool_), np.full(len(order), -1.0)  # no cosine is less
    taken: list[int] = []
    for _ in range(min(k, len(order))):
        best = int(np.where(left, gain - diversity * nearest, -np.inf).argmax())
        taken.append(best)
        left[best] = False
        nearest = np.maximum(nearest, unit @ unit[best])
    return order[taken]


def dpp(scores: Floats, vectors: Floats, k: int, diversity: float) -> Indices:
    """Greedy MAP of a determinantal point process (Chen, Zhang and Zhou, NeurIPS 2018, alg. 1, sec. 4), which takes

        argmax_i (1 - diversity) r_i + diversity log d_i^2,  d_i^2 = det(K_{S + i}) / det(K_S),  K = (1 + cos(v, v)) / 2

    at each place: their kernel Diag(e^{a r}) K Diag(e^{a r}) with a = (1 - diversity) / (2 diversity), in logarithms.
    d^2, what i adds to S, is kept up to date by one row of K's Cholesky factor a place, O(n (D + k)). Where nothing
    is left that adds anything (their stop at epsilon), the rest comes by score. vectors (n, D): unit rows.
    """
    order, relevance = _ordered(scores)
    unit, n = vectors[order].astype(np.float64), len(order)
    size = min(k, n)
    factor = np.zeros((size, n))  # rows of the Cholesky factor
    own = np.einsum("nd,nd->n", unit, unit).round(6)  # else rounding would choose among equals
    residual, left = (1 + own) / 2, np.ones(n, np.bool_)
    taken: list[int] = []
    for place in range(size):
        value = (1 - diversity) * relevance + diversity * np.log(np.maximum(residual, RESIDUAL))
        best = int(np.where(left, value, -np.inf).argmax())
        taken.append(best)
        left[best] = False
        if residual[best] > RESIDUAL:
            row = (1 + unit @ unit[best]) / 2 - factor[:place, best] @ factor[:place]
            factor[place] = row / np.sqrt(residual[best])
            residual = residual - factor[place] ** 2
    return order[taken]


def shares(groups: npt.NDArray[np.integer], count: int) -> Values:
    """(count,) share of each group among a history's items; groups (h,): of each item. All 0 for an empty history.

    >>> shares(np.array([0, 1, 1, 1]), count=2).tolist()
    [0.25, 0.75]
    """
    return np.bincount(groups, minlength=count) / max(len(groups), 1)


def calibrated(scores: Floats, groups: npt.NDArray[np.integer], wanted: Values, k: int, strength: float) -> Indices:
    """Calibration (Steck, RecSys 2018, eq. 7, greedy as in sec. 4): each place, given the list S so far, takes

        argmax_i (1 - strength) r_i - strength KL(p || (1 - a) q(S + i) + a p),  a = .01

    p: shares of groups in the history, `wanted` (G,); q: in the list; groups (n,): of each candidate, 0 to G - 1. With
    head and tail items as groups a list has as much of the tail as its user's history: calibrated popularity
    (Abdollahpouri et al., UMAP 2021, who have three groups). `wanted` all 0 asks for nothing.

    >>> half = np.array([0.5, 0.5])
    >>> calibrated(np.array([4.0, 3.0, 2.0, 1.0]), np.array([0, 0, 0, 1]), half, k=2, strength=0.9).tolist()
    [0, 3]
    """
    order, relevance = _ordered(scores)
    queues = [np.flatnonzero(groups[order] == group) for group in range(len(wanted))]  # positions in order, best first
    counts = np.zeros(len(wanted), np.int64)
    taken: list[int] = []
    for place in range(min(k, len(order))):
        ready = [group for group, queue in enumerate(queues) if counts[group] < len(queue)]
        heads = np.array([queues[group][counts[group]] for group in ready])
        after = (counts + np.eye(len(wanted), dtype=np.int64)[ready]) / (place + 1)  # (groups with candidates, G)
        value = (1 - strength) * relevance[heads] - strength * divergence(wanted, after)
        best = int(np.lexsort((heads, -value))[0])
        taken.append(int(heads[best]))
        counts[ready[best]] += 1
    return order[taken]


def divergence(wanted: Values, found: Values) -> Values:
    """(...) KL(p || (1 - a) q + a p), nats; p: `wanted` (G,), q: `found` (..., G), a = .01 (Steck, 2018, eq. 4-5)."""
    mixed = (1 - MIXED) * found + MIXED * wanted
    ratio = np.divide(wanted, mixed, out=np.ones_like(mixed), where=wanted > 0)
    divergences: Values = (wanted * np.log(ratio)).sum(axis=-1)
    return divergences


def epsilon_greedy(scores: Floats, k: int, epsilon: float, rng: np.random.Generator) -> Explored:
    """Each place takes, of the n - t candidates that are left, with probability epsilon any, else the best.

    The propensity of the candidate with b better ones sums over how many c of these are taken before place t, a Markov
    chain while it waits itself: with probability (1 - epsilon) [c < b] + epsilon (b - c) / (n - t) one more of them is
    taken, with (1 - epsilon) [c = b] + epsilon / (n - t) it is taken itself, and else a worse one.
    """
    order, _ = _ordered(scores)
    size, n = min(k, len(order)), len(order)
    explore, draws = rng.random(size) < epsilon, rng.random(size)
    left, taken = list(range(n)), []
    for place in range(size):
        taken.append(left.pop(int(draws[place] * len(left)) if explore[place] else 0))
    return Explored(order[taken], _epsilon_propensities(np.array(taken, np.int64), n, epsilon))


def _epsilon_propensities(taken: Indices, n: int, epsilon: float) -> Values:
    """(k,) P(candidate taken[t], by rank from 0, is at place t) of `epsilon_greedy` among n."""
    k, better = len(taken), taken[:, None]  # (k, 1)
    passed = np.arange(k + 1)  # c
    waits = np.zeros((k, k + 1))  # P(not yet taken, c better ones taken), a row a shown candidate
    waits[:, 0] = 1.0
    found = np.zeros(k)
    for place in range(k):
        any_one, behind = epsilon / (n - place), np.maximum(better - passed, 0)  # behind (k, k + 1): better ones left
        itself = (1 - epsilon) * (behind == 0) + any_one
        another = (1 - epsilon) * (behind > 0) + any_one * behind
        found[place] = waits[place] @ itself[place]
        moved = waits * another
        waits = waits * np.maximum(1 - itself - another, 0)
        waits[:, 1:] += moved[:, :-1]
    return found


def ucb(scores: Floats, counts: npt.NDArray[np.integer], k: int, strength: float, rng: np.random.Generator) -> Explored:
    """Randomised upper confidence bounds (Vaswani et al., AISTATS 2020): the k best by

        r_i + strength Z sqrt(2 ln(1 + N) / (1 + n_i)),  N = sum of n over the candidates

    n_i: `counts` (n,), how often i was bought; the root is the bonus of UCB1 (Auer et al., 2002), and Z, one draw a
    list, is uniform on 20 values from 0 to 1 (theirs is a Gaussian cut off and made discrete). UCB1 itself is Z = 1: it
    chooses without chance, so that nothing could be learnt about what it does not show. A propensity is the share of
    the values of Z with which the same item is at the same place.
    """
    order, relevance = _ordered(scores)
    of = counts[order].astype(np.float64)
    bonus = strength * np.sqrt(2 * np.log1p(of.sum()) / (1 + of))
    levels = np.linspace(0.0, 1.0, LEVELS)[:, None]
    ranked = np.argsort(-(relevance + levels * bonus), axis=1, kind="stable")[:, :k]  # (20, k)
    chosen = ranked[rng.integers(LEVELS)]
    return Explored(order[chosen], (ranked == chosen).mean(axis=0))


def _ordered(scores: Floats) -> tuple[Indices, Values]:
    """Candidates by falling score, as indices (n,), and their r (n,)."""
    order = np.argsort(-scores, kind="stable").astype(np.int64)
    best = scores[order].astype(np.float64)
    real = int(np.isfinite(best).sum())
    order, best = order[:real], best[:real]
    span = best[0] - best[-1] if real else 0.0
    return order, (best - best[-1]) / span if span > 0 else np.zeros(real)
