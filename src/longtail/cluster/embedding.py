"""A text encoder on many machines: blocks of texts over workers that each hold one, the cache written here alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from longtail.cluster.connect import connect, wanted, workers_of
from longtail.cluster.pace import SharedPace, keeper
from longtail.cluster.pool import Pool
from longtail.errors import LongtailError
from longtail.text.embedders.base import Embedder, Wrapper, parse
from longtail.text.embedders.http import Http
from longtail.text.embeddings import Embeddings, Fitted
from longtail.text.vector_files import Floats

if TYPE_CHECKING:  # a worker need not import torch
    from longtail.texts import Over


class _Block(NamedTuple):
    """Texts for one worker, and the place of the first in the stream."""

    start: int
    texts: list[str]


class _Answer(NamedTuple):
    """Vectors as they came, each part with its places in the block; dollars; what ended it before its end."""

    parts: list[tuple[list[int], Floats]]
    spent: float
    error: LongtailError | None


class _Encoding:
    """What a worker does with a block."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, block: _Block) -> _Answer:
        before, error = self.embedder.spent, None
        parts: list[tuple[list[int], Floats]] = []
        try:
            for part in self.embedder.stream(block.texts):
                parts.append(part)
        except LongtailError as problem:
            error = problem
        return _Answer(parts, self.embedder.spent - before, error)


def _asking(http: Http, n: int, actor: Any) -> _Encoding:
    return _Encoding(http.one_of(n, SharedPace(actor)))


class Spread(Wrapper):
    """An encoder whose texts are embedded by the workers of a cluster, one a CPU or GPU if not told how many.

    Its stream is what the cache draws on and commits, answer by answer: no worker opens the cache, and of a worker that
    dies no more is asked for again than the block that it had. Workers that ask a server share one pace, its number of
    requests in flight, and the budget, which is looked at here, with every answer.
    """

    def __init__(self, inner: Embedder, workers: int | None = None) -> None:
        super().__init__(inner)
        self.workers = workers
        self._spent, self._block = 0.0, inner.chunk
        self._pool: Pool[_Block, _Answer] | None = None

    @property
    def remote(self) -> bool:
        return self.inner.remote

    @property
    def price(self) -> float:
        return self.inner.price

    @property
    def spent(self) -> float:
        return self._spent

    def requests_for(self, texts: int, size: int) -> int:
        return self.inner.requests_for(texts, size)

    def encode(self, texts: list[str]) -> Floats:
        parts = list(self.stream(texts))
        vectors = np.zeros((len(texts), parts[0][1].shape[1] if parts else 0), dtype=np.float32)
        for positions, made in parts:
            vectors[positions] = made
        return vectors

    def stream(self, texts: Iterable[str]) -> Iterator[tuple[list[int], Floats]]:
        failure: LongtailError | None = None
        pool, rest = self._begun(), iter(texts)

        def drawn() -> Iterator[_Block]:
            for start in count(step=self._block):
                if failure:
                    raise failure
                if not (block := list(islice(rest, self._block))):
                    return
                yield _Block(start, block)

        for block, answer in pool.stream(drawn()):
            self._spent, failure = self._spent + answer.spent, failure or answer.error
            for positions, vectors in answer.parts:
                yield [block.start + position for position in positions], vectors
        if failure:
            raise failure

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()

    def _begun(self) -> Pool[_Block, _Answer]:
        if self._pool is None and isinstance(self.inner, Http):
            n = min(workers_of(connect(), self.workers), self.inner.config.concurrency)
            self._block = self.inner.config.batch_items * max(1, self.inner.config.concurrency // n)
            self._pool = Pool(partial(_asking, self.inner, n, keeper()), n, slow=False)
        elif self._pool is None:
            self._pool = Pool(partial(_Encoding, self.inner), self.workers, gpu=True)
        return self._pool


@contextmanager
def spreading(cluster: str | None, workers: int | None = None) -> Iterator[Over]:
    """What spreads text encoders over a cluster until the block ends; if there is to be none, they stay as they are.

    Finished vectors stay too, and encoders that learn from the catalogue, which take seconds.
    """
    made: dict[str, Spread] = {}
    use = wanted(cluster)

    def over(model: str | Embedder) -> str | Embedder:
        source = parse(model) if use and isinstance(model, str) else model
        if isinstance(source, str | Embeddings | Fitted):
            return model
        return made.setdefault(source.identity, Spread(source, workers))

    try:
        yield over
    finally:
        for one in made.values():
            one.close()
