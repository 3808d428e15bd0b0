"""Recommendations for all users into one Parquet file, written as they come: the batch job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from longtail import rerank
from longtail.errors import BundleError
from longtail.files import atomic
from longtail.rerank import Reranker
from longtail.serve.bundle import open_bundle
from longtail.serve.live import Live
from longtail.serve.matrix import best, width_for
from longtail.serve.runtime import LARGEST

SCHEMA = {"user": pl.String, "rank": pl.Int64, "item": pl.String, "score": pl.Float32, "title": pl.String}
USERS = 1024  # answered before anything is written

Tell = Callable[[int, int], None]


def write_all(frames: Iterator[pl.DataFrame], out: Path) -> int:
    """Write frames of `SCHEMA` one after another, never all at once; the rows that there are.

    The file has its name when it is whole.
    """
    rows = 0

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        nonlocal rows
        for frame in frames:
            rows += len(frame)
            yield frame

    with atomic(out) as temporary:
        register_io_source(source, schema=pl.Schema(SCHEMA)).sink_parquet(temporary)
    return rows


def of_bundle(
    folder: Path, k: int, tell: Tell = lambda done, total: None, *, diversity: float = 0.0, by: Reranker = "mmr"
) -> Iterator[pl.DataFrame]:
    """The first k items of every known user with a history, seen items left out; more diverse ones if that is asked."""
    live = Live(open_bundle(folder))
    users = live.bundle.users
    if users is None:
        raise BundleError(f"{folder} was exported without users; export it again with them")
    step = max(min(USERS, LARGEST // width_for(live.runtime.count + 1)), 1)
    total = len(users.ids)
    for start in range(1, total + 1, step):
        chosen = [user for user in range(start, min(start + step, total + 1)) if len(users.history(user))]
        if chosen:
            yield _frame(live, chosen, k, diversity, by)
        tell(min(start + step - 1, total), total)


def _frame(live: Live, chosen: list[int], k: int, diversity: float, by: Reranker) -> pl.DataFrame:
    users = live.bundle.users
    assert users is not None
    histories = [users.history(user) for user in chosen]
    rows: list[tuple[str, int, str, float, str]] = []
    for user, history, scores in zip(chosen, histories, live.runtime.scores(histories), strict=True):
        scores[history] = -np.inf
        name = users.ids[user]
        places = best(scores, rerank.candidates(k) if diversity else k)
        places = places[np.isfinite(scores[places])]
        if diversity:
            places = places[rerank.diverse(scores[places], live.runtime.vectors(places), k, diversity, by)]
        rows += [
            (name, rank, live.items.item(place), float(scores[place]), live.items.title(place))
            for rank, place in enumerate(places.tolist(), start=1)
        ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
