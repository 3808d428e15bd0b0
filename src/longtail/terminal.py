"""What the command line speaks through: results to stdout, talk to stderr, and frames as tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

talk = Console(stderr=True)
out = Console(width=None if sys.stdout.isatty() else 200)  # a pipe has no width of its own


def tell(text: str) -> None:
    """Say something on stderr, as it is."""
    talk.print(text, markup=False, highlight=False, soft_wrap=True)


def given(flags: Mapping[str, str | int | None]) -> list[str]:
    """The settings that flags stand for, without those that were not given."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items() if value is not None]


def frame_table(frame: pl.DataFrame, digits: int = 3) -> Table:
    """A data frame as a table."""
    table = Table(*frame.columns)
    for row in frame.iter_rows():
        table.add_row(*(f"{value:.{digits}f}" if isinstance(value, float) else escape(str(value)) for value in row))
    return table
