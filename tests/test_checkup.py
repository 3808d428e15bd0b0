"""`longtail doctor` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from longtail.text.prompts import columns_read, item_prompts
from tests.conftest import catalogue, walks
from tests.test_cli import call

DAY, START = 86_400, 1_600_000_000


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A clean log and its items, with a brand and a count that no prompt reads."""
    log = walks(400).with_columns(pl.col("timestamp") * DAY + START)
    log.rename({"user_id": "who", "item_id": "what", "timestamp": "when"}).write_csv(tmp_path / "log.csv")
    items = catalogue().with_columns(brand=pl.lit("Acme"), num_reviews=pl.int_range(pl.len()))
    items.rename({"item_id": "code"}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "title.toml").write_text(
        'version = 1\nkind = "item"\ntext = "{name}"\n[fields.name]\ncolumns = ["title"]\n'
    )
    return tmp_path


def flags(files: Path) -> list[object]:
    columns = ["--user", "who", "--item", "what", "--timestamp", "when", "--item-id", "code"]
    return [files / "log.csv", "--items", files / "items.parquet", *columns]


def test_it_prints_findings_for_people_and_for_programs(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, "doctor", *flags(files), "--min-user", 3)
    assert code == 0, err
    assert "the order matters" in out and "min_user=3" in out and "num_reviews" in out
    code, out, _ = call(capsys, monkeypatch, "doctor", *flags(files), "--json", "--template", files / "title.toml")
    rows = json.loads(out)
    assert code == 0 and all(row.keys() == {"level", "topic", "text", "facts"} for row in rows)
    assert {row["topic"] for row in rows} >= {"ties", "structure", "leaks", "cost", "filter", "texts"}
    assert [row["level"] for row in rows if row["topic"] == "leaks"] == ["note"]


def test_errors_in_the_data_give_exit_code_1_and_mistakes_2(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for minimum in ("--min-user", "--min-item"):
        code, out, _ = call(capsys, monkeypatch, "doctor", *flags(files), minimum, 1000)
        assert code == 1 and "leaves nothing" in out
    code, _, err = call(capsys, monkeypatch, "doctor", files / "no.csv")
    assert code == 2 and "does not exist" in err
    code, _, err = call(capsys, monkeypatch, "doctor", *flags(files), "--user", "whom")
    assert code == 2 and "no column 'whom'" in err and "did you mean 'who'" in err
    code, _, err = call(capsys, monkeypatch, "doctor", *flags(files), "--template", "generics")
    assert code == 2 and "generic" in err
    code, _, err = call(capsys, monkeypatch, "doctor", "bundled:online_retial")
    assert code == 2 and "online_retail" in err


def test_a_config_file_and_a_prepared_folder_are_examined_too(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "run.toml").write_text(
        """
        [data]
        interactions = "log.csv"
        items = "items.parquet"
        user = "who"
        item = "what"
        timestamp = "when"
        item_id = "code"
        min_user = 5
        [method]
        name = "plain"
        [train]
        epochs = 7
        """
    )
    code, out, err = call(capsys, monkeypatch, "doctor", files / "run.toml", "--json", "--min-item", 2)
    assert code == 0, err
    facts = {row["topic"]: row for row in json.loads(out)}
    assert "min_user=5, min_item=2" in facts["filter"]["text"] and facts["cost"]["facts"]["epochs"] == 7
    code, _, err = call(capsys, monkeypatch, "prepare", *flags(files), "--out", files / "prepared")
    assert code == 0, err
    code, out, err = call(capsys, monkeypatch, "doctor", files / "prepared", "--json")
    assert code == 0, err
    assert {row["topic"]: row["level"] for row in json.loads(out)}["structure"] == "ok"


def test_the_columns_that_prompts_are_made_of(files: Path) -> None:
    text = pl.DataFrame(
        {"Title": ["a"], "name": ["b"], "review_count": [3], "brand": ["c"], "nested": [[{"x": 1}]], "tags": [["d"]]}
    )
    assert columns_read(text) == ["Title", "brand", "tags"]
    assert columns_read(text, str(files / "title.toml")) == ["Title"]
    assert columns_read(text, "amazon") == ["Title", "brand"]
    for template in ("generic", "amazon"):
        (prompt,) = item_prompts(text, template)
        read = columns_read(text, template)
        for column in ("Title", "name", "brand", "tags"):
            changed = text.with_columns(pl.lit(["XX"] if column == "tags" else "XX").alias(column))
            assert (item_prompts(changed, template) != [prompt]) == (column in read), (template, column)
