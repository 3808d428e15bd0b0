"""Prompts made in blocks are the same prompts, and a text that recurs in another block is not asked for twice."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.dataset import Dataset
from longtail.text import cache as caching
from longtail.text import prompt_blocks
from longtail.text.cache import blocks, embed_blocks, embed_cached
from longtail.text.embedders.http import Http
from longtail.text.prompt_blocks import Prompts, prompts_of_items, prompts_of_users
from longtail.text.prompts import item_prompts, user_prompts
from tests.conftest import walks

from .server import serving, vector
from .test_cache import Hashing
from .test_http import encoder


@pytest.fixture(scope="module")
def data() -> Dataset:
    titles = [f"Thing {row}" if row % 7 else None for row in range(20)]
    table = pl.DataFrame({"item_id": [f"i{row:02d}" for row in range(20)], "title": titles, "total": [[[1]]] * 20})
    return Dataset.read(walks(), table)


def flat(prompts: Prompts) -> list[str | None]:
    return [prompt for block in prompts for prompt in block]


@pytest.mark.parametrize("template", ["generic", "amazon"])
def test_blocks_of_items_are_the_whole_and_warn_once(
    data: Dataset, template: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = prompts_of_items(data.text, template)
    assert flat(whole) == [prompt or None for prompt in item_prompts(data.text, template)]
    monkeypatch.setattr(prompt_blocks, "BLOCK", 3)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        parts = prompts_of_items(data.text, template)
        assert flat(parts) == flat(whole) == flat(parts)  # again, if need be
    assert caplog.text.count("tables in themselves: 'total'") == 1
    assert parts.digest == whole.digest and parts.has_text.tolist() == whole.has_text.tolist()
    assert [len(block) for block in parts] == [3, 3, 3, 3, 3, 3, 2] and parts.has_text.sum() == 17


def test_blocks_of_users_are_the_whole(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    train = data.leave_one_out().train
    monkeypatch.setattr(prompt_blocks, "BLOCK", 7)
    made = flat(prompts_of_users(train, data.text, "user", 90))
    assert made == [prompt or None for prompt in user_prompts(train, data.text, "user", max_chars=90)]


def test_a_table_without_usable_columns_has_no_prompts(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_blocks, "BLOCK", 7)
    assert flat(prompts_of_items(data.text.select("total"), "generic")) == [None] * 20


def test_a_text_that_is_in_flight_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = [f"text {row % 11}" for row in range(60)]
    monkeypatch.setattr(caching, "BLOCK", 4)
    with serving() as served:
        served.delay = 0.05
        made: Http = encoder(served, batch_items=2, concurrency=4)
        found = embed_cached(made, texts, tmp_path / "c")
    np.testing.assert_array_equal(found, np.stack([vector(text) for text in texts]))
    assert len(served.paid) == 11 and set(served.paid.values()) == {1}


def test_a_large_result_is_a_mapped_file_that_nobody_sees(tmp_path: Path) -> None:
    texts = [*(f"text {row}" for row in range(300)), None, "text 7"]
    seen: list[int] = []
    embedder = Hashing()
    found = embed_blocks(
        embedder, blocks(texts), len(texts), tmp_path / "c", lambda done, _: seen.append(done), large=100
    )
    plain = embed_blocks(embedder, blocks(texts), len(texts), tmp_path / "c")
    assert isinstance(found, np.memmap) and not isinstance(plain, np.memmap)
    np.testing.assert_array_equal(found, plain)
    assert not found[0].any() and not found[301].any() and found[1:301].any(axis=1).all() and seen[-1] == 302
    np.testing.assert_array_equal(found[302], embedder.vector("text 7"))
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"c"}
