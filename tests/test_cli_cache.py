"""`longtail embed` of a paid server, `longtail cache` and `longtail profiles` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from longtail import pipeline
from longtail.data.dataset import Dataset
from longtail.errors import EmbeddingError
from longtail.text.embeddings import Embeddings
from tests.conftest import catalogue, walks
from tests.test_cli import call
from tests.text.server import Served, serving


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as made:
        yield made


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    Dataset.read(walks(), catalogue(), name="planted").save(tmp_path / "data")
    return tmp_path / "data"


def test_money_is_spent_only_when_the_user_says_so(
    served: Served, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    embed = ["embed", data, "--model", "openai:text-embedding-3-small"]
    code, out, err = call(capsys, monkeypatch, *embed, "--dry-run")
    assert code == 0 and not out and "items with openai:text-embedding-3-small: 20 new texts" in err
    assert "users with openai:text-embedding-3-small: " in err and "a request)" in err
    code, _, err = call(capsys, monkeypatch, *embed)
    assert code == 2 and "this would cost about $0.000" in err and "say --yes" in err
    run = pipeline.run_config(None, [f"data.interactions={data}", "text.model=openai:text-embedding-3-small"])
    whole = Dataset.load(data)
    with pytest.raises(EmbeddingError, match=r"more than the budget of \$0.0000; raise the budget .text.budget."):
        pipeline.knowledge(run, whole, whole.leave_one_out())
    assert not served.paths
    code, out, err = call(capsys, monkeypatch, *embed, "--yes")
    assert code == 0 and "embeddings/items: 20 vectors of width 8" in out and "0123456789" not in out + err
    made = Embeddings.load(data / "embeddings" / "items")
    assert made.provenance.identity == "server API text-embedding-3-small"
    code, _, err = call(capsys, monkeypatch, *embed)  # all is there
    assert (
        code == 0
        and "items with openai:text-embedding-3-small: all texts are in the cache" in err
        and set(served.paid.values()) == {1}
    )
    items, users = pipeline.knowledge(run, whole, whole.leave_one_out())
    assert items is not None and users is not None and set(served.paid.values()) == {1}


def test_a_server_of_one_s_own_costs_nothing_and_takes_settings(
    served: Served, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["embed", data, "--model", f"{served.url}#tiny", "--set", "text.http.dimensions=3"]
    code, out, err = call(capsys, monkeypatch, *args)
    assert code == 0 and "20 vectors of width 3" in out and "no known price" in err
    code, _, err = call(capsys, monkeypatch, *args, "--set", "text.http.dimension=3")
    assert code == 2 and "unknown key 'text.http.dimension', did you mean 'dimensions'?" in err
    code, _, err = call(capsys, monkeypatch, *args[:3], f"{served.url}#other", "--set", "text.http.price=5.0")
    assert code == 2 and "this would cost about $0.0" in err


def test_profiles_and_the_cache_from_the_command_line(
    served: Served, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    to = data.with_name("profiled")
    chat = f"{served.url}#tiny-chat"
    assert call(capsys, monkeypatch, "profiles", data, "--out", to, "--model", chat, "--dry-run")[0] == 0
    assert not served.paths
    code, out, _ = call(capsys, monkeypatch, "profiles", data, "--out", to, "--model", chat)
    assert code == 0 and "20 profiles of 20 items" in out and "profile" in Dataset.load(to).text.columns
    args = ["embed", to, "--model", f"{served.url}#tiny", "--set", f"text.profiles.model={chat}"]
    code, out, err = call(capsys, monkeypatch, *args)
    assert code == 0 and "profiles of users with" in err and "users' profiles with" in err
    assert Embeddings.load(to / "embeddings" / "users").provenance.template == f"user-profile by {chat}"
    code, out, _ = call(capsys, monkeypatch, "cache", "list", "--json")
    kept = {one["identity"]: one["width"] for one in json.loads(out)}
    assert kept == {"chat, server API tiny-chat, 200 tokens, temperature 0.0": 0, "server API tiny": 8}
    assert "server API tiny" in call(capsys, monkeypatch, "cache", "list")[1]
    assert " 0 broken" in call(capsys, monkeypatch, "cache", "verify")[1]
    table = data.with_name("v.parquet")
    code, out, _ = call(capsys, monkeypatch, "cache", "export", table, "--model", "server API tiny")
    assert code == 0 and f"new rows in {table}" in out and table.exists()
    assert "0 rows deleted" in call(capsys, monkeypatch, "cache", "prune", "--days", "1")[1]
    assert "0 rows deleted" in call(capsys, monkeypatch, "cache", "prune", "--size", "1G")[1]
    code, _, err = call(capsys, monkeypatch, "cache", "prune", "--size", "lots")
    assert code == 2 and "'lots' is not of the form 500M" in err
    assert call(capsys, monkeypatch, "cache", "prune")[0] == 2
    assert call(capsys, monkeypatch, "cache", "prune", "--size", "0")[1] != "0 rows deleted\n"
    assert json.loads(call(capsys, monkeypatch, "cache", "list", "--json")[1]) == []
