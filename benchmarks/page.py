"""Write docs/speed.md and docs/reranking.md from the results of full runs: `python benchmarks/page.py`.

A text's `<!-- SCRIPT -->` becomes the tables of results/SCRIPT.json, and in a sentence

    {SCRIPT: NAME}                    a figure of the results file itself, such as {rerank: users}
    {SCRIPT: ROW, COLUMN}             a cell of its rows; ROW is the row's first cells, with spaces between
    {SCRIPT: ROW, COLUMN over BASE}   by how much the cell is more than that of the row BASE, in per cent
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PAGES = {"page.md": "speed.md", "reranking.md": "reranking.md"}  # a text beside this script: its page
SECTIONS = (
    "train_epoch",
    "left_out",
    "peers",
    "peers_prefixes",
    "full_ranking",
    "similar_users",
    "loss_memory",
    "prepare",
    "doctor",
    "serving",
    "inference",
    "cold_items",
    "rerank",
)


def page(source: str) -> str:
    """The page: the text beside this script, and after each section's heading its tables."""
    text = (HERE / source).read_text(encoding="utf-8")
    for script in SECTIONS:
        path = HERE / "results" / f"{script}.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            asked = re.compile(rf"\{{{script}: ([^,}}]+)(?:, ([^}}]+?)(?: over ([^}}]+))?)?\}}")
            text = asked.sub(lambda match, found=found: figure(found, *match.groups()), text)  # type: ignore[misc]
            text = text.replace(f"<!-- {script} -->", section(found))
    return text


def figure(found: dict[str, Any], row: str, column: str | None, base: str | None) -> str:
    """A figure in a sentence; a KeyError if there is no such."""
    if column is None:
        return cell(found[row])
    value = rows_by_name(found)[row][column]
    if base is not None:
        return f"{100 * (value / rows_by_name(found)[base][column] - 1):+.1f} %"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}".removeprefix("0")


def rows_by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its rows by their first cells: texts, and the strength or size that follows them."""
    named = {}
    for row in found["rows"]:
        values = list(row.values())
        texts = next(at for at, value in enumerate(values) if not isinstance(value, str))
        name = [*values[:texts], *([f"{values[texts]:g}"] if values[texts] is not None else [])]
        named[" ".join(name)] = row
    return named


def section(found: dict[str, object]) -> str:
    """Command, machine, claims and every list of rows of one results file."""
    machine = found["machine"]
    assert isinstance(machine, dict)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    on = f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB; {versions}"
    parts = [f"    {found['command']}", f"{on}; commit {machine['commit']}, {machine['date']}."]
    parts += [table(found["claims"])]
    parts += [table(value) for value in found.values() if is_rows(value) and value is not found["claims"]]
    return "\n\n".join(parts)


def is_rows(value: object) -> bool:
    """Whether it is a list of flat records."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def table(rows: object) -> str:
    """Records as a Markdown table; what is a list or a record itself stays in the results file."""
    assert isinstance(rows, list)
    names = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in names if not any(isinstance(row.get(name), (list, dict)) for row in rows)]
    head = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    body = [[cell(row.get(name)) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in head + body)


def cell(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for source, target in PAGES.items():
        (DOCS / target).write_text(page(source), encoding="utf-8")
    sys.exit(0)
