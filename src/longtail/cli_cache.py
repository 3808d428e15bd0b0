"""The verbs of the command line that look after the embedding cache, and the question before money is spent."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from longtail.errors import LongtailError
from longtail.terminal import out, tell
from longtail.text import upkeep
from longtail.text.estimates import Estimate, total
from longtail.text.store import default_cache

app = typer.Typer(no_args_is_help=True, help="Look after the embedding cache.")

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
Cache = Annotated[Path | None, typer.Option(help="The cache; the user's own if not given.")]
Model = Annotated[str | None, typer.Option(help="One encoder, by its identity as `list` shows it.")]


def agreed(costs: Sequence[Estimate], budget: float | None, yes: bool, dry_run: bool) -> bool:
    """Tell what servers are asked for, and whether to do it: it is within the budget, or the user says so."""
    for one in costs:
        tell(str(one))
    dollars = total(costs)
    if dry_run:
        return False
    if yes or budget is None or dollars <= budget:
        return True
    if not sys.stdin.isatty():
        raise LongtailError(f"this would cost about ${dollars:,.4f}; say --yes to spend it, or set text.budget")
    return typer.confirm(f"spend about ${dollars:,.4f}?", default=False, err=True)


@app.command("list")
def show(cache: Cache = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What the cache holds, an encoder a line."""
    path = cache or default_cache()
    kept = upkeep.contents(path)
    if as_json:
        print(json.dumps([one._asdict() for one in kept], default=str))
        return
    table = Table("encoder", "width", "rows", "MB", "oldest", "newest", title=escape(str(path)))
    for one in kept:
        dates = [f"{date:%Y-%m-%d}" if date else "unknown" for date in (one.oldest, one.newest)]
        table.add_row(
            escape(one.identity), str(one.width or "text"), f"{one.rows:,}", f"{one.bytes / 1e6:,.1f}", *dates
        )
    out.print(table)


@app.command()
def verify(
    cache: Cache = None,
    drop: Annotated[bool, typer.Option("--drop", help="Delete broken rows; their texts are asked for again.")] = False,
) -> None:
    """Read every row and check it. Exit code 1 if some are broken and stay."""
    rows, broken = upkeep.verify(cache or default_cache(), drop)
    for one in broken[:20]:
        tell(f"{one.identity}, row {one.row}: {one.problem}")
    print(f"{rows:,} rows, {len(broken):,} broken{', which were deleted' if drop and broken else ''}")
    if broken and not drop:
        raise typer.Exit(1)


@app.command()
def prune(
    cache: Cache = None,
    model: Model = None,
    days: Annotated[float | None, typer.Option(min=0, help="Rows that are older than so many days.")] = None,
    size: Annotated[str | None, typer.Option(help="The oldest rows, until so much is left: 500M, 20G.")] = None,
) -> None:
    """Delete rows by model, by age, both together, or by size."""
    if model is None and days is None and size is None:
        raise LongtailError("say what to delete: --model, --days or --size")
    before = None if days is None else datetime.now(UTC) - timedelta(days=days)
    gone = upkeep.prune(cache or default_cache(), model, before, None if size is None else _bytes(size))
    print(f"{gone:,} rows deleted")


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="A .sqlite cache, which may exist, a .parquet or a .safetensors file.")],
    cache: Cache = None,
    model: Model = None,
) -> None:
    """Copy rows to another cache, or one model's to a table of vectors by the SHA-256 of their texts."""
    print(f"{upkeep.export(cache or default_cache(), to, model):,} new rows in {to}")


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)B?", text.strip())
    if not found:
        raise LongtailError(f"size {text!r} is not of the form 500M or 20G")
    return int(float(found[1]) * UNITS[found[2]])
