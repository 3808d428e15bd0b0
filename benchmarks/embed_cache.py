"""A large cache: rows and memory while vectors of width 384 are made by an encoder that costs nothing, and read again.

Texts are made block by block, so that what is measured is the cache and not a list of texts. Anonymous memory is what
counts: the result is a mapped file, whose pages the system drops when it needs them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import measure
from longtail.text.cache import BLOCK, embed_blocks
from longtail.text.embedders.base import Embedder
from longtail.text.embeddings import Floats
from measure import Claim

WIDTH = 384
ROWS, QUICK_ROWS = (250_000, 1_000_000), (20_000, 80_000)
MANY = 10_000_000
LARGE = 2**24  # bytes: mapped also in a quick run


class Numbers(Embedder):
    """Vectors that are the text's number, in every column."""

    model = "numbers"
    identity = "numbers"
    max_chars = None

    def encode(self, texts: list[str]) -> Floats:
        return np.repeat(np.array([float(text[5:15]) for text in texts], dtype=np.float32)[:, None], WIDTH, axis=1)


class Run(NamedTuple):
    """What one pass over the rows costs."""

    seconds: float
    grown_mb: float
    """Anonymous memory above that before it, at most."""


def blocks(rows: int) -> Iterator[list[str | None]]:
    """Texts of 100 characters."""
    for start in range(0, rows, BLOCK):
        yield [f"item {row:010d} {'x' * 84}" for row in range(start, min(start + BLOCK, rows))]


def measured(rows: int, cache: str) -> Run:
    """One pass, with the memory looked at every 20 ms; the vectors are checked."""
    highest, stop = [0.0], threading.Event()
    before = measure.own_memory()

    def watch() -> None:
        while not stop.wait(0.02):
            highest[0] = max(highest[0], measure.own_memory() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    started = time.perf_counter()
    made = embed_blocks(Numbers(), blocks(rows), rows, Path(cache), large=LARGE)
    seconds = time.perf_counter() - started
    stop.set()
    watching.join()
    assert isinstance(made, np.memmap) and made.shape == (rows + 1, WIDTH)
    for start in range(1, rows, BLOCK):
        block = made[start : start + BLOCK]
        assert np.array_equal(block[:, 0], np.arange(start - 1, start - 1 + len(block), dtype=np.float32))
    return Run(seconds, highest[0])


def main() -> None:
    arguments = measure.parser(__doc__).parse_args()
    found = []
    for rows in QUICK_ROWS if arguments.quick else ROWS:
        with tempfile.TemporaryDirectory(dir=measure.HERE) as folder:
            cache = str(Path(folder) / "cache.sqlite")
            made, again = measure.isolated(measured, rows, cache), measure.isolated(measured, rows, cache)
            file = Path(cache).stat().st_size
        found.append((rows, made, again, file))
    table = [
        {"rows": rows, "made_s": made.seconds, "again_s": again.seconds, "rows_s": rows / made.seconds,
         "read_rows_s": rows / again.seconds, "made_mb": made.grown_mb, "again_mb": again.grown_mb,
         "vectors_mb": rows * WIDTH * 4 / 2**20, "bytes_a_row": file / rows}
        for rows, made, again, file in found
    ]  # fmt: skip
    measure.table(f"width {WIDTH}", table)
    (small, *first, _), (large, *last, file) = found
    most, least = (max(run.grown_mb for run in runs) for runs in (last, first))
    slope = max(0.0, most - least) / (large - small)
    claims = [
        Claim(f"anonymous memory at {large:,} rows", most, "MB", 300.0),
        Claim(
            f"the same at {MANY:,}, by a straight line through both sizes", most + slope * (MANY - large), "MB", 1000.0
        ),
        Claim("rows made and committed", large / last[0].seconds, "rows/s"),
        Claim("rows read again", large / last[1].seconds, "rows/s"),
        Claim(f"the cache's file at {MANY:,} rows, by its bytes a row", file / large * MANY / 2**30, "GiB"),
    ]
    measure.finish("embed_cache", claims, {"width": WIDTH, "sizes": table}, quick=arguments.quick)


if __name__ == "__main__":
    main()
