"""Saved data sets: what is written is read again, and what was changed is refused."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.dataset import Dataset
from longtail.errors import DataError

Row = tuple[str, str, int]
ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("ABCDEF"), st.integers(0, 5)), min_size=1, max_size=40
)
ITEMS = pl.DataFrame({"item_id": ["B", "A", "Z"], "title": ["bee", "ay", "zed"], "price": [2.0, None, 1.0]})


def table(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}, orient="row")


@given(ROWS, st.booleans())
def test_saving_and_loading_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], text: bool
) -> None:
    folder = tmp_path_factory.mktemp("data")
    catalogue = pl.DataFrame({"item_id": list("ABCDEF"), "tags": [["x", None], [], None, ["ä"], ["y"], []]})
    data = Dataset.read(table(rows), catalogue if text else None, name="näme")
    data.save(folder)
    again = Dataset.read(folder)
    assert again.interactions.equals(data.interactions)
    assert again.text.equals(data.text) and again.text.shape == data.text.shape
    assert again.users.ids.to_list() == data.users.ids.to_list()
    assert (again.name, again.notes, again.hash) == (data.name, data.notes, data.hash)
    assert Dataset.read(folder, name="other").name == "other"


def test_a_text_column_called_like_the_id_survives_saving(tmp_path: Path) -> None:
    items = pl.DataFrame({"sku": ["A"], "item_id": ["x"], "item_id_": ["y"]})
    data = Dataset.read(table([("a", "A", 1)]), items, item_id="sku")
    data.save(tmp_path)
    assert Dataset.load(tmp_path).text.to_dict(as_series=False) == {"item_id": ["x"], "item_id_": ["y"]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("b", "A", 3)]), ITEMS).save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", ["dataset.json", "interactions.parquet", "users.parquet", "items.parquet"])
def test_missing_and_corrupt_files_of_a_saved_data_set_are_named(saved: Path, name: str) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:20])
    with pytest.raises(DataError, match=f"{name} is corrupt"):
        Dataset.load(saved)
    (saved / name).unlink()
    with pytest.raises(DataError, match=f"no file .*{name}"):
        Dataset.load(saved)


def test_changed_newer_and_foreign_folders_are_refused(saved: Path) -> None:
    facts = json.loads((saved / "dataset.json").read_text())
    (saved / "dataset.json").write_text(json.dumps(facts | {"format": 2}))
    with pytest.raises(DataError, match="has format 2, this longtail reads 1; upgrade longtail"):
        Dataset.load(saved)
    (saved / "dataset.json").write_text("[1]")
    with pytest.raises(DataError, match=r"dataset\.json is not a data set's"):
        Dataset.load(saved)
    (saved / "dataset.json").write_text(json.dumps(facts))
    for name in ("users", "items", "interactions"):
        frame = pl.read_parquet(saved / f"{name}.parquet")
        frame.reverse().write_parquet(saved / f"{name}.parquet")
        with pytest.raises(DataError, match="are not those that were saved"):
            Dataset.load(saved)
        frame.write_parquet(saved / f"{name}.parquet")
    assert Dataset.load(saved).name == "data"
    with pytest.raises(DataError, match="is a folder with its own items"):
        Dataset.read(saved, ITEMS)


def test_a_save_that_fails_leaves_the_older_data_set_whole(saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    script = """
import resource, signal, sys
import numpy as np
import polars as pl
from longtail.data.dataset import Dataset
from longtail.errors import LongtailError
n = 20_000
rows = pl.DataFrame({"user": np.arange(n) % 7, "item": np.random.default_rng(0).integers(0, 10**9, n), "time": np.arange(n)})
data = Dataset.read(rows)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    data.save(sys.argv[1])
except LongtailError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and ".parquet" in done.stderr, done.stderr
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_the_hash_sees_ids_order_times_and_text_but_not_name_or_storage() -> None:
    rows = [("a", "A", 1), ("a", "B", 2), ("b", "A", 3)]
    base = Dataset.read(table(rows), ITEMS)
    narrow = ITEMS.with_columns(pl.col("price").cast(pl.Float32), pl.col("title").cast(pl.Categorical))
    assert Dataset.read(table(rows), narrow, name="other").hash == base.hash
    changed = [
        Dataset.read(table([("a", "B", 1), ("a", "A", 2), ("b", "A", 3)]), ITEMS),
        Dataset.read(table([("x", "A", 1), ("x", "B", 2), ("y", "A", 3)]), ITEMS),
        Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("b", "A", 4)]), ITEMS),
        Dataset.read(table(rows), ITEMS.with_columns(title=pl.lit("x"))),
        Dataset.read(table(rows), ITEMS.rename({"title": "name"})),
        Dataset.read(table(rows), ITEMS.with_columns(price=pl.lit(None, dtype=pl.Float64))),
        Dataset.read(table(rows)),
    ]
    assert len({data.hash for data in [base, *changed]}) == len(changed) + 1


def test_the_hash_is_the_sha_256_of_little_endian_values() -> None:
    items = pl.DataFrame({"item_id": ["A", "B"], "title": ["ä", None], "price": [0.5, 1.0], "tags": [["x"], []]})
    data = Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("b", "A", 3)]), items)
    no_nulls = b"\x00"
    expected = b"".join(
        [
            b"table 3 3\n",
            b'["user", "integer"]' + no_nulls + struct.pack("<3q", 1, 1, 2),
            b'["item", "integer"]' + no_nulls + struct.pack("<3q", 1, 2, 1),
            b'["timestamp", "integer"]' + no_nulls + struct.pack("<3q", 1, 2, 3),
            b'table 2 1\n["id", "text"]' + no_nulls + struct.pack("<2I", 1, 1) + b"ab",
            b'table 2 1\n["id", "text"]' + no_nulls + struct.pack("<2I", 1, 1) + b"AB",
            b"table 2 3\n",
            b'["title", "text"]\x40' + struct.pack("<2I", 2, 0) + "ä".encode(),  # the second bit: row 2 is null
            b'["price", "number"]' + no_nulls + struct.pack("<2d", 0.5, 1.0),
            b'["tags", "nested"]' + no_nulls + b'[["x"], []]',
        ]
    )
    assert data.hash == hashlib.sha256(expected).hexdigest()
