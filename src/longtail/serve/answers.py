"""From requests to lists: scores in one batch, filters, re-ranking and reasons, each request's own. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longtail import rerank
from longtail.errors import BundleError
from longtail.serve.live import Live
from longtail.serve.matrix import Floats, IntArray, best, width_for
from longtail.serve.reasons import Reason, reasons
from longtail.serve.runtime import LARGEST
from longtail.serve.schema import Exploration, Recommend


class NotFoundError(BundleError):
    """A user or an item that nothing is known of."""


class Listed(NamedTuple):
    """One place of a list."""

    place: int
    score: float
    propensity: float | None
    reason: Reason | None


class Answer(NamedTuple):
    """A list, and whether its user was known."""

    known_user: bool
    items: list[Listed]


class Asked(NamedTuple):
    """A request with its history, and which items may not be listed."""

    request: Recommend
    history: IntArray
    known_user: bool


def answer(live: Live, requests: Sequence[Recommend]) -> list[Answer | BundleError]:
    """The answers, or why there is none, in the requests' order."""
    found: list[Answer | BundleError | Asked] = [_asked(live, request) for request in requests]
    if live.runtime.index is not None:
        _by_index(live, found)
    rows = [row for row, one in enumerate(found) if isinstance(one, Asked)]
    step = max(LARGEST // width_for(live.runtime.count + 1), 1)
    for start in range(0, len(rows), step):
        part = [(row, one) for row in rows[start : start + step] if isinstance(one := found[row], Asked)]
        scores = live.runtime.scores([one.history for _, one in part], [one.request.tail for _, one in part])
        for (row, one), mine in zip(part, scores, strict=True):
            try:
                found[row] = _listed(live, one, *_candidates(live, one, mine))
            except BundleError as error:
                found[row] = error
    return [one for one in found if not isinstance(one, Asked)]


def history_of(live: Live, user: str | None, history: Sequence[str] | None) -> tuple[IntArray, bool]:
    """The places of a request's history, and whether its user is known; a BundleError if there is none."""
    if user is None:
        return live.items.places(history or ()), False
    found = live.history(user)
    if found is None:
        raise NotFoundError(f"unknown user {user!r}; pass a history of items instead, or tell of one with POST /events")
    return found, True


def _asked(live: Live, request: Recommend) -> Asked | BundleError:
    try:
        if request.tail is not None and live.facts.dial is None:
            method = live.facts.method
            raise BundleError(f"tail = {request.tail:g}: method {method!r} has no tail dial; leave it out")
        history, known = history_of(live, request.user, request.history)
        return Asked(request, history, known)
    except BundleError as error:
        return error


def _by_index(live: Live, found: list[Answer | BundleError | Asked]) -> None:
    """Answer the requests for which the candidates of the index are enough: by score alone, under the own dial."""
    able = [(row, one) for row, one in enumerate(found) if isinstance(one, Asked) and _for_index(live, one)]
    unwanted = [_unwanted(live, one) for _, one in able]
    histories, ks = [one.history for _, one in able], [one.request.k for _, one in able]
    candidates = live.runtime.near(histories, ks, list(map(len, unwanted)))
    for (row, one), near, out in zip(able, candidates, unwanted, strict=True):
        try:
            wanted = live.items.where(one.request.values()) if one.request.where else None
            chosen = near.first(one.request.k, out, wanted)
            if chosen is not None:
                found[row] = _listed(live, one, *chosen)
        except BundleError as error:
            found[row] = error


def _for_index(live: Live, asked: Asked) -> bool:
    plain, tail = asked.request.plain, asked.request.tail
    return plain and tail in {None, live.facts.dial} and len(asked.history) > 0


def _unwanted(live: Live, asked: Asked) -> IntArray:
    """Places that are seen or excluded; 0 for an excluded item that is unknown."""
    excluded = [live.items.find(item) for item in asked.request.exclude]
    return np.concatenate([asked.history, np.array(excluded, np.int64)])


def _candidates(live: Live, asked: Asked, scores: Floats) -> tuple[IntArray, Floats]:
    """The best places and their scores, of all: as many as are listed, or as re-ranking chooses from."""
    request = asked.request
    scores[_unwanted(live, asked)] = -np.inf
    if request.where:
        scores[: live.runtime.count + 1][~live.items.where(request.values())] = -np.inf
    found = best(scores, request.k if request.plain else rerank.candidates(request.k))
    of = scores[found]
    return found[np.isfinite(of)], of[np.isfinite(of)]


def _listed(live: Live, asked: Asked, candidates: IntArray, of: Floats) -> Answer:
    request, history = asked.request, asked.history
    if request.plain or not len(candidates):
        chosen, propensities = np.arange(len(candidates)), None
    else:
        chosen, propensities = _reranked(live, request, history, candidates, of)
    told: list[Reason] | list[None] = [None] * len(chosen)
    if request.explain and len(chosen):
        told = reasons(live, history, candidates[chosen], request.tail, request.user)
    items = [
        Listed(int(candidates[at]), float(of[at]), None if propensities is None else float(propensities[place]), why)
        for place, (at, why) in enumerate(zip(chosen.tolist(), told, strict=True))
    ]
    return Answer(asked.known_user, items)


def _reranked(
    live: Live, request: Recommend, history: IntArray, candidates: IntArray, scores: Floats
) -> tuple[IntArray, npt.NDArray[np.float64] | None]:
    """Which of the candidates (n,) are listed, and with what chance: calibrated first, then diverse or explored."""
    k, kept = request.k, np.arange(len(candidates))
    if request.calibration:
        wanted = rerank.shares(live.items.head(history).astype(np.int64), 2)
        groups, further = live.items.head(candidates).astype(np.int64), request.diversity > 0 or request.exploration
        size = min(3 * k, len(candidates)) if further else k
        kept = rerank.calibrated(scores, groups, wanted, size, request.calibration)
        if further and len(kept) > 0:  # what follows goes by score, which is given the order that was found
            scores = scores.copy()
            scores[kept] = np.sort(scores[kept])[::-1]
    if request.exploration is not None:
        explored = _explored(live, request.exploration, candidates[kept], scores[kept], k)
        return kept[explored.indices], explored.propensities
    if request.diversity:
        vectors = live.runtime.vectors(candidates[kept])
        return kept[rerank.diverse(scores[kept], vectors, k, request.diversity, request.reranker)], None
    return kept[:k], None


def _explored(live: Live, how: Exploration, candidates: IntArray, scores: Floats, k: int) -> rerank.Explored:
    rng = np.random.default_rng(how.seed)
    if how.policy == "epsilon":
        return rerank.epsilon_greedy(scores, k, how.strength, rng)
    return rerank.ucb(scores, live.items.counts(candidates), k, how.strength, rng)
