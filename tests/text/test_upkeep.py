"""The cache is inspected, verified, pruned and taken along."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from longtail.errors import EmbeddingError
from longtail.text.cache import embed_cached
from longtail.text.store import key_of, opened
from longtail.text.upkeep import contents, export, prune, verify

from .test_cache import Hashing

TEXTS = [f"text {row}" for row in range(300)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache.sqlite"
    embed_cached(Hashing(), TEXTS, path)
    embed_cached(Hashing(width=7, name="another"), TEXTS[:50], path)
    with opened(path) as store:
        store.put("chat, tiny", 0, [(key_of("a prompt"), "a reply, naïve".encode())])
    return path


def change(cache: Path, statement: str) -> None:
    connection = sqlite3.connect(cache)
    with connection:
        connection.execute(statement)
    connection.close()


def test_what_is_kept_is_listed_by_encoder(cache: Path) -> None:
    another, chat, hashing = contents(cache)
    assert (another.identity, another.width, another.rows, another.bytes) == ("another", 7, 50, 50 * 28)
    assert (chat.width, chat.rows, hashing.rows) == (0, 1, 300)
    assert hashing.oldest and abs(hashing.oldest - datetime.now(UTC)) < timedelta(minutes=5)
    with pytest.raises(EmbeddingError, match=r"no embedding cache .*nowhere"):
        contents(cache.with_name("nowhere"))
    assert not cache.with_name("nowhere").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("vector = x'00000000000000000000000000000000'", "its bytes have changed"),
        ("vector = x'0011', crc = NULL", "2 bytes where 16 belong"),
        ("vector = x'0000C07F0000C07F0000C07F0000C07F', crc = NULL", "NaN or infinity"),
        ("text = x'00'", "a key of 1 bytes where 32 belong"),
    ],
)
def test_broken_rows_are_found_and_dropped_and_embedded_anew(cache: Path, damage: str, problem: str) -> None:
    assert verify(cache) == (351, [])
    change(cache, f"UPDATE vectors SET {damage} WHERE rowid = 3")
    rows, (broken,) = verify(cache)
    assert (rows, broken.row, broken.identity, broken.problem) == (351, 3, "hashing", problem)
    verify(cache, drop=True)
    again = Hashing()
    assert embed_cached(again, TEXTS, cache).shape == (300, 4) and len(again.asked) == 1 and len(again.asked[0]) == 1


def test_changed_bytes_are_never_given_out(cache: Path) -> None:
    change(cache, "UPDATE vectors SET vector = x'00000000000000000000000000000000' WHERE rowid = 3")
    with pytest.raises(EmbeddingError, match=r"is corrupt .*bytes of an answer of hashing have changed.*verify --drop"):
        embed_cached(Hashing(), TEXTS, cache)


def test_a_model_old_rows_and_what_is_too_much_are_pruned(cache: Path) -> None:
    size = cache.stat().st_size
    assert prune(cache, model="another") == 50 and [one.identity for one in contents(cache)] == [
        "chat, tiny",
        "hashing",
    ]
    change(cache, f"UPDATE vectors SET made = {int(time.time()) - 9 * 86400} WHERE rowid <= 100")
    week_ago = datetime.now(UTC) - timedelta(days=7)
    assert prune(cache, before=week_ago) == 100 and prune(cache, before=week_ago) == 0
    change(cache, f"UPDATE vectors SET made = {int(time.time()) - 60} WHERE rowid <= 200")
    assert prune(cache, size=60 * 16) == 201 - 59 - 1  # the reply is the newest, and nearly as large as a vector
    newest = Hashing()
    embed_cached(newest, TEXTS, cache)
    assert sum(map(len, newest.asked)) == 241 and cache.stat().st_size <= size
    with pytest.raises(EmbeddingError, match="nothing of 'hashin', did you mean 'hashing'"):
        prune(cache, model="hashin")


def test_a_cache_taken_along_answers_elsewhere(cache: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / "other.sqlite"
    embed_cached(Hashing(), TEXTS[:10], there)
    assert export(cache, there) == 341 and export(cache, there) == 0 and len(contents(there)) == 3
    again = Hashing()
    np.testing.assert_array_equal(embed_cached(again, TEXTS, there), np.stack([again.vector(text) for text in TEXTS]))
    assert again.asked == [] and verify(there) == (351, [])


def test_vectors_are_exported_by_the_hash_of_their_text(cache: Path, tmp_path: Path) -> None:
    vectors = {hashlib.sha256(text.encode()).hexdigest(): Hashing().vector(text) for text in TEXTS}
    assert export(cache, tmp_path / "v.parquet", "hashing") == 300
    table = pl.read_parquet(tmp_path / "v.parquet")
    assert table["identity"].unique().to_list() == ["hashing"] and table.height == 300
    for key, row in table.select("text_sha256", "vector").iter_rows():
        np.testing.assert_array_equal(row, vectors[key])
    assert export(cache, tmp_path / "v.safetensors", "hashing") == 300
    arrays = load_file(tmp_path / "v.safetensors")
    for key, row in zip(arrays["keys"], arrays["vectors"], strict=True):
        np.testing.assert_array_equal(row, vectors[key.tobytes().hex()])
    export(cache, tmp_path / "chat.parquet", "chat, tiny")
    assert pl.read_parquet(tmp_path / "chat.parquet")["reply"].to_list() == ["a reply, naïve"]


def test_impossible_exports_are_refused(cache: Path, tmp_path: Path) -> None:
    for name, model, problem in (
        ("v.csv", None, "known: .sqlite, .parquet, .safetensors"),
        ("v.parquet", None, "holds one model, .*'another'; 'chat, tiny'; 'hashing'; name one with --model"),
        ("v.parquet", "other", "nothing of 'other', did you mean 'another'"),
        ("v.safetensors", "chat, tiny", "wrote texts, which safetensors cannot hold"),
        ("cache.sqlite", None, "is the cache itself"),
    ):
        with pytest.raises(EmbeddingError, match=problem):
            export(cache, tmp_path / name, model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".v", "v."))]


def test_a_cache_of_format_1_is_brought_up_to_date_and_keeps_its_vectors(tmp_path: Path) -> None:
    path, old = tmp_path / "old.sqlite", Hashing()
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE encoders (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, width INTEGER NOT NULL);"
        "CREATE TABLE vectors (encoder INTEGER NOT NULL REFERENCES encoders, text BLOB NOT NULL, vector BLOB NOT NULL,"
        " UNIQUE (encoder, text)); INSERT INTO encoders VALUES (1, 'hashing', 4); PRAGMA user_version = 1;"
    )
    rows = [(1, key_of(text), old.vector(text).tobytes()) for text in TEXTS]
    with connection:
        connection.executemany("INSERT INTO vectors VALUES (?, ?, ?)", rows)
    connection.close()
    found = embed_cached(old, [*TEXTS, "new"], path)
    np.testing.assert_array_equal(found[:-1], np.stack([old.vector(text) for text in TEXTS]))
    assert old.asked == [["new"]] and verify(path) == (301, []) and contents(path)[0].oldest is not None
