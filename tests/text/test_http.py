"""The HTTP encoder against a real server: every way to fail is survived or refused with its reason."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.cache import embed_cached
from longtail.text.embedders.base import parse
from longtail.text.embedders.http import Http, configured
from longtail.text.endpoints import HttpConfig, endpoint
from longtail.text.store import opened

from .server import WIDTH, Served, serving, vector

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text {row}" for row in range(40)]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as made:
        yield made


def encoder(served: Served, **settings: object) -> Http:
    made = {"timeout": 5.0, "backoff": 0.01, "batch_items": 10, "concurrency": 3, **settings}
    config = HttpConfig.model_validate(made)
    found = configured(f"{served.url}#tiny", config)
    assert isinstance(found, Http)
    return found


def right(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]], texts: list[str] = TEXTS) -> None:
    np.testing.assert_array_equal(vectors, np.stack([vector(text) for text in texts]))


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_shuffled_answers_are_matched_by_their_index(served: Served, encoding: str) -> None:
    made = encoder(served, encoding=encoding)
    right(made.encode(TEXTS))
    assert sorted(map(len, served.asked)) == [10, 10, 10, 10]
    assert made.tokens == sum(map(len, TEXTS)) and made.requests == 4


@pytest.mark.parametrize(
    "fault", ["429", "429:0.05", "429:date 1", "500", "502", "503", "503:0.02", "529", "408", "reset", "truncated"]
)
def test_what_may_pass_is_tried_again_and_nothing_is_lost(served: Served, fault: str) -> None:
    served.faults.extend([fault, fault])
    right(encoder(served).encode(TEXTS))


def test_a_server_that_hangs_is_left_after_the_timeout(served: Served) -> None:
    served.faults.append("hang:60")
    started = time.monotonic()
    right(encoder(served, timeout=1.0).encode(TEXTS))
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("wait", ["429:1", "503:1", "429:date 2"])
def test_retry_after_is_kept(served: Served, wait: str) -> None:
    served.faults.append(wait)
    right(encoder(served, concurrency=1).encode(TEXTS))
    assert served.times[1] - served.times[0] >= 0.95  # a date has whole seconds


def test_a_server_that_starts_late_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = configured(f"http://127.0.0.1:{port}/v1#tiny", HttpConfig(backoff=0.1, tries=8))
    assert isinstance(made, Http)
    found: list[np.ndarray[tuple[int, int], np.dtype[np.float32]]] = []
    asking = threading.Thread(target=lambda: found.append(made.encode(TEXTS)))
    asking.start()
    time.sleep(0.3)
    with serving(port):
        asking.join(20)
    right(found[0])


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("html", "answers text/html, not JSON; check its address, which often ends in /v1: <html>Please log in"),
        ("401", "refuses the key .401 Unauthorized"),
        ("403", "refuses this to the key .403 Forbidden"),
        ("404", "is not there .404 Not Found.*check the model's name and the address"),
        ("400", "refuses the request .400 Bad Request.*as told"),
        ("quota", "the account has no credit left .429.*You exceeded your quota"),
        ("429:900", "asks to wait 900 seconds .429.*what was answered is kept"),
        ("short", "answered 10 texts with 9 rows; nothing of it is kept"),
        ("same", "rows of index .0, 0.* that should be 0 to 9, each once"),
        ("ragged", r"vectors of width \[8, 9\]"),
    ],
)
def test_what_cannot_be_right_is_refused_at_once_with_its_reason(served: Served, fault: str, problem: str) -> None:
    served.faults.append(fault)
    with pytest.raises(EmbeddingError, match=problem):
        encoder(served, concurrency=1).encode(TEXTS)
    assert len(served.paths) == 1


def test_a_server_that_stays_broken_is_given_up_with_the_last_reason(served: Served) -> None:
    served.faults.extend(["500"] * 9)
    with pytest.raises(EmbeddingError, match=r"gave no answer in 4 tries; the last time: 500 Internal.*run again"):
        encoder(served, tries=4, concurrency=1).encode(TEXTS)
    served.faults.clear()
    served.faults.extend(["truncated"] * 9)
    with pytest.raises(EmbeddingError, match=r"sent JSON that does not parse .*, 3 times"):  # each may have been paid
        encoder(served, concurrency=1).encode(TEXTS)


def test_a_width_that_changes_and_vectors_that_are_not_finite_are_refused_and_the_rest_kept(
    served: Served, tmp_path: Path
) -> None:
    served.faults.extend(["", "wide"])
    with pytest.raises(EmbeddingError, match=r"shape \(10, 9\) for 10 texts, expected 8 columns"):
        embed_cached(encoder(served, concurrency=1), TEXTS, tmp_path / "c")
    served.faults.append("nan")
    with pytest.raises(EmbeddingError, match="gave NaN or infinity for 'text 20'"):
        embed_cached(encoder(served, concurrency=1), TEXTS, tmp_path / "c")
    with opened(tmp_path / "c") as store:
        assert store.connection.execute("SELECT count(*) FROM vectors").fetchone() == (19,)
    right(embed_cached(encoder(served), TEXTS, tmp_path / "c"))


def test_texts_that_are_too_long_are_parted_and_a_single_one_is_cut(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.longest = 60
    long = "long " * 30
    vectors = encoder(served).encode([*TEXTS[:5], long, *TEXTS[5:]])
    right(np.delete(vectors, 5, axis=0))
    cut = next(text for texts in served.asked for text in texts if text.startswith("long"))
    assert 40 < len(cut) <= 60 and long.startswith(cut) and "150 characters" in caplog.text
    np.testing.assert_array_equal(vectors[5], vector(cut))
    assert max(map(len, served.asked)) > 1  # only what is too long is parted
    served.longest = 10
    with pytest.raises(EmbeddingError, match="too long"):
        encoder(served).encode(["no matter how much of this is cut"])


def test_a_server_s_limit_on_texts_a_request_is_found_once(served: Served) -> None:
    served.most = 4
    many = [f"text {row}" for row in range(200)]
    right(encoder(served, concurrency=1, batch_items=32).encode(many), many)
    assert len(served.paths) - len(served.asked) <= 8  # 32 -> 16 -> 8 are refused, and then no more
    assert max(map(len, served.asked)) <= 4


def test_a_server_without_base64_gets_the_other_encoding(served: Served) -> None:
    served.floats_only = True
    right(encoder(served).encode(TEXTS))


def test_dimensions_are_asked_for_and_checked(served: Served) -> None:
    made = encoder(served, dimensions=3)
    assert made.encode(TEXTS).shape == (40, 3) and served.bodies[0]["dimensions"] == 3
    assert made.identity.endswith("tiny 3") and made.identity != encoder(served).identity
    served.faults.append("wide")
    with pytest.raises(EmbeddingError, match=r"vectors of width \[4\], not 3 as asked"):
        made.encode(TEXTS)


def test_requests_are_side_by_side_and_no_more_than_allowed(served: Served) -> None:
    served.delay = 0.3
    encoder(served, batch_items=4, concurrency=5).encode(TEXTS)
    assert served.peak == 5


def test_requests_hold_no_more_characters_than_allowed(served: Served) -> None:
    texts = ["x" * size for size in (50, 60, 30, 20, 200, 5)]
    right(encoder(served, batch_chars=100).encode(texts), texts)
    assert sorted(served.asked) == sorted([texts[:1], texts[1:3], texts[3:4], texts[4:5], texts[5:]])


def test_a_limit_of_the_server_is_found_and_kept_to(served: Served) -> None:
    served.limit = 20  # a second
    many = [f"text {row}" for row in range(120)]
    made = encoder(served, batch_items=1, concurrency=8, backoff=0.1)
    right(made.encode(many), many)
    refused = len(served.paths) - len(served.asked)
    assert 0 < refused < 50, refused  # 25 to 26 as it is, 67 to 126 with back-off alone


def test_a_failure_loses_no_request_that_was_in_flight(served: Served, tmp_path: Path) -> None:
    served.delay = 0.3
    served.faults.extend(["", "401", ""])
    with pytest.raises(EmbeddingError, match="refuses the key"):
        embed_cached(encoder(served), TEXTS, tmp_path / "c")
    assert served.asked
    served.delay = 0
    right(embed_cached(encoder(served), TEXTS, tmp_path / "c"))
    assert set(served.paid.values()) == {1}


def test_the_key_is_sent_and_never_told(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    made = configured("openai:tiny", HttpConfig(backoff=0.01))
    assert isinstance(made, Http)
    served.faults.extend(["500", "echo"])
    with caplog.at_level(logging.DEBUG), pytest.raises(EmbeddingError, match="check OPENAI_API_KEY") as error:
        embed_cached(made, TEXTS, tmp_path / "c")
    assert served.headers[0]["authorization"] == f"Bearer {KEY}"
    embed_cached(made, TEXTS, tmp_path / "c")
    told = str(error.value) + caplog.text + made.model + made.identity + repr(made.config) + repr(made.endpoint)
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "0123456789" not in told and b"0123456789" not in files and "***" in str(error.value)


def test_openai_s_key_goes_to_no_other_server(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    encoder(served).encode(TEXTS[:1])
    assert "authorization" not in served.headers[0]
    monkeypatch.setenv("MY_KEY", "mine-123456")
    encoder(served, key_env="MY_KEY").encode(TEXTS[:1])
    assert served.headers[1]["authorization"] == "Bearer mine-123456"


def test_azure_has_its_own_address_version_and_header(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-123456")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", served.url.removesuffix("/v1"))
    found = parse("azure:mine")
    assert isinstance(found, Http) and found.identity == "azure API mine"
    right(found.encode(TEXTS))
    assert served.paths[0] == "/openai/deployments/mine/embeddings?api-version=2024-10-21"
    assert served.headers[0]["api-key"] == "azure-123456" and "authorization" not in served.headers[0]


def test_a_server_may_move_and_keeps_its_vectors_unless_told_apart() -> None:
    one, two = (Http(endpoint("http", f"//{host}/v1#tiny", HttpConfig())) for host in ("a:1", "b:2"))
    assert one.identity == two.identity == "server API tiny"
    assert Http(one.endpoint, HttpConfig(identity="ours, of May")).identity == "ours, of May"


def test_names_without_model_key_or_address_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name, problem in (
        ("openai:", "names no model; write it as openai:MODEL"),
        ("http://host/v1", "names no model; write it as http://HOST:PORT/v1#MODEL"),
        ("azure:mine", "set AZURE_OPENAI_ENDPOINT"),
        ("http://:80#x", "is no address of a server"),
        ("https://host:99999/v1#x", "is no address of a server"),
    ):
        with pytest.raises(ConfigError, match=problem):
            parse(name)
    for name in ("http://me:secret7@host/v1#m", "https://host/v1?api-key=secret7#m"):
        with pytest.raises(ConfigError, match="put the key into an environment variable") as error:
            parse(name)
        assert "secret7" not in str(error.value)
    unkeyed = parse("openai:text-embedding-3-small")
    assert isinstance(unkeyed, Http)
    with pytest.raises(EmbeddingError, match="needs a key: set the environment variable OPENAI_API_KEY"):
        unkeyed.encode(["a"])


def test_nothing_is_connected_when_all_is_cached(tmp_path: Path) -> None:
    with serving() as served:
        first = embed_cached(encoder(served), TEXTS, tmp_path / "c")
        gone = encoder(served)
    np.testing.assert_array_equal(embed_cached(gone, TEXTS, tmp_path / "c"), first)
    assert first.shape == (40, WIDTH)
