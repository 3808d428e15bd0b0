"""What the command line speaks through: results to stdout, talk to stderr, and frames as tables for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

SILENT = 2.0  # seconds before a bar is shown
talk = Console(stderr=True)
out = Console(width=None if sys.stdout.isatty() else 200)  # a pipe has no width of its own


def tell(text: str) -> None:
    """Say something on stderr, as it is."""
    talk.print(text, markup=False, highlight=False, soft_wrap=True)


def given(flags: Mapping[str, str | int | list[str] | None]) -> list[str]:
    """The settings that flags stand for, without those that were not given."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items() if value is not None]


def frame_table(frame: pl.DataFrame, digits: int = 3) -> Table:
    """A data frame as a table."""
    table = Table(*frame.columns)
    for row in frame.iter_rows():
        table.add_row(*(f"{value:.{digits}f}" if isinstance(value, float) else escape(str(value)) for value in row))
    return table


@contextmanager
def reading() -> Iterator[Callable[[Path, int, int], None]]:
    """A bar on stderr for each file that is read, by its bytes, shown once the work has taken two seconds.

    Yields what is to be told of a file, how many bytes of it are read, and how many it has.
    """
    bar = Progress(
        TextColumn("reading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=talk
    )
    tasks = {}
    begin = time.monotonic()

    def watch(path: Path, done: int, total: int) -> None:
        if path not in tasks:
            tasks[path] = bar.add_task(escape(path.name), total=total)
        if time.monotonic() - begin > SILENT and done < total:
            bar.start()
        bar.update(tasks[path], completed=done)

    try:
        yield watch
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def watched(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, shown once the work has taken two seconds, and gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, begin = bar.add_task(title, total=total), time.monotonic()

    def advance(steps: int) -> None:
        if time.monotonic() - begin > SILENT:
            bar.start()
        bar.advance(task, steps)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
