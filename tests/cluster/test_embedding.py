"""Texts embedded over two nodes: the vectors of one process, one pace, one budget, and nothing is asked for twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longtail.cluster.embedding import Spread, spreading
from longtail.errors import EmbeddingError
from longtail.text.cache import embed_blocks, embed_cached
from longtail.text.embedders.base import Embedder, parse
from longtail.text.embedders.lexical import Lexical
from longtail.text.embeddings import Embeddings
from longtail.text.store import opened
from longtail.text.vector_files import Floats
from longtail.text.working import working
from tests.conftest import Planted
from tests.test_cli import call
from tests.text.server import Served, serving, vector
from tests.text.test_http import encoder

ray = pytest.importorskip("ray")
TEXTS = [f"text {row}" for row in range(120)]
Spreads = Callable[[Embedder], Spread]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as made:
        yield made


@pytest.fixture
def spreads(cluster: object) -> Iterator[Spreads]:
    """An encoder over two workers, who end with the test."""
    with spreading("ray", 2) as over:
        yield over  # type: ignore[misc]


class Noted(Embedder):
    """Answers as the server does, slowly, and writes down whom it answered what: a line a block."""

    model, identity, max_chars, chunk = "noted", "noted of tests", None, 5  # type: ignore[assignment]

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def encode(self, texts: list[str]) -> Floats:
        node = ray.get_runtime_context().get_node_id()
        with self.notes.open("a") as file:
            file.write("\t".join([node, *texts]) + "\n")
        time.sleep(0.2)
        return np.stack([vector(text) for text in texts])


def right(vectors: Floats) -> None:
    np.testing.assert_array_equal(vectors, np.stack([vector(text) for text in TEXTS]))


def kept(cache: Path) -> int:
    with opened(cache) as store:
        return int(store.connection.execute("SELECT count(*) FROM vectors").fetchone()[0])


def test_a_dead_actor_repeats_its_block_at_most(served: Served, spreads: Spreads, tmp_path: Path) -> None:
    served.delay = 0.05
    made, cache = spreads(encoder(served, batch_items=10, concurrency=2)), tmp_path / "cache.sqlite"
    lost: list[str] = []

    def kill(done: int, rows: int) -> None:
        assert made._pool is not None
        if done >= 40 and not lost and made._pool._running:  # else all have just answered
            one = next(iter(made._pool._running.values()))
            lost.extend(one.job.texts)
            ray.kill(one.actor)

    right(embed_cached(made, TEXTS, cache, kill))
    twice = {text for text, times in served.paid.items() if times > 1}
    assert len(lost) == 10 and twice <= set(lost) and set(served.paid) == set(TEXTS)
    asked = sum(served.paid.values())
    right(embed_cached(made, TEXTS, cache))
    assert sum(served.paid.values()) == asked, "what is in the cache was asked for"


def test_a_lost_node_is_done_without(cluster: Any, spreads: Spreads, tmp_path: Path) -> None:
    made, notes, nodes = spreads(Noted(tmp_path / "notes")), tmp_path / "notes", list(cluster.worker_nodes)

    def remove(done: int, rows: int) -> None:
        if done >= 40 and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        right(embed_cached(made, TEXTS, tmp_path / "cache.sqlite", remove))
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
        cluster.wait_for_nodes()
    lines = [line.split("\t") for line in notes.read_text().splitlines()]
    assert len({node for node, *_ in lines}) == 2, "one node did it all, so that losing the other proved nothing"
    blocks = Counter(tuple(texts) for _, *texts in lines)
    assert not nodes and len(blocks) == len(TEXTS) / 5
    assert sum(blocks.values()) - len(blocks) <= 1, "more was embedded twice than the lost node's block"


def test_workers_share_one_pace(served: Served, spreads: Spreads) -> None:
    served.faults.append("429:1.5")
    right(spreads(encoder(served, batch_items=10, concurrency=4)).encode(TEXTS))
    gaps = np.diff(served.times)
    refused = served.times[0]
    later = [moment for moment in served.times if moment > refused + 0.5]
    assert served.peak <= 4 and len(served.times) == 13
    assert gaps.max() > 0.9 and min(later) >= refused + 1.4, "a worker asked while another was told to wait"
    assert len(served.times) - len(later) <= 4, "what was in flight when the server refused"


def test_workers_share_one_budget(served: Served, spreads: Spreads, tmp_path: Path) -> None:
    served.delay = 0.02
    made = spreads(encoder(served, batch_items=5, concurrency=2, price=1e6 / 7))  # a dollar a text of seven characters
    with (
        pytest.raises(EmbeddingError, match=r"\$4\d\.\d* are spent, .*budget of \$40"),
        working("texts", lambda: made.spent, 40.0) as report,
    ):
        embed_blocks(made, [TEXTS], len(TEXTS), tmp_path / "cache.sqlite", report)
    paid = sum(served.paid.values())
    assert 40 < paid <= 40 + 3 * 5 and paid == kept(tmp_path / "cache.sqlite")


def test_what_was_answered_before_a_refusal_is_kept(served: Served, spreads: Spreads, tmp_path: Path) -> None:
    served.faults.extend(["", "", "", "", "401"])
    with pytest.raises(EmbeddingError, match="401"):
        embed_cached(spreads(encoder(served, batch_items=5, concurrency=4)), TEXTS, tmp_path / "cache.sqlite")
    assert 0 < kept(tmp_path / "cache.sqlite") == sum(served.paid.values()) < len(TEXTS)


def test_the_command_gives_the_vectors_of_one_process(
    served: Served,
    planted: Planted,
    cluster: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for name, more in (("alone", []), ("spread", ["--cluster", "ray", "--workers", "2"])):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache of {name}"))
        planted.data.save(tmp_path / name)
        code, _, err = call(
            capsys, monkeypatch, "embed", tmp_path / name, "--model", f"{served.url}#tiny", "--yes", *more
        )
        assert code == 0, err
        found.append([Embeddings.load(tmp_path / name / "embeddings" / kind) for kind in ("items", "users")])
    for alone, spread in zip(*found, strict=True):
        np.testing.assert_array_equal(alone.vectors, spread.vectors)
        assert alone.provenance._replace(date="") == spread.provenance._replace(date="")
    assert set(served.paid.values()) == {2}  # each text once by one process, once by the workers


def test_finished_vectors_and_encoders_that_learn_stay_here(cluster: object) -> None:
    with spreading("ray") as over:
        assert over("lexical") == "lexical"
        lexical = parse("lexical")
        assert isinstance(lexical, Lexical) and over(lexical) is lexical
    with spreading(None) as over:
        assert over("minilm") == "minilm"
