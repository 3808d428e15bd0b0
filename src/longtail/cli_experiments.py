"""The verbs of the command line that are of many runs: experiments, searches and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtail import experiment, results
from longtail import search as searching
from longtail.evaluation import comparable, table_formats
from longtail.evaluation.compare import GROUPS, NDCG
from longtail.evaluation.compare import compare as compare_cases
from longtail.terminal import frame_table, out, talk

app = typer.Typer()

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting, e.g. train.lr=5e-4. Repeatable.")
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Trainings at the same time; by cores and memory if not given, 1 on a GPU.")
]


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Evaluated run folders, or folders of them; NAME=FOLDER names one.")
    ],
    baseline: Annotated[str | None, typer.Option(help="A case, e.g. plain; the best other case if not given.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="ndcg@10 if not given. Repeatable.")] = None,
    protocol: Annotated[str, typer.Option(help="full, or candidates that were evaluated: sampled100.")] = "full",
    groups: Annotated[
        list[str] | None, typer.Option("--group", help="All, tail and head if not given. Repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    form: Annotated[str, typer.Option("--format", help="table, markdown, latex, csv or json.")] = "table",
) -> None:
    """Means over seeds with intervals, and tests against a baseline; folders CASE-SEED are the seeds of one case."""
    if form != "table" and form not in table_formats.FORMATS:
        raise typer.BadParameter(f"format {form!r} is none of: table, {', '.join(table_formats.FORMATS)}")
    found = compare_cases(comparable.find_cases(runs), baseline, metrics or NDCG, protocol, groups or GROUPS, split)
    if form == "table":
        out.print(table_formats.table(found))
    else:
        print(table_formats.FORMATS[form](found), end="")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A TOML file with seeds and cases, or a grid (docs/experiments.md).")],
    to: Annotated[Path, typer.Option("--out", help="Folder of the run folders and of results.md, .tex, .csv, .json.")],
    jobs: Jobs = None,
    cells: Annotated[
        list[str] | None, typer.Option(help="Only the cells that match, e.g. 'beauty-*-42'. Repeatable.")
    ] = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what is missing.")] = False,
) -> None:
    """Fit and evaluate every case with every seed; what is done is skipped, so it can be stopped and run again."""
    if dry_run:
        out.print(frame_table(experiment.states(config, to, settings or [], cells or [])))
        return
    rows = experiment.execute(config, to, talk, jobs=jobs, settings=settings or [], patterns=cells or [])
    print(results.markdown(rows))


@app.command()
def search(
    config: Annotated[Path, typer.Argument(help="A TOML file with a [search] table of ranges (docs/experiments.md).")],
    to: Annotated[Path, typer.Option("--out", help="Folder of the trials, and of best.toml, trials.md, trials.json.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials in all; those of an earlier call count.")] = 20,
    jobs: Jobs = None,
    case: Annotated[str | None, typer.Option(help="A case of the config file to search around.")] = None,
    settings: Settings = None,
) -> None:
    """Find settings by validation NDCG@10; the test items are never looked at."""
    found = searching.search(config, to, trials, talk, jobs=jobs, settings=settings or [], case=case)
    print(searching.markdown(found))
    print(f"next: longtail fit {to / 'best.toml'} --out {to / 'best'} --evaluate")
