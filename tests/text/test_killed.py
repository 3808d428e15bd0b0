"""Killed at random moments, an embedding run loses and repeats no paid row beyond the requests in flight."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from longtail.text.cache import embed_cached
from longtail.text.store import opened

from .server import serving, vector
from .test_http import encoder

CONCURRENCY, BATCH = 3, 5


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_lose_and_repeat_no_paid_row_beyond_those_in_flight(kills: int, tmp_path: Path) -> None:
    cache, chance = tmp_path / "cache.sqlite", random.Random(7)
    texts = [f"text {row}" for row in range(40 * kills)]
    script = str(Path(__file__).with_name("killed.py"))
    lost = 0
    with serving() as served:
        served.delay = 0.02
        numbers = [str(number) for number in (len(texts), CONCURRENCY, BATCH)]
        starter = subprocess.Popen(
            [sys.executable, script, served.url, str(cache), *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert starter.stdin and starter.stdout
        for _ in range(kills):
            before = len(served.paths)
            starter.stdin.write(b"\n")
            starter.stdin.flush()
            child = int(starter.stdout.readline())
            while len(served.paths) <= before + chance.randrange(6):
                time.sleep(0.001)
            time.sleep(0.03 * chance.random())  # anywhere in asking, answering and committing
            os.kill(child, signal.SIGKILL)
            assert int(starter.stdout.readline()) != 0, "it ended before it could be killed; give it more texts"
            while served.running:
                time.sleep(0.001)
            with opened(cache) as store:
                (kept,) = store.connection.execute("SELECT count(*) FROM vectors").fetchone()
            gone = sum(served.paid.values()) - kept
            assert gone - lost <= CONCURRENCY * BATCH, f"{gone - lost} paid rows are not in the cache"
            lost = gone
        starter.stdin.close()
        starter.wait()
        vectors = embed_cached(encoder(served), texts, cache)
    np.testing.assert_array_equal(vectors, np.stack([vector(text) for text in texts]))
    assert sum(served.paid.values()) - len(texts) == lost <= kills * CONCURRENCY * BATCH


def test_a_run_that_is_not_killed_pays_every_row_once(tmp_path: Path) -> None:
    texts = [f"text {row % 90}" for row in range(200)]
    with serving() as served:
        embed_cached(encoder(served), texts, tmp_path / "c")
    assert len(served.paid) == 90 and set(served.paid.values()) == {1}
