"""What the benchmark scripts share: arguments, times, memory, the machine's rate, and results as JSON.

A script is called `benchmarks/NAME.py [--quick]`; it prints its tables to stderr and, last, one line of JSON for its
first claim to stdout. A full run writes all its claims to `benchmarks/results/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from longtail.data import bundled

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHARED = HERE.parent.parent / "shared" / "data"  # real data, where it lies beside the project
PACKAGES = ("longtail", "torch", "numpy", "polars", "usearch", "rectools", "recbole")
console = Console(stderr=True, width=120)


class Claim(NamedTuple):
    """One figure and what is claimed of it. A target of None states the figure and claims nothing."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = True
    """Whether the target bounds the value from above."""

    @property
    def holds(self) -> bool:
        """Whether the claim is true of this run."""
        if self.target is None:
            return True
        return self.value <= self.target if self.at_most else self.value >= self.target

    def row(self) -> dict[str, object]:
        """As it stands in JSON."""
        value = float(f"{self.value:.4g}")
        return {"name": self.name, "value": value, "unit": self.unit, "target": self.target, "holds": self.holds}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A script's arguments: `--quick`, to which it may add."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="a smaller run, under 50 seconds; writes no results")
    return made


def seconds(run: Callable[[], object], repeats: int = 5, warm: int = 1) -> float:
    """The median time of `repeats` calls, after `warm` that are not counted."""
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(dtype: torch.dtype = torch.float32, device: str = "cpu", size: int = 2048) -> float:
    """Multiply-adds a second of a square matrix product: the machine's limit for what is made of products."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return size**3 / seconds(lambda: a @ b, repeats=7, warm=2)


def isolated(function: Callable[..., T], *arguments: object) -> T:
    """`function(*arguments)` in a fresh process, so that its memory is its own. Both must be picklable by name."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def memory() -> float:
    """Resident memory of this process now, MB."""
    return _status("VmRSS")


def own_memory() -> float:
    """Anonymous memory of this process now, MB: without files mapped into it, which can be dropped at any time."""
    return _status("RssAnon")


def peak_memory(reset: bool = False) -> float:
    """The highest resident memory of this process, MB, since the last reset."""
    peak = _status("VmHWM")
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


def machine() -> dict[str, object]:
    """What the figures were measured on and with."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].partition(":")[2]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu.partition("\n")[0].strip() or platform.processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory_gib),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    ask = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def table(title: str, rows: Sequence[dict[str, object]]) -> None:
    """Print rows that share their keys."""
    made = Table(title=title, title_justify="left")
    for name in rows[0]:
        made.add_column(name.replace("_", " "), justify="right" if isinstance(rows[0][name], (int, float)) else "left")
    for row in rows:
        made.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(made)


def command(script: str) -> str:
    """What was called, as it is typed in the project's folder; a path outside it is PATH."""
    given = [argument.replace(f"{HERE.parent}/", "") for argument in sys.argv[1:]]
    shown = ["PATH" if Path(argument).is_absolute() else argument for argument in given]
    return shlex.join(["python", f"benchmarks/{script}.py", *shown])


def small_tables(users: int = 200) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Interactions and items of the first users of the bundled data set, for quick runs."""
    interactions, items = (pl.read_parquet(path) for path in bundled.tables("online_retail"))
    kept = interactions.filter(pl.col("user_id").rank("dense") <= users)
    return kept, items.join(kept, on="item_id", how="semi")


def finish(script: str, claims: Sequence[Claim], details: dict[str, object], *, quick: bool, name: str = "") -> None:
    """Show all claims, keep a full run's, and print the first as the last line; its `holds` speaks for all of them.

    name: of the results file, where it is not the script's. details: the settings and the figures behind the claims.
    """
    rows = [claim.row() for claim in claims]
    table(f"{script}: {'quick' if quick else 'full'} run", rows)
    if not quick:
        whole = {"script": script, "command": command(script), "machine": machine(), "claims": rows, **details}
        path = RESULTS / f"{name or script}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        console.print(f"wrote {path.relative_to(HERE.parent)}")
    print(json.dumps({**rows[0], "holds": all(claim.holds for claim in claims)}), flush=True)
