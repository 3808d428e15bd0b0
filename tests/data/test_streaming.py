"""A table prepared a part at a time gives the folder that it gives in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from longtail.data import codes, digest, distinct, memory, streaming
from longtail.data.dataset import TABLES, Dataset
from longtail.data.opening import DataConfig
from longtail.errors import ConfigError, DataError
from longtail.pipeline import prepare, prepare_within

ENOUGH = 4 * 10**9
ITEMS = pl.DataFrame({"item_id": [f"I{n}" for n in range(0, 400, 3)], "title": [f"item {n}" for n in range(134)]})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a few hundred rows are read and written in parts of 37, and ids merged often."""
    monkeypatch.setattr(codes, "MOST", 37)
    monkeypatch.setattr(codes, "FEWEST", 37)
    monkeypatch.setattr(codes, "GROUPS", 3)


def interactions(rows: int = 700, seed: int = 0) -> pl.DataFrame:
    """Users and items of very different activity, with ties and repeats, in no order."""
    draw = np.random.default_rng(seed)
    user, item = (90 * draw.random(rows) ** 1.5).astype(int), (120 * draw.random(rows) ** 2).astype(int)
    return pl.DataFrame(
        {
            "rating": draw.integers(1, 6, rows) / 2,
            "item_id": [f"I{n}" for n in item],
            "user_id": [f"user {n * 7919 % 1000:03}" for n in user],
            "timestamp": draw.integers(1_500_000_000, 1_500_000_030, rows),
            "words": [None if n % 5 == 0 else f" said  {n}\n{n % 7} " for n in range(rows)],
            "count": [str(n) for n in range(rows)],
            "late": [None if n < 40 else "1.5" if n == 90 else str(n) for n in range(rows)],
            "mixed": ["x" if n == 50 else str(n) for n in range(rows)],
        }
    )


def same(config: DataConfig, folder: Path, limit: int = ENOUGH) -> None:
    """Prepare both ways and compare everything that is written and told."""
    try:
        whole = prepare(config, folder / "whole")
    except DataError as error:
        with pytest.raises(DataError) as other:
            prepare_within(config, folder / "parts", limit)
        assert str(other.value) == str(error) and not (folder / "parts").exists()
        return
    made = prepare_within(config, folder / "parts", limit)
    for name in TABLES:
        assert_frame_equal(pl.read_parquet(folder / "parts" / name), pl.read_parquet(folder / "whole" / name))
    facts = [json.loads((folder / which / "dataset.json").read_text()) for which in ("parts", "whole")]
    assert facts[0] == facts[1]
    assert made == (whole.name, whole.notes, whole.describe())
    assert Dataset.load(folder / "parts").hash == whole.hash  # which compares it with the tables
    assert sorted(path.name for path in (folder / "parts").iterdir()) == sorted([*TABLES, "dataset.json"])


WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "log.csv": pl.DataFrame.write_csv,
    "log.tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "log.parquet": lambda frame, path: frame.write_parquet(path, row_group_size=100),
    "log.jsonl": pl.DataFrame.write_ndjson,
    "log.arrow": pl.DataFrame.write_ipc,
    "log[1].csv.gz": lambda frame, path: frame.write_csv(path, compression="gzip"),
}
FILTERS = [{}, {"min_user": 4, "min_item": 3}, {"min_user": 9, "min_item": 5, "repeat": False}, {"min_item": 6}]


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_folder_that_it_gives_in_memory(tmp_path: Path, name: str) -> None:
    WRITERS[name](interactions(), tmp_path / name)
    ITEMS.write_parquet(tmp_path / "items.parquet")
    files = {"interactions": str(tmp_path / name), "items": str(tmp_path / "items.parquet")}
    same(
        DataConfig(**files, keep=("rating", "count", "late", "mixed"), review="words", min_user=4, min_item=3), tmp_path
    )


@pytest.mark.parametrize("settings", FILTERS)
@pytest.mark.parametrize("rows", [1, 37, 300, 2000])
def test_every_filter_gives_the_folder_that_it_gives_in_memory(
    tmp_path: Path, rows: int, settings: dict[str, int]
) -> None:
    interactions(rows).write_parquet(tmp_path / "log.parquet")
    config = DataConfig(interactions=str(tmp_path / "log.parquet"), **settings)
    same(config, tmp_path)
    assert rows < 2000 or (tmp_path / "parts").exists()


