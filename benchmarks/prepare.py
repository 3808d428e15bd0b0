"""Preparing a large table: Parquet to ids, filter, histories and split, beside a polars group-by of the same file.

The table is made for the purpose and deleted afterwards: ids are text, rows are in no order, popularity and activity
are heavy-tailed, and there are ten interactions a user and fifty an item in the mean.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

import measure
from longtail import pipeline
from longtail.files import write_safetensors
from measure import Claim

ROWS, QUICK_ROWS = (5_000_000, 15_000_000, 50_000_000), (500_000, 2_000_000)
GROUP = 1_000_000  # rows made, written and stored together
DECADE = 1_300_000_000, 1_600_000_000  # seconds since 1970
SPREAD = 2_654_435_761  # odd and not divisible by 5: times it, modulo a power of ten, no two ids fall together
FEWEST = 3  # interactions that users and items need to be kept
BOUND, MORE = 600, 30  # MB that preparing in parts may take, and bytes an interaction more, for a tenth as many users


class Cost(NamedTuple):
    """Seconds of a run in a fresh process, and that process's peak memory."""

    seconds: float
    peak_mb: float


class Row(NamedTuple):
    """What `rows` interactions cost: ours in memory, ours in parts, group-bys that count and that collect histories."""

    rows: int
    ours: Cost
    parts: Cost
    counted: Cost
    collected: Cost


def generate(path: Path, rows: int) -> None:
    """Write a table of that many interactions, a row group at a time."""
    generator = np.random.default_rng(0)
    writer = None
    for start in range(0, rows, GROUP):
        n = min(GROUP, rows - start)
        user, item = rows / 10 * generator.random(n) ** 1.3, rows / 50 * generator.random(n) ** 2
        numbers = {"user_id": user.astype(np.int64), "item_id": item.astype(np.int64)}
        frame = pl.DataFrame({**numbers, "timestamp": generator.integers(*DECADE, n)})
        table = frame.with_columns(user_id=text("user_id", "A", 13), item_id=text("item_id", "B", 9)).to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def text(column: str, letter: str, digits: int) -> pl.Expr:
    """Numbers as ids like those of Amazon: a letter and digits, in no order."""
    return pl.format(letter + "{}", (pl.col(column) * SPREAD % 10**digits).cast(pl.String).str.zfill(digits))


def prepare(path: Path, out: Path) -> None:
    """Ours: `longtail prepare` into `out`, then the histories and the held-out items."""
    config = pipeline.DataConfig(interactions=str(path), min_user=FEWEST, min_item=FEWEST)
    split = pipeline.prepare(config, out).leave_one_out()
    arrays = {"items": split.train.items, "offsets": split.train.offsets, "valid": split.valid, "test": split.test}
    write_safetensors(out / "histories.safetensors", arrays)


def parts(path: Path, out: Path) -> None:
    """Ours within a bound: `longtail prepare --memory`, which splits nothing."""
    config = pipeline.DataConfig(interactions=str(path), min_user=FEWEST, min_item=FEWEST)
    pipeline.prepare_within(config, out, bound(pq.read_metadata(path).num_rows) * 10**6)


def bound(rows: int) -> int:
    """MB that preparing in parts may take."""
    return BOUND + MORE * rows // 10**6


def count(path: Path, out: Path) -> None:
    """The least a group-by can do: interactions of each user."""
    pl.scan_parquet(path).group_by("user_id").agg(pl.len()).collect().write_parquet(out / "counts.parquet")


def histories(path: Path, out: Path) -> None:
    """A group-by that does part of our work: each user's items in the order of time; no ids, no filter, no split."""
    ordered = pl.col("item_id").sort_by("timestamp")
    pl.scan_parquet(path).group_by("user_id").agg(ordered).collect().write_parquet(out / "histories.parquet")


def cost_of(run: Callable[[Path, Path], None], path: Path) -> Cost:
    """Of one run; to be called in a fresh process."""
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        started = time.perf_counter()
        run(path, Path(out))
        return Cost(time.perf_counter() - started, measure.peak_memory())


def costs(rows: int, repeats: int) -> Row:
    """Of a table of that many rows: median seconds, highest peak."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.parquet"
        measure.isolated(generate, path, rows)
        found = []
        for run in (prepare, parts, count, histories):
            runs = [measure.isolated(cost_of, run, path) for _ in range(repeats)]
            found.append(Cost(statistics.median(one.seconds for one in runs), max(one.peak_mb for one in runs)))
    return Row(rows, *found)


def main() -> None:
    """Measure, show, claim."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, help="a single table of so many rows, once; its results have a file apart")
    given = parser.parse_args()
    quick, sizes = given.quick, (given.rows,) if given.rows else QUICK_ROWS if given.quick else ROWS
    measured = [costs(rows, 1 if quick or given.rows else 3) for rows in sizes]
    rows = [
        {"rows": row.rows, "kind": kind, **cost._asdict()}
        for row in measured
        for kind, cost in zip(("prepare", "parts", "count", "histories"), row[1:], strict=True)
    ]
    measure.table("a fresh process each", rows)
    first, last = measured[0], measured[-1]
    ours, size = last.ours, f"{last.rows:,} interactions"
    claims = [
        Claim(f"{size}: peak of preparing", ours.peak_mb, "MB", target=8192),
        Claim(f"{size}: preparing", ours.seconds, "s"),
        Claim("beside a group-by that counts: time", ours.seconds / last.counted.seconds, "x"),
        Claim("beside a group-by that collects histories: time", ours.seconds / last.collected.seconds, "x"),
        Claim("beside a group-by that collects histories: peak", ours.peak_mb / last.collected.peak_mb, "x"),
        Claim(f"{size}, in parts: peak", last.parts.peak_mb, "MB", target=bound(last.rows)),
        Claim("in parts, beside in memory: time", last.parts.seconds / ours.seconds, "x"),
    ]
    if last.rows > first.rows:
        growth = math.log(ours.seconds / first.ours.seconds) / math.log(last.rows / first.rows)
        claims.append(Claim("time ~ rows^p: p", growth, ""))
    details = {"min_user": FEWEST, "min_item": FEWEST, "costs": rows}
    measure.finish("prepare", claims, details, quick=quick, name=f"prepare_{given.rows}" if given.rows else "")


if __name__ == "__main__":
    main()
