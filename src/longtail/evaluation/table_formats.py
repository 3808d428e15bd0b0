"""A comparison as text: Markdown, LaTeX, CSV or JSON, and a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import polars as pl
from rich.markup import escape
from rich.table import Table

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
TESTS = {"p users": "p_users_holm", "Wilcoxon": "p_wilcoxon_holm", "p seeds": "p_seeds_holm"}
HEAD = ("case", "seeds", "mean", "95%", "baseline", "difference", "95%", *TESTS, "d_z")


class Cell(NamedTuple):
    """One case in one group: its text parts, and its place among the cases, 1 for the best; ties share a place."""

    mean: str
    sd: str
    interval: str
    stars: str
    place: int


class Block(NamedTuple):
    """The cells of one metric: a line a case, a cell a group, None where a case has no figure."""

    metric: str
    groups: list[tuple[str, int]]
    lines: list[tuple[str, int, list[Cell | None]]]


def markdown(frame: pl.DataFrame) -> str:
    """A table a metric: best in bold, second in italics, mean ± deviation, star, interval; below it what is shown."""
    parts = []
    for block in _blocks(frame):
        groups = [f"{_plain(group)} (n = {n:,})" for group, n in block.groups]
        lines = [
            "| " + " | ".join([f"{block.metric.upper()}", "seeds", *groups]) + " |",
            "|" + " --- |" * (len(groups) + 2),
        ]
        for case, seeds, cells in block.lines:
            texts = [_markdown_cell(cell) for cell in cells]
            lines.append("| " + " | ".join([_markdown_text(case), str(seeds), *texts]) + " |")
        parts.append("\n".join(lines))
    marks = "Best in bold, second in italics."
    return "\n\n".join([*parts, f"{_markdown_text(caption(frame))} {marks}"]) + "\n"


def latex(frame: pl.DataFrame) -> str:
    """A booktabs tabular a metric: best in bold, second underlined; the caption as a comment above."""
    parts = [f"% {caption(frame)} Best in bold, second underlined. Needs \\usepackage{{booktabs}}."]
    for block in _blocks(frame):
        head = [block.metric.upper(), "seeds", *(_plain(group) for group, _ in block.groups)]
        lines = [rf"\begin{{tabular}}{{lr{'r' * len(block.groups)}}}", r"\toprule"]
        lines += [" & ".join(map(_latex_text, head)) + r" \\", r"\midrule"]
        for case, seeds, cells in block.lines:
            lines.append(" & ".join([_latex_text(case), str(seeds), *map(_latex_cell, cells)]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def csv(frame: pl.DataFrame) -> str:
    """Every column of every row; an empty cell is a number that cannot be told."""
    return frame.write_csv()


def to_json(frame: pl.DataFrame) -> str:
    """A list of rows; null is a number that cannot be told."""
    return json.dumps(frame.to_dicts(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


FORMATS: dict[str, Callable[[pl.DataFrame], str]] = {"markdown": markdown, "latex": latex, "csv": csv, "json": to_json}


def table(frame: pl.DataFrame) -> Table:
    """For people at a terminal: a section a metric and group, with intervals, differences and what tests say of them.

    The p-values are the corrected ones. rank_biserial and the others are in CSV and JSON.
    """
    shown = Table(title=escape(_what(frame)), caption=escape(caption(frame)))
    for name in HEAD:
        shown.add_column(name, justify="left" if name in {"case", "baseline"} else "right")
    before = None
    for here, cells in lines(frame):
        if here != before:
            shown.add_section()
            shown.add_row(escape(here), style="bold")
        before = here
        shown.add_row(*map(escape, cells))
    return shown


def lines(frame: pl.DataFrame) -> list[tuple[str, tuple[str, ...]]]:
    """Each row as text: its metric and group, and a cell for each name of HEAD."""
    return [
        (
            f"{row['metric'].upper()}, {_plain(row['group'])}, n = {row['n']:,}",
            (
                row["case"],
                str(row["seeds"]),
                _number(row["mean"]) + ("" if row["sd"] is None else " ±" + _number(row["sd"])) + row["stars"],
                _interval(row["low"], row["high"]),
                row["baseline"] or "-",
                _number(row["difference"], "+.4f"),
                _interval(row["difference_low"], row["difference_high"], "+.4f"),
                *(_p(row[name]) for name in TESTS.values()),
                _number(row["d_z"], "+.2f"),
            ),
        )
        for row in frame.iter_rows(named=True)
    ]


def caption(frame: pl.DataFrame) -> str:
    """What the cells and the stars of this table mean."""
    tested = frame.filter(pl.col("p_users").is_not_null())
    shown = "mean ± deviation over seeds, [95% interval over users and seeds]"
    text = f"{_what(frame)}: {'mean, [95% interval over users]' if frame['seeds'].max() == 1 else shown}."
    if tested.is_empty():
        return text
    names = frame.filter(pl.col("baseline").is_null())["case"].unique()
    against = names[0] if len(names) == 1 else "the best other case"
    pairs = pl.concat_list(pl.col("case", "baseline")).list.sort()
    family = tested.select(pairs, "group", "metric").n_unique()
    return (
        f"{text} *: better than {against}, p < 0.05 in a two-sided paired t-test over users, each user's value "
        f"averaged over seeds; p-values corrected (Holm) for {family} tests."
    )


def _what(frame: pl.DataFrame) -> str:
    protocol, split = frame.select("protocol", "split").row(0)
    return f"{split}, full ranking" if protocol == "full" else f"{split}, {protocol}"


def _blocks(frame: pl.DataFrame) -> list[Block]:
    """The frame as one block a metric, in its order."""
    places = pl.col("mean").rank("min", descending=True).over("metric", "group").alias("place")
    made = []
    for (metric,), of in frame.with_columns(places).group_by("metric", maintain_order=True):
        groups = list(of.select("group", "n").unique("group", maintain_order=True).iter_rows())
        cells = {(row["case"], row["group"]): row for row in of.iter_rows(named=True)}
        lines = []
        for case, seeds in of.select("case", "seeds").unique("case", maintain_order=True).iter_rows():
            found = [cells.get((case, group)) for group, _ in groups]
            lines.append((case, seeds, [None if row is None else _cell(row) for row in found]))
        made.append(Block(str(metric), groups, lines))
    return made


def _cell(row: dict[str, str | int | float | None]) -> Cell:
    sd, place = row["sd"], row["place"]
    assert isinstance(place, int)
    return Cell(
        _number(row["mean"]),
        "" if sd is None else _number(sd),
        _interval(row["low"], row["high"]),
        str(row["stars"]),
        place,
    )


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    mean = {1: f"**{cell.mean}**", 2: f"_{cell.mean}_"}.get(cell.place, cell.mean)
    star = cell.stars.replace("*", "\\*")
    return mean + (f" ±{cell.sd}" if cell.sd else "") + star + ("" if cell.interval == "-" else f" {cell.interval}")


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    mean = {1: rf"\textbf{{{cell.mean}}}", 2: rf"\underline{{{cell.mean}}}"}.get(cell.place, cell.mean)
    star = f"$^{{{cell.stars}}}$" if cell.stars else ""
    interval = rf" {{\scriptsize {cell.interval}}}" if cell.interval != "-" else ""
    return mean + (rf" $\pm$ {cell.sd}" if cell.sd else "") + star + interval


def _latex_text(text: str) -> str:
    """Text with what LaTeX takes for its own escaped.

    >>> _latex_text("llmesr_50%")
    'llmesr\\\\_50\\\\%'
    """
    return "".join(SPECIAL.get(character, character) for character in text)


def _markdown_text(text: str) -> str:
    """Text with what Markdown takes for its own escaped."""
    return "".join(f"\\{character}" if character in r"\|*_`<>[]" else character for character in text)


def _plain(group: str) -> str:
    return group.replace("_", " ")


def _number(value: str | float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _interval(low: str | float | None, high: str | float | None, form: str = ".4f") -> str:
    return "-" if low is None or high is None else f"[{_number(low, form)}, {_number(high, form)}]"


def _p(value: float | None) -> str:
    return "<.0001" if value is not None and value < 1e-4 else _number(value)
