"""Embeds through a cache in child processes that the test kills: one line on stdin starts one, its pid is answered.

The children are forked, so that fifty of them import the packages once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from longtail.text.cache import embed_cached
from longtail.text.embedders.http import configured
from longtail.text.endpoints import HttpConfig


def work(url: str, cache: str, texts: int, concurrency: int, batch: int) -> None:
    config = HttpConfig(batch_items=batch, concurrency=concurrency, backoff=0.01)
    embedder = configured(f"{url}#tiny", config)
    assert not isinstance(embedder, str)
    embed_cached(embedder, [f"text {row}" for row in range(texts)], Path(cache))


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main(url: str, cache: str, *numbers: str) -> None:
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            work(url, cache, *map(int, numbers))
            os._exit(0)
        tell(child)
        _, status = os.waitpid(child, 0)
        tell(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