TIMES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "floats": lambda time: time + 0.25 * (time % 3),
    "whole floats": lambda time: time.cast(pl.Float64),
    "one fraction": lambda time: time + pl.when(pl.int_range(pl.len()) == 150).then(0.5).otherwise(0.0),
    "datetimes": lambda time: pl.from_epoch(time * 1000 + time % 4, time_unit="ms"),
    "dates": lambda time: pl.from_epoch(time % 30, time_unit="d"),
    "ISO": lambda time: pl.from_epoch(time, time_unit="s").dt.to_string("iso:strict"),
    "text": lambda time: time.cast(pl.String),
    "text, one fraction": lambda time: (
        time.cast(pl.String) + pl.when(pl.int_range(pl.len()) == 150).then(pl.lit(".5")).otherwise(pl.lit(""))
    ),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_in_every_spelling_are_read_as_in_memory(tmp_path: Path, kind: str) -> None:
    frame = interactions(300).with_columns(TIMES[kind](pl.col("timestamp")).alias("timestamp"))
    frame.write_parquet(tmp_path / "log.parquet")
    same(DataConfig(interactions=str(tmp_path / "log.parquet")), tmp_path)


def test_number_ids_no_times_and_odd_columns_are_read_as_in_memory(tmp_path: Path) -> None:
    frame = interactions(300).select(
        pl.col("user_id").str.slice(5).cast(pl.Float64).alias("user"),
        pl.col("item_id").cast(pl.Categorical).alias("item"),
        pl.col("count").str.split("1").alias("lists"),
        pl.struct("rating", "words").alias("structs"),
        pl.col("words").cast(pl.Categorical).alias("kinds"),
        pl.lit(None).alias("nothing"),
    )
    frame.write_parquet(tmp_path / "log.parquet")
    keep = ("lists", "structs", "nothing", "kinds")
    same(DataConfig(interactions=str(tmp_path / "log.parquet"), keep=keep, review="kinds", min_item=2), tmp_path)


ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=150)


@given(ROWS, st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_any_table_gives_the_folder_that_it_gives_in_memory(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], users: int, items: int, repeat: bool
) -> None:
    folder = tmp_path_factory.mktemp("data")
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(folder / "log.csv")
    config = DataConfig(interactions=str(folder / "log.csv"), min_user=users, min_item=items, repeat=repeat)
    same(config, folder)


BAD: dict[str, tuple[dict[int, object], dict[str, object]]] = {
    "user_id": ({40: None, 41: "", 299: None}, {}),
    "item_id": (dict.fromkeys(range(10, 200, 9)), {}),
    "timestamp": ({5: None, 120: "12/1/2010 8:26", 121: ""}, {}),
    "words": ({}, {"review": "word"}),
    "rating": ({}, {"keep": ("ratings",)}),
    "count": ({}, {"review": "rating"}),
    "any": ({}, {"bad_lines": "skip"}),
}


