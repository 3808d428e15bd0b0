"""Files are written whole or not at all, and errors name them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.errors import DataError, LongtailError, RunError
from longtail.files import (
    atomic,
    file_hash,
    read_json,
    read_parquet,
    read_safetensors,
    write_json,
    write_parquet,
    write_safetensors,
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "ä…"], "b": {"c": True}}
    write_json(tmp_path / "new" / "x.json", value)  # makes the folder
    assert read_json(tmp_path / "new" / "x.json") == value
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    write_parquet(tmp_path / "x.parquet", frame)
    assert read_parquet(tmp_path / "x.parquet").equals(frame)
    arrays = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3).T,  # not contiguous
        "b": np.array([0.5], dtype=np.float32),
        "c": np.zeros((0, 4), dtype=np.bool_),
    }
    write_safetensors(tmp_path / "x.safetensors", arrays)
    again = read_safetensors(tmp_path / "x.safetensors")
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ZeroDivisionError, OSError, RunError])
def test_a_failure_leaves_the_old_file_whole_and_no_partial_one(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "x.json"
    write_json(path, "old")
    with (
        pytest.raises(LongtailError if failure is OSError else failure),
        atomic(path) as temporary,
    ):
        temporary.write_text('"ne')
        raise failure
    assert read_json(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("old")
    with pytest.raises(LongtailError, match=r"disk full writing .*x\.parquet; free space"), atomic(path):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(LongtailError, match=r"disk full writing .*x\.parquet; free space"), atomic(path):
        pl.DataFrame({"a": np.random.default_rng(0).random(100_000)}).write_parquet("/dev/full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITERS = {
    "json": "files.write_json(path, list(range(100_000)))",
    "parquet": "files.write_parquet(path, pl.DataFrame({'a': np.random.default_rng(0).random(100_000)}))",
    "safetensors": "files.write_safetensors(path, {'a': np.zeros(100_000)})",
}


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file size")
@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_survives_a_write_that_fails_half_way(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_text("old")
    script = f"""
import resource, signal, sys
from pathlib import Path
import numpy as np
import polars as pl
from longtail import files
from longtail.errors import LongtailError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
path = Path(sys.argv[1])
try:
    {WRITERS[kind]}
except LongtailError as error:
    sys.exit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 1, done.stderr
    assert f"cannot write {path}" in done.stderr
    assert "nothing that existed was changed" in done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LongtailError, match=r"cannot write .*file/x\.json"):
        write_json(tmp_path / "file" / "x.json", 1)


def test_every_file_gets_the_rights_that_a_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(1)})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("read", [read_json, read_parquet, read_safetensors])
def test_missing_and_corrupt_files_are_named(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RunError, match=r"no file .*nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no file .*nowhere"):
        read(tmp_path / "nowhere", DataError)
    for content in (b"", b"PAR1 but no more", b"\xff\xfe{"):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(RunError, match=r"broken is corrupt"):
            read(tmp_path / "broken")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", pl.DataFrame({"a": range(1000)}))
    write_safetensors(tmp_path / "x.safetensors", {"a": np.arange(1000)})
    for name, read in (("x.parquet", read_parquet), ("x.safetensors", read_safetensors)):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(RunError, match=f"{name} is corrupt"):
            read(tmp_path / name)


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
