"""Why an item is recommended: the parts of its score, the items that carried it, and who has it. No torch here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longtail.serve.live import Live
from longtail.serve.matrix import Floats, IntArray
from longtail.serve.runtime import Exact

LEFT_OUT = 20  # latest items of a history that are left out one by one
CARRIED, SIMILAR, POOL = 3, 3, 200  # items and users that are named, and users among whom they are looked for
NEAR = 0.2  # share of a score by which one part has to lead to be named alone


class Carried(NamedTuple):
    """An item of the history, and its share of what leaving items out one by one takes off the score."""

    place: int
    share: float


class Reason(NamedTuple):
    """Of one item: collaborative + semantic + content = total, its score."""

    collaborative: float
    semantic: float
    content: float
    total: float
    carried: list[Carried]
    similar_users: list[str]
    sentence: str


def reasons(live: Live, history: IntArray, items: IntArray, tail: float | None, user: str | None) -> list[Reason]:
    """Of each of `items` (m,) for a history, in two batches of the encoder."""
    whole = live.runtime.split([history], items, tail)
    shares = _shares(live, history, items, tail, whole.total[0])  # (t, m)
    near = _similar(live, history, user) if live.bundle.users else []
    recent = history[-LEFT_OUT:]
    found = []
    for at, place in enumerate(items.tolist()):
        by_share = np.argsort(-shares[:, at], kind="stable")[:CARRIED]
        carried = [Carried(int(recent[row]), float(shares[row, at])) for row in by_share if shares[row, at] > 0]
        having = [name for name, has in near if place in has][:SIMILAR]
        parts = [float(part[0, at]) for part in whole]
        sentence = _sentence(live, carried, having, *parts)
        found.append(Reason(parts[0], parts[1], parts[2], float(whole.total[0, at]), carried, having, sentence))
    return found


def _shares(live: Live, history: IntArray, items: IntArray, tail: float | None, whole: Exact) -> Exact:
    """(t, m) how much of the fall of each score is by each of the latest t items, of those that lower it."""
    t = min(len(history), LEFT_OUT)
    without = [np.delete(history, len(history) - t + row) for row in range(t)]
    falls = np.maximum(whole - live.runtime.split(without, items, tail).total, 0)  # (t, m)
    total = falls.sum(axis=0)
    shares: Exact = falls / np.where(total > 0, total, 1)
    return shares


def _similar(live: Live, history: IntArray, user: str | None) -> list[tuple[str, set[int]]]:
    """The users whose vectors are nearest, with what they have."""
    users = live.bundle.users
    assert users is not None
    own = users.ids.find(user) if user else 0
    near = [at for at, _ in nearest_users(live, live.runtime.encode([history])[0], POOL, own)]
    return [(users.ids[at], set(users.history(at).tolist())) for at in near]


def nearest_users(live: Live, u: Floats, k: int, but: int = 0) -> list[tuple[int, float]]:
    """The k known users whose vectors are nearest to a user vector (D,), and the cosines; without the user `but`."""
    users = live.bundle.users
    assert users is not None
    length = float(np.linalg.norm(u))
    unit = u / length if length else u
    blocks = range(0, len(users.vectors), 65_536)
    cosines = np.concatenate([users.vectors[at : at + 65_536].astype(np.float32) @ unit for at in blocks])
    cosines[[0, but]] = -np.inf
    k = min(k, len(cosines) - 1)
    top = np.argpartition(-cosines, k - 1)[:k]
    top = top[np.lexsort((top, -cosines[top]))]
    return [(int(at), float(cosines[at])) for at in top if np.isfinite(cosines[at])]


def _sentence(
    live: Live, carried: list[Carried], having: list[str], collaborative: float, semantic: float, content: float
) -> str:
    """A template's words for it."""
    because = " and ".join(f"“{live.items.title(one.place)}”" for one in carried[:2])
    told = f"Because of {because} in the history" if because else "For everybody rather than for this history"
    parts = {"what others did": collaborative, "what the texts say": semantic, "its columns": content}
    positive = {name: part for name, part in parts.items() if part > 0}
    total = sum(positive.values())
    leading = [name for name, part in positive.items() if part > NEAR * total]
    told += f", by {' and '.join(leading)}" if leading else ""
    if having:
        told += f"; {len(having)} similar {'user has' if len(having) == 1 else 'users have'} it"
    return f"{told}."
