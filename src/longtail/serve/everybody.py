"""Recommendations for all users into one Parquet file, written as they come: the batch job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from longtail import rerank
from longtail.errors import BundleError, DataError
from longtail.files import atomic
from longtail.rerank import Reranker
from longtail.serve.bundle import open_bundle
from longtail.serve.live import Live
from longtail.serve.manifest import MANIFEST
from longtail.serve.matrix import best, width_for
from longtail.serve.runtime import LARGEST

if TYPE_CHECKING:
    from longtail.recommender import Recommender

SCHEMA = {"user": pl.String, "rank": pl.Int64, "item": pl.String, "score": pl.Float32, "title": pl.String}
USERS = 1024  # answered before anything is written

Tell = Callable[[int, int], None]
Search = Literal["auto", "exact", "cells"]


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


class Everybody(NamedTuple):
    """The lists of all users of a model, by blocks."""

    users: int
    step: int
    """Users of a block."""
    frame: Callable[[int, int], pl.DataFrame]
    """The lists, in `SCHEMA`, of the users from a place, counted from 0, to before another."""

    def frames(
        self, tell: Tell = lambda done, total: None, start: int = 0, stop: int | None = None
    ) -> Iterator[pl.DataFrame]:
        """Block by block, those of all users or of some; tell: how many users of how many are done."""
        stop = self.users if stop is None else stop
        for first in range(start, stop, self.step):
            after = min(first + self.step, stop)
            yield self.frame(first, after)
            tell(after - start, stop - start)


def of(source: Path, k: int, diversity: float = 0.0, by: Reranker = "mmr", search: Search = "auto") -> Everybody:
    """The lists of a bundle or of a run: k items of every known user, seen ones left out, and diverse if asked.

    search: whether a run's lists are of all items ("exact"), or of what is found in cells of items ("cells"), as "auto"
    does for many items; a DataError if that cannot be.
    """
    if (source / MANIFEST).is_file():
        if search == "cells":
            raise DataError(f"{source} is a bundle, whose lists are exact here; name the run it was made of")
        return of_bundle(source, k, diversity, by)
    from longtail.recommender import load  # imports torch

    return _of_model(load(source), k, diversity, by, search)


def of_bundle(folder: Path, k: int, diversity: float = 0.0, by: Reranker = "mmr") -> Everybody:
    """The same of a bundle, whose users without a history have none."""
    live = Live(open_bundle(folder))
    users = live.bundle.users
    if users is None:
        raise BundleError(f"{folder} was exported without users; export it again with them")

    def frame(start: int, stop: int) -> pl.DataFrame:
        chosen = [user for user in range(start + 1, stop + 1) if len(users.history(user))]
        return _frame(live, chosen, k, diversity, by) if chosen else pl.DataFrame(schema=SCHEMA)

    return Everybody(len(users.ids), max(min(USERS, LARGEST // width_for(live.runtime.count + 1)), 1), frame)


def _of_model(model: Recommender, k: int, diversity: float, by: Reranker, search: Search) -> Everybody:
    from longtail import lists, nearby  # import torch
    from longtail.methods.base import TrainedMethod

    known = model.catalogue()
    ids, split, k = known.users.ids, known.split, min(k, known.split.items)
    if search == "cells" and diversity:
        raise DataError("diverse lists are made of exact ones; leave --search cells or --diversity out")
    many = split.items > nearby.MANY and isinstance(model.method, TrainedMethod) and not diversity
    if search == "cells" or (search == "auto" and many):
        top, step = model.nearby(k).top, nearby.USERS
    else:
        top, step = partial(lists.top, model.scorer()), USERS

    def frame(start: int, stop: int) -> pl.DataFrame:
        if diversity:
            found = model.recommend(users=ids.slice(start, stop - start), k=k, diversity=diversity, reranker=by)
        else:
            asked = split.select(np.arange(start + 1, stop + 1)).everything()
            found = lists.frame(
                top(asked, k, exclude_seen=True), ids.slice(start, stop - start), known.items, known.text
            )
        missing = [pl.lit("").alias(name) for name in SCHEMA if name not in found.columns]
        return found.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())

    return Everybody(len(ids), step, frame)


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
