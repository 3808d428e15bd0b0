"""Whether a bundle recommends what its torch model does."""

from __future__ import annotations

import numpy as np

from longtail.recommender import Recommender
from longtail.serve.manifest import Parity
from longtail.serve.matrix import IntArray, best
from longtail.serve.runtime import Runtime

USERS = 1000
K = 10


def parity(model: Recommender, runtime: Runtime, users: int = USERS, k: int = K) -> Parity:
    """Of the first k items for so many users, evenly drawn from those with a history."""
    known = model.catalogue()
    histories = sample(model, users)
    expected = model.recommend(histories=[known.items.external(one) for one in histories], k=k)
    places = known.items.internal(expected["item"])
    rows, scores = expected["user"].to_numpy(), expected["score"].to_numpy()
    same, shared, largest = 0, 0, 0.0
    starts = np.searchsorted(rows, np.arange(len(histories) + 1))
    for row, history in enumerate(histories):
        mine = slice(starts[row], starts[row + 1])
        found = runtime.scores([history])[0]
        largest = max(largest, float(np.abs(found[places[mine]] - scores[mine]).max(initial=0)))
        found[history] = -np.inf
        top = best(found, mine.stop - mine.start)
        same += np.array_equal(top, places[mine])
        shared += len(np.intersect1d(top, places[mine]))
    n = max(len(histories), 1)
    return Parity(users=len(histories), k=k, same=same / n, overlap=shared / max(len(places), 1), largest=largest)


def sample(model: Recommender, users: int = USERS) -> list[IntArray]:
    """The histories of so many users, evenly drawn from those with one."""
    everything = model.catalogue().split.everything()
    active = np.flatnonzero(everything.lengths)
    chosen = active[np.unique(np.linspace(0, len(active) - 1, min(users, len(active))).astype(np.int64))]
    return [everything.of(user) for user in chosen.tolist()]
