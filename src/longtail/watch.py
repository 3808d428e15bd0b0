"""What one sees while many trainings run: how many are done, how far the running ones are, when all may be done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table


class Training(NamedTuple):
    """One of those that run: its name, its folder and its epochs at most."""

    name: str
    folder: Path
    epochs: int


class Watch:
    """A live table on a terminal; elsewhere only what is told. `total` trainings are to run."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.done, self.failed = 0, list[str]()
        self.started = time.monotonic()
        self.live = Live(console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()

    def tell(self, text: str) -> None:
        """Say something above the table."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def ended(self, name: str, problem: str) -> None:
        """Count one that ended, and say so."""
        if problem:
            self.failed.append(name)
        else:
            self.done += 1
        self.tell(f"{name}: {f'failed, {problem}' if problem else 'done'}")

    def show(self, running: Sequence[Training]) -> None:
        """Draw the table anew."""
        if self.live.is_started:
            self.live.update(self.table(running))

    def table(self, running: Sequence[Training]) -> Table:
        """The counts, and a row for each that runs or failed."""
        waiting = self.total - self.done - len(self.failed) - len(running)
        rows = [log_rows(one.folder) for one in running]
        ended, parts = (
            self.done + len(self.failed),
            [len(row) / one.epochs for one, row in zip(running, rows, strict=True)],
        )
        left = remaining(time.monotonic() - self.started, ended + sum(parts), self.total)
        counts = f"{self.done} done, {len(running)} running, {len(self.failed)} failed, {waiting} waiting"
        table = Table("running", "epoch", "NDCG@10 (valid)", "best", title=f"{counts}; at most {left} left")
        for one, row in zip(running, rows, strict=True):
            values = [float(line["ndcg@10"]) for line in row]
            figures = (f"{values[-1]:.4f}", f"{max(values):.4f}") if values else ("", "")
            table.add_row(escape(one.name), f"{len(row)}/{one.epochs}", *figures)
        for name in self.failed:
            table.add_row(escape(name), "failed", "", "", style="red")
        return table


def log_rows(folder: Path) -> list[dict[str, float]]:
    """The epochs in the log of a run folder, in order; none before the first has ended."""
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def curve(folder: Path) -> list[float]:
    """Validation NDCG@10 after each epoch of a run folder; of its last stage alone, if it has several."""
    return [float(row["ndcg@10"]) for row in log_rows(folder) if not row.get("stages_left")]


def remaining(seconds: float, done: float, total: int) -> str:
    """The time that is left if the rest goes as the part did that is done, in hours, minutes and seconds.

    >>> remaining(60, 1.5, 3)
    '0:01:00'
    """
    if done <= 0:
        return "?"
    left = round(seconds / done * (total - done))
    return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
