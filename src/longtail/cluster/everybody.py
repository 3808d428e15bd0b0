"""Everybody's list over a cluster: parts of the users to workers that each hold the model, a Parquet file a part."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from longtail.cluster.parts import Parts, digest
from longtail.cluster.pool import Pool
from longtail.files import sweep
from longtail.rerank import Reranker
from longtail.serve import everybody
from longtail.serve.everybody import Search, Tell, write_all
from longtail.serve.manifest import MANIFEST

PART = 8192  # users a file, about


class _Job(NamedTuple):
    part: int
    start: int
    stop: int


class _Recommending:
    """What a worker does: it maps the bundle, or loads the run, once; a machine's workers share what is mapped."""

    def __init__(self, parts: Parts, source: Path, k: int, diversity: float, by: Reranker, search: Search) -> None:
        self.parts, self.lists = parts, everybody.of(source, k, diversity, by, search)

    def __call__(self, job: _Job) -> int:
        return write_all(self.lists.frames(start=job.start, stop=job.stop), self.parts.path(job.part))


def recommend_all(
    source: Path,
    out: Path,
    k: int,
    *,
    diversity: float = 0.0,
    by: Reranker = "mmr",
    search: Search = "auto",
    workers: int | None = None,
    tell: Tell = lambda done, total: None,
    part: int = PART,
) -> tuple[int, int]:
    """Lists of a bundle's or a run's users as part-00000.parquet, … of the folder `out`, of `part` users each.

    The rows that were written, and how many parts were there before and are kept. Blocks of users, and so the lists,
    are those of one process. A LongtailError if `out` holds lists of another model or other settings.
    """
    source, out = source.resolve(), out.resolve()
    lists = everybody.of(source, k, diversity, by, search)
    size = part // lists.step * lists.step or part  # whole blocks, where it has one
    parts = Parts(
        out,
        lists.users,
        size,
        {"model": _hash(source), "k": k, "diversity": diversity, "reranker": by, "search": search},
    )
    lacking = parts.lacking()
    kept, rows = parts.count - len(lacking), 0
    pool: Pool[_Job, int] = Pool(partial(_Recommending, parts, source, k, diversity, by, search), workers)
    try:
        for done, (job, written) in enumerate(pool.stream(_jobs(parts, lacking)), start=kept + 1):
            parts.check(job.part)
            rows += written
            tell(done, parts.count)
    finally:
        pool.close()
    sweep(out)  # what workers that died had begun
    return rows, kept


def _jobs(parts: Parts, lacking: list[int]) -> Iterator[_Job]:
    return (_Job(part, *parts.span(part)) for part in lacking)


def _hash(source: Path) -> str:
    """Of what a list depends on: a manifest has the hashes of its bundle's files."""
    if (source / MANIFEST).is_file():
        return digest([source / MANIFEST])
    from longtail.run_folder import FILES  # imports torch

    return digest([source / name for name in ("config.json", *FILES)])
