"""Tables of every kind are read alike, and bad ones are refused with a message that helps."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
import zstandard

from longtail.data.tables import open_table, read_table
from longtail.errors import DataError

FRAME = pl.DataFrame(
    {
        "user_id": ["u1", "ü2", "u3"],
        "count": [3, -1, None],
        "price": [0.5, 12.25, None],
        "title": ["a, b", 'with "quotes"', None],
    }
)


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(FRAME.write_csv().encode()))


WRITERS: dict[str, Callable[[Path], object]] = {
    "t.csv": FRAME.write_csv,
    "T.CSV": FRAME.write_csv,
    "t.csv.gz": gzipped,
    "t.tsv": lambda path: FRAME.write_csv(path, separator="\t"),
    "t.parquet": FRAME.write_parquet,
    "t.jsonl": FRAME.write_ndjson,
    "t.ndjson.zst": lambda path: path.write_bytes(zstandard.compress(FRAME.write_ndjson().encode())),
    "t.tsv.zst": lambda path: path.write_bytes(zstandard.compress(FRAME.write_csv(separator="\t").encode())),
    "t.arrow": FRAME.write_ipc,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_table(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert read_table(tmp_path / name).equals(FRAME)
    assert read_table(str(tmp_path / name)).equals(FRAME)


def test_every_kind_of_data_frame_gives_the_same_table() -> None:
    for source in (FRAME, FRAME.lazy(), FRAME.to_arrow()):
        assert read_table(source).equals(FRAME)
    from_pandas = read_table(FRAME.to_pandas())
    assert from_pandas.with_columns(pl.col("count").cast(pl.Int64)).equals(FRAME)  # pandas made floats of it
    assert read_table(pd.DataFrame({"a": [1]}, index=["x"])).to_dict(as_series=False) == {"a": [1]}


def test_text_files_keep_leading_zeros_and_odd_numbers_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("zeros,mixed,sizes,numbers,empty\n00123,1,1e3,1,\n124,x,2,-0.5,\n")
    frame = read_table(tmp_path / "t.csv")
    assert frame.to_dict(as_series=False) == {
        "zeros": ["00123", "124"],
        "mixed": ["1", "x"],
        "sizes": ["1e3", "2"],
        "numbers": [1.0, -0.5],
        "empty": [None, None],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", r"t\.csv is empty"),
        ("t.csv", "user,item\n", r"t\.csv has no rows"),
        ("t.csv", "user,item\n1,2\n3,4,5\n", r"cannot read .*t\.csv: .*check that the file is whole"),
        ("t.csv", 'user,item\n1,"2\n,3"\n4,5,6\n', r"t\.csv: line 4 \(without blank ones\) has 3 fields, the header 2"),
        ("t.tsv", "user\titem\n1\t2\t3\n", r"t\.tsv: line 2 .* has 3 fields, the header 2"),
        ("t.ndjson", '{"user": 1}\n{"user": \n', r"t\.ndjson: line 2 is '\{\"user\":': no JSON"),
        ("t.parquet", "user,item\n1,2\n", r"cannot read .*t\.parquet"),
        ("t.jsonl", "{nonsense", r"cannot read .*t\.jsonl"),
        ("t.arrow", "nonsense", r"cannot read .*t\.arrow"),
        ("t.xlsx", "x", r"t\.xlsx: unknown kind of table '\.xlsx'; known: \.csv"),
        ("table", "x", r"table: unknown kind of table ''"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


def test_missing_files_folders_and_other_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; check the path"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is a folder, not a table"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="the items cannot be a dict"):
        open_table({"a": [1]}, "the items")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the items has no rows"):
        open_table(pl.DataFrame({"a": []}), "the items")
