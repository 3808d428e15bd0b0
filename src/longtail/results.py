"""The figures of many run folders as one table, in Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from longtail.errors import RunError
from longtail.evaluation.fingerprint import same_protocol, stored_rows
from longtail.evaluation.tables import caution, shown
from longtail.files import atomic, read_json

METRICS = ("hr@10", "ndcg@10")
ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"} | {"±": r"$\pm$", "~": r"\textasciitilde{}"}


def collect(folders: Sequence[Path]) -> pl.DataFrame:
    """The figures of several run folders as one table: a row a figure, with the case beside the run's facts.

    Only METRICS; each folder's metrics.json has the others. A RunError if their protocols differ.
    """
    rows, judged = [], []
    for folder in folders:
        stored = read_json(folder / "metrics.json")
        if not isinstance(stored, dict) or "figures" not in stored:
            raise RunError(f"{folder / 'metrics.json'} is corrupt; delete it and run again")
        case = folder.name.rpartition("-")[0]
        rows += [{"case": case, **row} for row in stored["figures"] if row["metric"] in METRICS]
        judged += stored_rows(folder.name, stored)
    same_protocol(judged)
    return pl.DataFrame(rows, infer_schema_length=None)


def write(out: Path, rows: pl.DataFrame) -> None:
    """results.json with every figure, and results.md, .tex and .csv with mean and deviation over seeds."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows.to_dicts())
    texts: dict[str, str] = {"json": f"[\n{lines}\n]\n"}
    formats: dict[str, Callable[[pl.DataFrame], str]] = {"md": markdown, "tex": latex, "csv": csv}
    for kind, text in (texts | {kind: made(rows) for kind, made in formats.items()}).items():
        with atomic(out / f"results.{kind}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def summary(rows: pl.DataFrame) -> pl.DataFrame:
    """The test figures by case, protocol, group and metric: over how many seeds, their mean, their deviation."""
    if not len(rows):
        return pl.DataFrame()
    keys = ["protocol", "case", "group", "metric"]
    value = pl.col("value").cast(pl.Float64)
    return (
        rows.filter(pl.col("split") == "test")
        .group_by(keys, maintain_order=True)
        .agg(seeds=pl.col("seed").n_unique(), mean=value.mean(), sd=value.std(ddof=1))
    )


def markdown(rows: pl.DataFrame) -> str:
    """A table a protocol, cases down, groups across, METRICS in a cell."""
    parts = []
    for protocol, groups, lines in _tables(rows):
        head = f"| case ({protocol}) | seeds | {' | '.join(group.replace('_', ' ') for group in groups)} |"
        rule = "|" + " --- |" * (len(groups) + 2)
        parts.append(
            "\n".join(
                [head, rule, *(f"| {' | '.join(line)} |" for line in lines), "", caution(protocol) or ""]
            ).rstrip()
        )
    return "\n\n".join(parts) + "\n"


def latex(rows: pl.DataFrame) -> str:
    """The same tables for a paper; they need the package booktabs."""
    parts = []
    for protocol, groups, lines in _tables(rows):
        names = [f"case ({protocol})", "seeds", *(group.replace("_", " ") for group in groups)]
        head = [rf"\begin{{tabular}}{{lr{'r' * len(groups)}}}", r"\toprule", _latex_row(names), r"\midrule"]
        parts.append("\n".join([*head, *map(_latex_row, lines), r"\bottomrule", r"\end{tabular}"]))
    return f"% cells: {' / '.join(map(shown, METRICS))}\n" + "\n\n".join(parts) + "\n"


def csv(rows: pl.DataFrame) -> str:
    """The summary, a row a mean."""
    return summary(rows).write_csv()


def _tables(rows: pl.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """For each protocol its name, its groups, and a line a case: name, seeds, a cell a group."""
    table, made = summary(rows), []
    for protocol in table["protocol"].unique(maintain_order=True) if len(table) else ():
        of = table.filter(pl.col("protocol") == protocol)
        groups = [group for group in of["group"].unique(maintain_order=True) if group.count("_") < 2]
        cells = {(case, group, metric): _cell(mean, sd) for _, case, group, metric, _, mean, sd in of.iter_rows()}
        lines = []
        for case, seeds in of.group_by("case", maintain_order=True).agg(pl.col("seeds").max()).iter_rows():
            found = [" / ".join(cells.get((case, group, metric), "-") for metric in METRICS) for group in groups]
            lines.append([case, str(seeds), *found])
        made.append((protocol, groups, lines))
    return made


def _latex_row(cells: Sequence[str]) -> str:
    escaped = ("".join(ESCAPED.get(character, character) for character in cell) for cell in cells)
    return " & ".join(escaped) + r" \\"


def _cell(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ±{sd:.4f}"
