"""What stands beside long work on texts: a progress bar, and an end to it when the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longtail.errors import EmbeddingError
from longtail.text.cache import Progress as Report

SILENT = 2.0  # seconds before a bar is shown


@contextmanager
def working(title: str, spent: Callable[[], float], budget: float | None) -> Iterator[Report]:
    """A progress bar on stderr, shown once the work has taken two seconds.

    spent: dollars so far; an EmbeddingError once they have grown by more than `budget`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title)
    begin, before = time.monotonic(), 0.0 if budget is None else spent()

    def report(done: int, total: int) -> None:
        if time.monotonic() - begin > SILENT and done < total:
            bar.start()
        bar.update(task, completed=done, total=total)
        if budget is not None and (taken := spent() - before) > budget:
            raise EmbeddingError(
                f"{title}: ${taken:,.4f} are spent, more than estimated and more than the budget of ${budget:,.4f}; "
                "what was answered is kept, raise the budget and run again"
            )

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()
