"""Everybody's list over two nodes: the lists of one process, whoever dies, and no part is made twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from longtail import cli_serving
from longtail.cluster import everybody as over_cluster
from longtail.cluster.everybody import recommend_all
from longtail.cluster.parts import FACTS, Parts
from longtail.cluster.pool import Pool
from longtail.errors import ClusterError
from longtail.serve import everybody
from tests.serve.conftest import bundle, run, trained  # noqa: F401
from tests.test_cli import call

ray = pytest.importorskip("ray")
PART = 8  # users: 90 make twelve parts


def whole(folder: Path) -> pl.DataFrame:
    """All parts, in the order of their names."""
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))])


def of_one_process(source: Path) -> pl.DataFrame:
    lists = everybody.of(source, 4)
    return pl.concat(lists.frame(start, min(start + PART, lists.users)) for start in range(0, lists.users, PART))


class Caught(Pool[Any, Any]):
    """A pool whose worker is killed at the third part."""

    given = 0

    def _give(self, job: Any, tries: int) -> None:
        super()._give(job, tries)
        Caught.given += 1
        if Caught.given == 3:
            ray.kill([*self._running.values()][-1].actor)


@pytest.mark.parametrize("kind", ["bundle", pytest.param("run", marks=pytest.mark.slow)])
def test_lists_are_those_of_one_process_though_a_worker_dies(
    kind: str, cluster: object, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = request.getfixturevalue(kind), tmp_path / "lists"
    monkeypatch.setattr(Caught, "given", 0)
    monkeypatch.setattr(over_cluster, "Pool", Caught)
    told: list[tuple[int, int]] = []
    recommend: Callable[..., tuple[int, int]] = partial(recommend_all, source, out, 4, workers=2, part=PART)
    rows, kept = recommend(tell=lambda done, total: told.append((done, total)))
    expected = of_one_process(source)
    assert whole(out).equals(expected) and (rows, kept) == (len(expected), 0)
    assert Caught.given in {12, 13}  # the third again, if it was not done by then
    assert told == [(done, 12) for done in range(1, 13)]
    assert sorted(path.name for path in out.iterdir()) == [*(f"part-{part:05d}.parquet" for part in range(12)), FACTS]


def test_finished_parts_are_kept_and_only_of_the_same(
    bundle: Path,  # noqa: F811
    cluster: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["recommend", bundle, "--all", tmp_path, "-k", 4, "--cluster", "ray", "--workers"]
    monkeypatch.setattr(cli_serving, "recommend_all", partial(recommend_all, part=PART))
    code, out, err = call(capsys, monkeypatch, *command, 2)
    assert code == 0 and out.endswith("360 rows\n"), err
    lost, before = tmp_path / "part-00005.parquet", whole(tmp_path)
    lost.unlink()
    (tmp_path / ".part-00005.parquet.0000.partial").touch()  # of a worker that was killed
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    code, out, err = call(capsys, monkeypatch, *command, 1)
    assert code == 0 and out.endswith("32 rows; 11 parts were there\n"), err
    assert {path: times.get(path, 0) for path in tmp_path.iterdir()} == {
        path: 0 if path == lost else path.stat().st_mtime_ns for path in tmp_path.iterdir()
    }
    assert whole(tmp_path).equals(before)
    code, _, err = call(capsys, monkeypatch, *command, 2, "--diversity", "0.5")
    assert code == 2 and "choose another --out" in err
    code, _, err = call(capsys, monkeypatch, "recommend", bundle, "--cluster", "ray")
    assert code == 2 and "add --all" in err


def test_a_part_that_went_to_another_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="share"):
        Parts(tmp_path, 10, 5, {}).check(1)
