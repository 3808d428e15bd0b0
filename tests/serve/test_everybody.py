"""The batch job: everybody's list, streamed into a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import longtail as lt
from longtail import cli_serving
from longtail.errors import DataError, RunError
from longtail.serve import everybody
from longtail.serve.everybody import SCHEMA, of_bundle, write_all


def test_a_bundles_file_has_the_models_lists(
    bundle: Path, trained: lt.Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everybody, "USERS", 7)  # several frames
    told: list[tuple[int, int]] = []
    rows = write_all(
        of_bundle(bundle, 4).frames(lambda done, total: told.append((done, total))), tmp_path / "lists.parquet"
    )
    found = pl.read_parquet(tmp_path / "lists.parquet")
    expected = trained.recommend(users=trained.catalogue().users.ids, k=4)
    assert rows == len(found) == len(expected) and found.schema == pl.Schema(SCHEMA)
    assert found.select("user", "rank", "item", "title").equals(expected.select("user", "rank", "item", "title"))
    assert (found["score"] - expected["score"]).abs().max() < 1e-4  # type: ignore[operator]
    assert told[-1] == (90, 90) and len(told) == 13


def test_a_failure_leaves_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "lists.parquet").write_text("old")

    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame([("u", 1, "i", 0.5, "t")], schema=SCHEMA, orient="row")
        raise RuntimeError("half way")

    with pytest.raises(Exception, match="half way"):
        write_all(frames(), tmp_path / "lists.parquet")
    assert (tmp_path / "lists.parquet").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_the_command_writes_the_same_from_run_and_bundle(run: Path, bundle: Path, tmp_path: Path) -> None:
    for name, place in (("run", run), ("bundle", bundle)):
        cli_serving.recommend(place, k=3, all_to=tmp_path / name)
    one, other = (pl.read_parquet(tmp_path / name) for name in ("run", "bundle"))
    assert one.drop("score").equals(other.drop("score")) and one.schema == other.schema
    for name, place in (("run", run), ("bundle", bundle)):
        cli_serving.recommend(place, k=3, all_to=tmp_path / name, diversity=0.7, reranker="dpp")
    diverse, other = (pl.read_parquet(tmp_path / name) for name in ("run", "bundle"))
    assert diverse.drop("score").equals(other.drop("score")) and not diverse["item"].equals(one["item"])
    with pytest.raises(DataError, match="unknown reranker 'dppp', did you mean 'dpp'"):
        cli_serving.recommend(run, users=["u001"], reranker="dppp")
    with pytest.raises(RunError, match="is a bundle"):
        cli_serving.recommend(bundle, users=["u001"])
    with pytest.raises(DataError, match="--all is for all users"):
        cli_serving.recommend(run, users=["u001"], all_to=tmp_path / "x")
