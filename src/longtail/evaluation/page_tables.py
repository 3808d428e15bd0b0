"""The tables of report.html: metrics by case and group, then intervals and tests."""

from __future__ import annotations

import polars as pl

from longtail.errors import RunError
from longtail.evaluation import page, table_formats
from longtail.evaluation.compare import compare
from longtail.evaluation.metrics import METRICS
from longtail.evaluation.page import ESTIMATED, SAMPLED, Html
from longtail.evaluation.report import shown
from longtail.evaluation.stored import SPLITS, Case, how, spread
from longtail.evaluation.tables import OF_ALL

SHOWN = ("hr@10", "ndcg@10")
HALVES = ("tail", "head")
GROUPS = (  # across, where cases are down; figures show finer ones
    "all",
    *(f"{half}_{of}" for of in ("items", "users") for half in HALVES),
    *(f"{one}_users_{other}_items" for one in HALVES for other in HALVES),
)
NBSP = "\N{NO-BREAK SPACE}"


def results(found: list[Case]) -> Html:
    """The tables: test first, full ranking first, sampled candidates with a warning, validation folded away."""
    rows, parts = spread(found), []
    for split in SPLITS:
        of = rows.filter(pl.col("split") == split)
        tables: list[Html] = []
        for protocol in of["protocol"].unique(maintain_order=True):
            made = _tables(found, of.filter(pl.col("protocol") == protocol), f"{split}, {how(protocol)}")
            if made:
                tables.append(page.heading(f"{split}: {how(protocol)}"))
                tables += _caution(protocol)
                tables += made
        tables += _of_all(found, of, split)
        if tables and split == "valid":
            parts.append(page.details("Validation, by which training was stopped", page.joined(tables)))
        else:
            parts += tables
    return page.joined(parts)


def _of_all(found: list[Case], rows: pl.DataFrame, split: str) -> list[Html]:
    """A table of what the lists of all users expose, if they were kept, and how unequally users are served."""
    whole = rows.filter(pl.col("protocol") == "full", pl.col("group") == "all")
    metrics = [metric for metric in OF_ALL if metric in set(whole["metric"])]
    if not metrics:
        return []
    cells = {(case, metric): (mean, sd) for case, metric, mean, sd in whole.select(
        "case", "metric", "mean", "sd").iter_rows()}  # fmt: skip
    lines = [(case.name, *(_cell(cells.get((case.name, metric))) for metric in metrics)) for case in found]
    named = f"{split}, full ranking: mean ± deviation over seeds; docs/method.md, sec. 5, tells what each is"
    return [page.heading(f"{split}: all users together"), page.table(named, ("case", *map(shown, metrics)), lines)]


def _caution(protocol: str) -> list[Html]:
    """What must stand above figures that are not of the full ranking."""
    return [] if protocol == "full" else [page.warning(ESTIMATED if "-" in protocol else SAMPLED)]


def _tables(found: list[Case], rows: pl.DataFrame, where: str) -> list[Html]:
    """One case: groups down, every metric across. Several: a table a metric, cases down, groups across."""
    sizes = dict(rows.select("group", "n").unique("group", maintain_order=True).iter_rows())
    cells = {(case, group, metric): (mean, sd) for case, group, metric, mean, sd in rows.select(
        "case", "group", "metric", "mean", "sd").iter_rows()}  # fmt: skip
    if len(found) == 1:
        every, name = dict.fromkeys(rows["metric"]), found[0].name
        metrics = [metric for metric in every if metric.partition("@")[0] in METRICS]  # metrics.json has the others
        lines = [
            (_plain(group), f"{n:,}", *(_cell(cells.get((name, group, metric))) for metric in metrics))
            for group, n in sizes.items()
        ]
        return [page.table(f"{name}: {where}", ("group", "n", *map(shown, metrics)), lines)]
    groups = [group for group in GROUPS if group in sizes]
    head = ("case", "seeds", *(f"{_plain(group)}, n{NBSP}={NBSP}{sizes[group]:,}" for group in groups))
    seeds = {case.name: str(len({run.seed for run in case.runs})) for case in found}
    alone = "; where a case has one seed, a difference may be chance" if "1" in seeds.values() else ""
    made = []
    for metric in (metric for metric in SHOWN if metric in set(rows["metric"])):
        pairs = [[cells.get((case.name, group, metric)) for group in groups] for case in found]
        means = [[_mean(pair) for pair in line] for line in pairs]
        best = {
            (row, column + 2)
            for column in range(len(groups))
            for row, line in enumerate(means)
            if line[column] == max(other[column] for other in means) > -1
        }
        lines = [(case.name, seeds[case.name], *map(_cell, line)) for case, line in zip(found, pairs, strict=True)]
        caption = f"{shown(metric)}: {where}; mean ± deviation over seeds, the best mean of a group in bold{alone}"
        made.append(page.table(caption, head, lines, strong=best))
    return made


def compared(found: list[Case]) -> Html:
    """Intervals of every case, and what tests say of its difference from the best other one, on test items."""
    folders = {case.name: [run.folder for run in case.runs] for case in found}
    names = [name for name in found[0].runs[0].ranks.columns if name not in {"user", "target", "split"}]
    parts = []
    if not all((run.ranks["split"] == "test").any() for case in found for run in case.runs):
        return page.paragraph("Not every run was evaluated on 'test'.")
    for protocol in names:
        try:
            frame = compare(folders, metrics=SHOWN, protocol=protocol)
        except RunError as error:
            parts.append(page.warning(f"Not compared under {protocol}: {error}"))
            continue
        by: dict[str, list[tuple[str, ...]]] = {}
        for where, cells in table_formats.lines(frame):
            by.setdefault(where, []).append(tuple(cells))
        parts.append(page.heading(how(protocol)))
        parts += _caution(protocol)
        parts.append(page.paragraph(table_formats.caption(frame)))
        parts += [page.table(where, table_formats.HEAD, rows) for where, rows in by.items()]
    return page.joined(parts)


def _plain(group: str) -> str:
    return group.replace("_", " ")


def _mean(pair: tuple[float | None, float | None] | None) -> float:
    return -1.0 if pair is None or pair[0] is None else pair[0]


def _cell(pair: tuple[float | None, float | None] | None) -> str:
    """Mean and deviation, as far as there are any."""
    if pair is None or pair[0] is None:
        return "-"
    return f"{pair[0]:.4f}" if pair[1] is None else f"{pair[0]:.4f} ± {pair[1]:.4f}"
