"""What a list costs under longtail and under LLM-ESR: all users with torch, and one request at a time from a bundle.

Both models are untrained, of Amazon Beauty's size, on SASRec, which changes no time: longtail with LLMInit inside
(D = 64) and both graphs, LLM-ESR with its two views (D = 128). They take turns, so that a machine that is slower for a
while is so for both. LLM-ESR's teachers work in training alone and are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

import longtail as lt
import measure
from full_ranking import BEAUTY_ITEMS, BEAUTY_USERS
from longtail.config import Value
from longtail.recommender import Recommender
from longtail.serve.bundle import open_bundle
from longtail.serve.export import export
from longtail.serve.matrix import best
from longtail.serve.runtime import Runtime
from measure import Claim
from serving import K, untrained

METHODS: dict[str, dict[str, Value]] = {"longtail": {"tail": 0.4}, "llmesr": {"alpha": 0.0}}
MOST = 1.3  # times LLM-ESR's cost
ROUNDS, REQUESTS = 7, 500
QUICK_ROUNDS, QUICK_REQUESTS, QUICK_USERS = 3, 100, 4000


def everybody(model: Recommender) -> None:
    """The first K items of all users."""
    histories, score = model.split.everything(), model.scorer()
    for users in np.array_split(np.arange(1, histories.users + 1), max(histories.users // 1024, 1)):
        for _, rows in score(users, histories.select(users)):
            rows.topk(K)


def requests(runtime: Runtime, histories: list[np.ndarray]) -> None:
    """The first K items of one history after another."""
    for history in histories:
        scores = runtime.scores([history])[0]
        scores[history] = -np.inf
        best(scores, K)


def in_turn(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one turn that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    quick = measure.parser(__doc__).parse_args().quick
    users = QUICK_USERS if quick else BEAUTY_USERS
    rounds, asked = (QUICK_ROUNDS, QUICK_REQUESTS) if quick else (ROUNDS, REQUESTS)
    models, runtimes = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for method, settings in METHODS.items():
            folder, bundle = Path(place) / method, Path(place) / f"{method}.bundle"
            export(folder, bundle, items=untrained(folder, method, users, BEAUTY_ITEMS, settings), compare=20)
            models[method], runtimes[method] = lt.load(folder), Runtime(open_bundle(bundle))
        whole = in_turn({method: partial(everybody, model) for method, model in models.items()}, rounds)
        everyone = models["llmesr"].split.everything()
        some = [everyone.of(user) for user in np.linspace(1, users, asked).astype(int).tolist()]
        one = in_turn({method: partial(requests, runtime, some) for method, runtime in runtimes.items()}, rounds)
    claims = [
        Claim("all users, torch: longtail's time over LLM-ESR's", whole["longtail"] / whole["llmesr"], "times", MOST),
        Claim("a request, bundle: longtail's time over LLM-ESR's", one["longtail"] / one["llmesr"], "times", MOST),
        *(Claim(f"all users, torch: {method}", value, "s") for method, value in whole.items()),
        *(Claim(f"a request, bundle: {method}", value / asked * 1000, "ms") for method, value in one.items()),
    ]
    measure.finish("inference", claims, {"users": users, "requests": asked, "rounds": rounds}, quick=quick)


if __name__ == "__main__":
    main()
