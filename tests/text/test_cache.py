"""The cache embeds nothing twice, whatever interrupts it and whoever shares it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.errors import EmbeddingError
from longtail.text.cache import CHUNK, default_cache, embed_cached
from longtail.text.embedders.base import Embedder
from longtail.text.store import opened
from longtail.text.vector_files import Floats


class Hashing(Embedder):
    """A real, if senseless, encoder: the bytes of a hash. Keeps what it was asked, and can be interrupted."""

    def __init__(self, width: int = 4, name: str = "hashing", stop_at: int = -1) -> None:
        self.width, self.name, self.stop_at = width, name, stop_at
        self.asked: list[list[str]] = []

    @property
    def model(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        return self.name

    @property
    def max_chars(self) -> int | None:
        return None

    def encode(self, texts: list[str]) -> Floats:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(texts)
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> Floats:
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[: self.width].astype(np.float32)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=40))
def test_every_text_gets_its_own_vector_and_equal_texts_are_embedded_once(texts: list[str]) -> None:
    embedder = Hashing()
    vectors = embed_cached(embedder, texts, None)
    np.testing.assert_array_equal(vectors, np.stack([embedder.vector(text) for text in texts]))
    asked = [text for chunk in embedder.asked for text in chunk]
    assert sorted(asked) == sorted(set(texts))


def test_a_second_run_embeds_nothing(tmp_path: Path) -> None:
    texts = [f"text {row % 700}" for row in range(900)]
    first = embed_cached(Hashing(), texts, tmp_path / "new" / "cache.sqlite")
    again = Hashing()
    np.testing.assert_array_equal(embed_cached(again, texts, tmp_path / "new" / "cache.sqlite"), first)
    assert again.asked == []


def test_an_interrupted_run_continues_where_it_was(tmp_path: Path) -> None:
    texts = [f"text {row}" for row in range(5 * CHUNK)]
    first, rest = Hashing(stop_at=2), Hashing()
    with pytest.raises(KeyboardInterrupt):  # in the third chunk
        embed_cached(first, texts, tmp_path / "cache.sqlite")
    vectors = embed_cached(rest, texts, tmp_path / "cache.sqlite")
    np.testing.assert_array_equal(vectors, np.stack([rest.vector(text) for text in texts]))
    done = [text for chunk in first.asked for text in chunk]
    left = [text for chunk in rest.asked for text in chunk]
    assert len(done) == 2 * CHUNK and sorted(done + left) == sorted(texts)


def test_long_texts_share_a_chunk_and_progress_counts_up() -> None:
    rng = np.random.default_rng(0)
    texts = ["x" * length for length in rng.permutation(3 * CHUNK)]
    embedder, seen = Hashing(), []
    embed_cached(embedder, texts, None, lambda done, total: seen.append((done, total)))
    lengths = [len(text) for chunk in embedder.asked for text in chunk]
    assert lengths == sorted(lengths, reverse=True)
    assert seen == [(done, 3 * CHUNK) for done in (0, CHUNK, 2 * CHUNK, 3 * CHUNK)]


def test_encoders_do_not_share_vectors(tmp_path: Path) -> None:
    one, two = Hashing(), Hashing(width=7, name="another")
    assert embed_cached(one, ["a"], tmp_path / "c").shape == (1, 4)
    assert embed_cached(two, ["a"], tmp_path / "c").shape == (1, 7)


def test_another_width_under_the_same_identity_is_refused(tmp_path: Path) -> None:
    embed_cached(Hashing(), ["a"], tmp_path / "c")
    with pytest.raises(EmbeddingError, match=r"shape \(1, 7\) for 1 texts, expected 4 columns"):
        embed_cached(Hashing(width=7), ["a", "b"], tmp_path / "c")
    with opened(tmp_path / "c") as store, pytest.raises(EmbeddingError, match="was 4 wide before, now 7"):
        store.put("hashing", 7, [(b"key", b"")])


def test_texts_without_a_finite_vector_are_named_and_the_others_kept(tmp_path: Path) -> None:
    class Broken(Hashing):
        def vector(self, text: str) -> Floats:
            return super().vector(text) * (np.float32(np.nan) if text == "bad" else np.float32(1))

    with pytest.raises(EmbeddingError, match="hashing gave NaN or infinity for 'bad'"):
        embed_cached(Broken(), ["good", "bad"], tmp_path / "c")
    mended = Hashing()
    embed_cached(mended, ["good", "bad"], tmp_path / "c")
    assert mended.asked == [["bad"]]


def test_a_corrupt_cache_is_named_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"this is no database, " * 500)
    with pytest.raises(EmbeddingError, match=f"{path} is corrupt .*move it away"):
        embed_cached(Hashing(), ["a"], path)
    path.unlink()
    embed_cached(Hashing(), ["a"], path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vectors SET vector = x'0011'")
    connection.close()
    with pytest.raises(EmbeddingError, match=r"is corrupt .*2 bytes where 16 belong.*move it away"):
        embed_cached(Hashing(), ["a"], path)


def test_a_newer_cache_and_an_impossible_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(EmbeddingError, match="has format 3, this longtail reads 2; upgrade longtail"):
        embed_cached(Hashing(), ["a"], path)
    with pytest.raises(EmbeddingError, match="cannot make the embedding cache"):
        embed_cached(Hashing(), ["a"], path / "below" / "a file")
    with pytest.raises(EmbeddingError, match="cannot use the embedding cache"):
        embed_cached(Hashing(), ["a"], tmp_path)


def test_a_full_disk_is_told_and_what_was_committed_stays(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_cache import Hashing, EmbeddingError, embed_cached
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes past the limit then fail as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    embed_cached(Hashing(), [f"text {{row}}" for row in range(20_000)], Path({str(path)!r}))
except EmbeddingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"cannot use the embedding cache {path}" in done.stdout and "free space" in done.stdout, done
    rest = Hashing()
    embed_cached(rest, [f"text {row}" for row in range(20_000)], path)
    assert 0 < sum(map(len, rest.asked)) < 20_000


def test_processes_share_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_cache import Hashing, embed_cached
start = int(sys.argv[1])
embed_cached(Hashing(), [f"text {{row}}" for row in range(start, start + 3000)], Path({str(path)!r}))
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(start)]) for start in (0, 1000, 2000)]
    assert [process.wait() for process in running] == [0, 0, 0]
    again = Hashing()
    texts = [f"text {row}" for row in range(5000)]
    vectors = embed_cached(again, texts, path)
    assert again.asked == []
    np.testing.assert_array_equal(vectors, np.stack([again.vector(text) for text in texts]))


def test_the_users_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "longtail" / "embeddings.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", os.fspath(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "longtail" / "embeddings.sqlite"
