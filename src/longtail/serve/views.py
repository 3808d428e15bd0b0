"""What is live as the answers of the HTTP interface: places to ids and titles. No torch here."""

from __future__ import annotations

import time

import numpy as np

from longtail.serve.answers import Answer, NotFoundError, history_of
from longtail.serve.live import Live
from longtail.serve.matrix import best, width_for
from longtail.serve.reasons import Reason, nearest_users, reasons
from longtail.serve.schema import Explain, Recommend


def recommended(live: Live, asked: Recommend, found: Answer, begun: float) -> dict[str, object]:
    """A list; begun: when the request came, by time.perf_counter()."""
    items, places = live.items, np.array([one.place for one in found.items], np.int64)
    head = items.head(places).tolist()
    rows = [
        {
            "item": items.item(one.place),
            "rank": rank,
            "title": items.title(one.place),
            "score": one.score,
            "tail": not head[rank - 1],
            "count": items.count(one.place),
            **({} if one.propensity is None else {"propensity": one.propensity}),
            **({} if one.reason is None else {"reasons": told(live, one.reason)}),
        }
        for rank, one in enumerate(found.items, start=1)
    ]
    took = round((time.perf_counter() - begun) * 1000, 3)
    name = {"bundle": live.name, "user": asked.user, "known_user": found.known_user}
    return {**name, "items": rows, "took_ms": took}


def told(live: Live, reason: Reason) -> dict[str, object]:
    """Reasons with ids and titles."""
    carried = [
        {"item": live.items.item(one.place), "title": live.items.title(one.place), "share": one.share}
        for one in reason.carried
    ]
    return {**reason._asdict(), "carried": carried}


def explained(live: Live, asked: Explain) -> dict[str, object]:
    """The reasons of one item, wherever it stands in the list."""
    history, _ = history_of(live, asked.user, asked.history)
    place = _place(live, asked.item)
    return told(live, reasons(live, history, np.array([place], np.int64), asked.tail, asked.user)[0])


def found(live: Live, words: str, k: int) -> dict[str, object]:
    """The items that a search finds."""
    return {"items": [_brief(live, place) for place in live.items.search(words, k)]}


def item(live: Live, name: str) -> dict[str, object]:
    """An item with its columns."""
    place = _place(live, name)
    return {**_brief(live, place), "columns": live.items.columns(place)}


def similar_items(live: Live, name: str, k: int) -> dict[str, object]:
    """The items whose vectors are nearest by cosine."""
    place, count = _place(live, name), live.runtime.count
    unit = _unit(live.runtime.vectors(np.array([place], np.int64))[0])
    cosines = np.full(width_for(count + 1), -np.inf, np.float32)
    for start in range(1, count + 1, 65_536):
        places = np.arange(start, min(start + 65_536, count + 1))
        rows = live.runtime.vectors(places)
        lengths = np.linalg.norm(rows, axis=1)
        cosines[places] = rows @ unit / np.where(lengths > 0, lengths, 1)
    cosines[place] = -np.inf
    near = [at for at in best(cosines, k).tolist() if np.isfinite(cosines[at])]
    return {"items": [{**_brief(live, at), "similarity": float(cosines[at])} for at in near]}


def user(live: Live, name: str) -> dict[str, object]:
    """A user's history."""
    history, _ = history_of(live, name, None)
    listed = [{"item": live.items.item(place), "title": live.items.title(place)} for place in history.tolist()]
    return {"user": name, "history": listed}


def similar_users(live: Live, name: str, k: int) -> dict[str, object]:
    """The known users whose vectors are nearest."""
    history, _ = history_of(live, name, None)
    users = live.bundle.users
    if users is None:
        return {"users": []}
    near = nearest_users(live, live.runtime.encode([history])[0], k, users.ids.find(name))
    return {"users": [{"user": users.ids[at], "similarity": cosine} for at, cosine in near]}


def bundle(name: str, live: Live) -> dict[str, object]:
    """What is served under a name."""
    facts = live.facts
    return {
        "name": name, "items": live.runtime.count, "users": facts.users, "method": facts.method,
        "backbone": facts.backbone, "dial": facts.dial is not None, "metrics": facts.metrics,
        "columns": list(facts.columns), "added": live.runtime.additions.count,
        "text": facts.text.spec if facts.text else None,
    }  # fmt: skip


def _place(live: Live, name: str) -> int:
    place = live.items.find(name)
    if not place:
        raise NotFoundError(f"unknown item {name!r}; search the titles with GET /items?search=words")
    return place


def _brief(live: Live, place: int) -> dict[str, object]:
    items = live.items
    head = bool(items.head(np.array([place], np.int64))[0])
    return {"item": items.item(place), "title": items.title(place), "count": items.count(place), "tail": not head}


def _unit(
    vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector
