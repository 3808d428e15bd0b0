"""Workers that die, hang or fail: every block is answered once, and what is wrong is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from longtail.cluster import pool as pools
from longtail.cluster.pool import Pool
from longtail.errors import ClusterError, DataError

pytest.importorskip("ray")


def doubling(folder: Path, does: str) -> Callable[[int], int]:
    """Work that does something else at 3, the first time or always."""

    def work(job: int) -> int:
        mark = folder / f"{job}"
        first = not mark.exists()
        with mark.open("a") as file:
            file.write("x")
        if job == 3 and (first or does == "always die"):
            if does in {"die", "always die"}:
                os._exit(1)
            if does == "hang":
                time.sleep(600)
            if does == "fail":
                raise DataError("job 3 is not to be doubled")
        return 2 * job

    return work


@pytest.mark.parametrize("does", ["die", "hang"])
def test_the_block_of_a_dead_or_hanging_worker_is_done_again_and_no_other(
    does: str, cluster: object, tmp_path: Path
) -> None:
    pool: Pool[int, int] = Pool(partial(doubling, tmp_path, does), 2, shortest=1.0)
    assert sorted(pool.stream(iter(range(12)))) == [(job, 2 * job) for job in range(12)]
    pool.close()
    assert {path.name for path in tmp_path.iterdir() if path.read_text() != "x"} == {"3"}
    assert (tmp_path / "3").read_text() == "xx"


def test_a_block_that_kills_every_worker_ends_it(
    cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "TRIES", 2)
    pool: Pool[int, int] = Pool(partial(doubling, tmp_path, "always die"), 1)
    with pytest.raises(ClusterError, match=r"a worker died .*, as 2 did at one block"):
        list(pool.stream(iter([3])))
    pool.close()
    assert (tmp_path / "3").read_text() == "xx"


def test_an_error_of_the_work_is_raised_as_it_was_after_what_runs_is_answered(cluster: object, tmp_path: Path) -> None:
    pool: Pool[int, int] = Pool(partial(doubling, tmp_path, "fail"), 2)
    drawn: list[int] = []

    def jobs() -> object:
        for job in range(100):
            drawn.append(job)
            yield job

    found = []
    with pytest.raises(DataError, match="job 3 is not to be doubled"):
        for job, answer in pool.stream(jobs()):  # type: ignore[arg-type]
            found.append((job, answer))
    assert sorted(found) == [(job, 2 * job) for job in drawn if job != 3] and len(drawn) < 10
    assert list(pool.stream(iter([50]))) == [(50, 100)]  # the workers are as good as before
    pool.close()
