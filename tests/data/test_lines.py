"""Lines that cannot be read are named with file and number, or skipped and counted; nothing of them is run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from longtail.data import lines
from longtail.data.lines import LineError, Reader
from longtail.data.opening import DataConfig, open_data
from longtail.data.records import json_record, literal_record
from longtail.errors import DataError
from tests.data.test_sources import copy, read

GOOD = {"reviewerID": "u", "asin": "B00SMPL000", "unixReviewTime": 1}
BAD_REVIEWS = {
    "truncated": (b'{"reviewerID": "u", "asin"', "no JSON"),
    "no object": (b"[1, 2]", "a list, not an object"),
    "time of a wrong type": (
        json.dumps(GOOD | {"unixReviewTime": "soon"}).encode(),
        "'unixReviewTime' is 'soon', not a whole",
    ),
    "no time": (json.dumps({"reviewerID": "u", "asin": "x"}).encode(), "'unixReviewTime' is None"),
    "endless time": (b'{"reviewerID": "u", "asin": "x", "unixReviewTime": 1e999}', "not a whole number"),
    "no user": (json.dumps(GOOD | {"reviewerID": ""}).encode(), "no id in 'reviewerID'"),
    "a list as an item": (json.dumps(GOOD | {"asin": ["x"]}).encode(), "no id in 'asin'"),
    "NUL bytes": (b"\0\0\0\0", "no JSON"),
    "not UTF-8": (b'{"reviewerID": "\xff"}', "cannot read it as utf-8"),
    "nested deeply": (b"[" * 100_000, "nested too deeply"),
}
BAD_META = {
    "a call": ("{'asin': __import__('os').system('touch harm')}", "no Python literal (malformed node"),
    "a name": ("{'asin': asin}", "no Python literal"),
    "a comprehension": ("{'asin': [x for x in (1, 2)]}", "no Python literal"),
    "a power": ("{'asin': 9**9**9}", "no Python literal"),
    "truncated": ("{'asin': 'B00SMPL000', 'title': 'So", "no Python literal"),
    "nested deeply": ("(" * 5_000, "no Python literal"),
    "NUL bytes": ("{'asin': '\0'}", "no Python literal"),
    "no id": ("{'title': 'x'}", "no id in 'asin'"),
    "a wrong type": ("{'asin': 'x', 'price': 'cheap'}", "'price' is 'cheap', not a number"),
}


def spoil(path: Path, line: bytes, number: int = 4) -> None:
    """Put a line into a file, as line `number`."""
    old = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*old[: number - 1], line, *old[number - 1 :]]))


@pytest.mark.parametrize("name", BAD_REVIEWS)
def test_a_bad_review_is_named_or_skipped_and_counted(tmp_path: Path, name: str) -> None:
    line, problem = BAD_REVIEWS[name]
    folder = copy("amazon2014", tmp_path)
    spoil(folder / "reviews_Sample.json", line)
    with pytest.raises(DataError) as error:
        open_data(DataConfig(interactions=str(folder)))
    told = str(error.value)
    assert (
        "reviews_Sample.json: line 4 is " in told and problem in told and "--bad-lines skip" in told and len(told) < 500
    )
    data = open_data(DataConfig(interactions=str(folder), bad_lines="skip"))
    assert data.hash == read("amazon2014").hash
    (note,) = [note for note in data.notes if "could not be read" in note]
    assert "reviews_Sample.json: 1 line could not be read and is left out: line 4 " in note and problem in note


@pytest.mark.parametrize("name", BAD_META)
def test_a_bad_literal_is_named_or_skipped_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    line, problem = BAD_META[name]
    folder = copy("amazon2014", tmp_path)
    monkeypatch.chdir(tmp_path)
    spoil(folder / "meta_Sample.json", line.encode())
    with pytest.raises(DataError) as error:
        open_data(DataConfig(interactions=str(folder)))
    assert "meta_Sample.json: line 4 is " in str(error.value) and problem in str(error.value)
    data = open_data(DataConfig(interactions=str(folder), bad_lines="skip"))
    assert data.hash == read("amazon2014").hash and any("meta_Sample.json: 1 line" in note for note in data.notes)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("folder", "name", "line", "problem"),
    [
        (
            "yelp",
            "yelp_academic_dataset_review.json",
            b'{"user_id":"u","business_id":"b","date":"12/31/2019"}',
            "not a date",
        ),
        ("yelp", "yelp_academic_dataset_business.json", b'{"name":"x"}', "no id in 'business_id'"),
        ("amazon2018", "meta_Sample.json", b"{'asin': 'x'}", "no JSON"),
        ("amazon2023", "Sample.jsonl", b'{"user_id":"u","parent_asin":"p","timestamp":true}', "not a whole number"),
        ("movielens100k", "u.data", b"1\t2\t3", "3 fields, not the 4"),
        ("movielens100k", "u.item", b"9|Half a film|", "3 fields, not the 24"),
        ("movielens1m", "ratings.dat", b"1::two::3::4", "invalid literal for int"),
        ("movielens_latest", "movies.csv", b"x,y,z", "film that starts with its number"),
        ("recbole", "sample.inter", b"1\t2\tgood\t3", None),
        ("recbole", "sample.inter", b"1\t2\t3", "3 fields, not the 4 of the header"),
        ("recbole", "sample.inter", b"1\t2\t3\tnan", "'nan' is no number"),
        ("recbole", "sample.item", b"9\t\0\t\t\t\t\t", "a NUL byte"),
        ("recbole", "sample.item", b"9\tx\t\t\tdear\t\t", "'dear' is no number"),
    ],
)
def test_every_source_names_its_bad_line(
    tmp_path: Path, folder: str, name: str, line: bytes, problem: str | None
) -> None:
    place = copy(folder, tmp_path)
    spoil(place / name, line)
    if problem is None:  # a rating that nobody asked for is not looked at
        assert open_data(DataConfig(interactions=str(place))).interactions.height == 32
        return
    with pytest.raises(DataError) as error:
        open_data(DataConfig(interactions=str(place)))
    assert f"{name}: line 4 is " in str(error.value) and problem in str(error.value)
    assert open_data(DataConfig(interactions=str(place), bad_lines="skip")).hash == read(folder).hash


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("harm", ["cut", "spoilt"])
def test_damaged_archives_are_told_and_what_comes_before_can_be_kept(tmp_path: Path, ending: str, harm: str) -> None:
    text = "".join(f"{number} {hash((number, 'x'))}\n" for number in range(50_000)).encode()
    raw = bytearray(gzip.compress(text) if ending == ".gz" else zstandard.compress(text))
    half = len(raw) // 2
    spoilt = raw[:-8] + b"\xff" * 8 if ending == ".gz" else raw[:half] + b"\xff" * 99  # of gzip the check sum
    raw = raw[:half] if harm == "cut" else spoilt
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.txt\.\w+: line [\d,]+ is damaged .*get the file again"):
        list(Reader().rows(path, int_first))
    reader = Reader("skip")
    found = [number for rows in reader.rows(path, int_first) for number in rows]
    assert found == list(range(len(found)))
    assert "is damaged" in reader.notes()[0]


def int_first(line: str) -> int:
    """The number that a line begins with."""
    try:
        return int(line.split(" ", maxsplit=1)[0])
    except ValueError:
        raise LineError("no number") from None


def test_a_file_that_is_none_of_lines_never_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 1000)
    monkeypatch.setattr(lines, "BLOCK", 256)
    path = tmp_path / "x"
    path.write_bytes(b"1\n" + b"7" * 5000 + b"\n2\n")
    with pytest.raises(DataError, match="line 2 is longer than"):
        list(Reader().rows(path, int_first))
    assert list(Reader("skip").rows(path, int_first)) == [[1, 2]]
    reader = Reader("skip")
    longest = max(len(raw) for raw in reader._lines(path))
    assert longest < 1000 + 2 * 256


def test_many_bad_lines_are_counted_and_the_first_few_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("".join(f"{'bad' if number % 2 else number}\n" for number in range(1, 2001)))
    reader = Reader("skip")
    (rows,) = reader.rows(path, int_first)
    assert rows == list(range(2, 2001, 2))
    (note,) = reader.notes()
    assert "1,000 lines could not be read and are left out: line 1 is 'bad': no number; line 3 " in note
    assert "line 9 " in note and "line 11" not in note and note.endswith("; …")


def test_blocks_lines_and_marks_meet_at_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbf1 a\r\n\r\n22 b\n   \n333")
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(lines, "BLOCK", size)
        assert list(Reader().rows(path, int_first)) == [[1, 22, 333]]
    monkeypatch.setattr(lines, "ROWS", 2)
    assert list(Reader().rows(path, int_first)) == [[1, 22], [333]]


def test_a_file_without_a_line_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    folder = copy("yelp", tmp_path)
    review = folder / "yelp_academic_dataset_review.json"
    review.write_text("")
    with pytest.raises(DataError, match="has no interaction: it is empty"):
        open_data(DataConfig(interactions=f"yelp:{folder}"))
    review.write_text("nothing\nof use\n")
    with pytest.raises(DataError, match=r"has no interaction that can be read: .*2 lines could not be read"):
        open_data(DataConfig(interactions=f"yelp:{folder}", bad_lines="skip"))


def test_records_read_what_python_and_json_write() -> None:
    wanted = {"a": 'it\'s "x"\n', "b": [1, 2.5, None, True], "c": {"d": "é"}}
    assert (
        literal_record(repr(wanted)) == json_record(json.dumps(wanted)) == literal_record(json.dumps(wanted)) == wanted
    )
    with pytest.raises(LineError, match=r"1,048,5.. characters are too many"):
        literal_record("{'a': '" + "x" * (1 << 20) + "'}")