@pytest.mark.parametrize("column", BAD)
@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_errors_are_those_of_memory_and_nothing_is_left_behind(tmp_path: Path, name: str, column: str) -> None:
    cells, settings = BAD[column]
    frame = interactions(300)
    if cells:
        values = frame[column].cast(pl.String).to_list()
        frame = frame.with_columns(pl.Series(column, [cells.get(n, value) for n, value in enumerate(values)]))
    WRITERS[name](frame, tmp_path / name)
    config = DataConfig(interactions=str(tmp_path / name), **settings)  # type: ignore[arg-type]
    told = []
    for limit in (None, ENOUGH):
        try:
            prepare_within(config, tmp_path / "deep" / "out", limit)
        except DataError as error:
            told.append(str(error))
    assert len(told) == (0 if column == "count" and name == "log.csv" else 2) and len(set(told)) <= 1
    if told:
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_numbers_that_are_no_ids_or_times_are_told_as_in_memory(tmp_path: Path) -> None:
    for column, value in (("user", 2.5), ("user", float("nan")), ("timestamp", float("inf")), ("timestamp", 1e30)):
        frame = pl.DataFrame({"user": np.arange(100.0) // 7, "item": np.arange(100) % 9, "timestamp": np.arange(100.0)})
        frame[70, column] = value
        frame[99, column] = value
        frame.write_parquet(tmp_path / "log.parquet")
        told = []
        for limit in (None, ENOUGH):
            with pytest.raises(
                DataError, match=r"2 of 100 rows have an? .*rows 71, 100, counted|2 of 100 rows have no id"
            ) as error:
                prepare_within(DataConfig(interactions=str(tmp_path / "log.parquet")), tmp_path / "out", limit)
            told.append(str(error.value))
        assert told[0] == told[1]


def test_a_broken_file_is_told_as_in_memory(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n" + "1,2\n" * 50 + "3,4,5\n")
    told = []
    for limit in (None, ENOUGH):
        with pytest.raises(DataError, match=r"cannot read .*log\.csv: .*check that the file is whole") as error:
            prepare_within(DataConfig(interactions=str(tmp_path / "log.csv")), tmp_path / "out", limit)
        told.append(str(error.value))
    assert told[0] == told[1] and [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_folder_that_is_not_ours_stays_as_it_is(tmp_path: Path) -> None:
    interactions(50).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "users.parquet").write_text("mine")
    with pytest.raises(Exception, match=r"has a users\.parquet that is not longtail's"):
        prepare_within(DataConfig(interactions=str(tmp_path / "log.parquet")), tmp_path / "out", ENOUGH)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["users.parquet"]


def test_only_tables_in_files_have_a_bound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bundled:online_retail is read whole; --memory is for a table in a file"):
        prepare_within(DataConfig(interactions="bundled:online_retail"), tmp_path / "out", ENOUGH)
    found = prepare_within(DataConfig(interactions="bundled:online_retail"), tmp_path / "out")
    assert found.figures["users"] == len(Dataset.load(tmp_path / "out").users)


def test_too_little_memory_is_told_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 200_000
    monkeypatch.setattr(codes, "MOST", 50_000)
    frame = pl.DataFrame({"user": np.arange(rows), "item": np.arange(rows) % 50, "time": np.arange(rows)})
    frame.write_parquet(tmp_path / "log.parquet")
    config = DataConfig(interactions=str(tmp_path / "log.parquet"))
    with pytest.raises(DataError, match=r"300 MB of memory are too little for reading .*log\.parquet; give --memory "):
        prepare_within(config, tmp_path / "out", 300 * 10**6)
    monkeypatch.setattr(memory, "ID", 10_000)  # of two billion bytes for the users
    limit = memory.resident() + 10**9
    with pytest.raises(
        DataError, match=r"too little for the ids of about [12]\d\d,\d{3} users; give --memory (\d\.?\d?)GB"
    ) as error:
        prepare_within(config, tmp_path / "out", limit)
    wanted = memory.parse(str(error.value).partition("--memory ")[2].partition(" ")[0])
    assert wanted > limit
    assert prepare_within(config, tmp_path / "out", wanted).figures["users"] == rows


def test_what_would_not_fit_is_prepared_in_parts_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("log.parquet", "log.csv"):
        WRITERS[name](interactions(), tmp_path / name)
        config = DataConfig(interactions=str(tmp_path / name))
        assert streaming.bound(config) is None
        monkeypatch.setattr(memory, "available", lambda: 10_000)
        with caplog.at_level(logging.WARNING):
            assert streaming.bound(config) == 7_000
        assert "it is prepared a part at a time, within 0 MB" in caplog.text
        monkeypatch.undo()
    assert memory.available() is None or memory.available() > 10**8  # type: ignore[operator]


def test_sizes_are_read_as_people_write_them() -> None:
    assert [memory.parse(text) for text in ("2GB", "1.5 gib", "800M", "100")] == [2 * 10**9, 3 * 2**29, 8 * 10**8, 100]
    for text in ("", "much", "0", "-1GB", "2 hours"):
        with pytest.raises(ConfigError, match="is no size; give it as 2GB"):
            memory.parse(text)


def test_different_ids_are_estimated_when_they_do_not_fit() -> None:
    parts = [pl.Series(np.arange(n, n + 50_000)) for n in range(0, 1_000_000, 25_000)]
    with pytest.raises(distinct.TooManyError) as error:
        distinct.distinct(parts, 10**6)
    assert error.value.ids == pytest.approx(1_025_000, rel=0.06)
    assert distinct.distinct(parts, 10**9).equals(pl.Series("id", np.arange(1_025_000)))


def test_a_hash_does_not_depend_on_how_many_texts_are_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = interactions(100)
    frame.write_parquet(tmp_path / "log.parquet")
    whole = digest.digest([frame])
    monkeypatch.setattr(digest, "TEXTS", 8)
    assert digest.digest([frame]) == digest.digest([pl.scan_parquet(tmp_path / "log.parquet")]) == whole
    assert digest.digest([frame.reverse()]) != whole
