"""The command line: verbs that call the library, tables for people, `--json` for programs; exit code 2 for mistakes."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from longtail import (
    checkup,
    children,
    cli_cache,
    cli_cluster,
    cli_encoders,
    cli_experiments,
    cli_profiles,
    cli_prompts,
    cli_serving,
    cli_update,
    pipeline,
    reporting,
    texts,
)
from longtail import demo as demonstration
from longtail import dial as turning
from longtail.cli_cache import agreed
from longtail.cli_cluster import Cluster, Workers
from longtail.cli_experiments import Settings
from longtail.cluster import training
from longtail.cluster.embedding import spreading
from longtail.config import Value, build, override
from longtail.data.dataset import Dataset
from longtail.data.memory import parse
from longtail.data.opening import DataConfig
from longtail.errors import LongtailError
from longtail.evaluation.fingerprint import same_protocol
from longtail.evaluation.report import tables
from longtail.pipeline import EMBEDDINGS, EmbedConfig
from longtail.terminal import frame_table, given, out, talk, tell
from longtail.texts import TextConfig
from longtail.train import distributed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="LLM-enhanced sequential recommendation for users with short histories and rarely bought items.",
)

app.add_typer(cli_experiments.app)
app.add_typer(cli_prompts.app, name="prompts")
app.add_typer(cli_encoders.app)
app.add_typer(cli_cluster.app)
app.add_typer(cli_cache.app, name="cache")
app.add_typer(cli_profiles.app)
app.add_typer(cli_serving.app)
app.add_typer(cli_update.app)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def demo(folder: Annotated[Path, typer.Option(help="Where the run folders go.")] = Path("demo-runs")) -> None:
    """Train SASRec and LLM-ESR on the bundled data and compare what they recommend to a tail user."""
    demonstration.run(folder, out, talk)


@app.command()
def prepare(
    interactions: Annotated[
        str, typer.Argument(help="A CSV, Parquet, … table, SOURCE:PATH of raw files, recipe:NAME or bundled:NAME.")
    ],
    to: Annotated[Path, typer.Option("--out", help="Folder for the prepared tables.")],
    items: Annotated[str | None, typer.Option(help="A table of items with their texts.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item id.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    item_id: Annotated[str | None, typer.Option(help="Column of the item id in the table of items.")] = None,
    review: Annotated[str | None, typer.Option(help="Column of what users wrote, to keep it for text.reviews.")] = None,
    min_user: Annotated[int, typer.Option(min=0, help="Interactions a user needs.")] = 0,
    min_item: Annotated[int, typer.Option(min=0, help="Interactions an item needs.")] = 0,
    one_pass: Annotated[bool, typer.Option("--one-pass", help="Filter once instead of to a fixed point.")] = False,
    raw: Annotated[str | None, typer.Option("--from", help="The folder of a recipe's raw files.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column of interactions to keep: rating, text.")] = None,
    bad_lines: Annotated[str, typer.Option(help="Lines of raw files that cannot be read: error or skip.")] = "error",
    memory: Annotated[str | None, typer.Option(help="Stay below it, in parts on disk: 2GB. For a table.")] = None,
) -> None:
    """Read, check and filter tables into a folder that the other commands take as --data."""
    flags: dict[str, Value] = {
        "interactions": interactions, "items": items, "user": user, "item": item, "timestamp": timestamp,
        "item_id": item_id, "review": review, "raw": raw, "min_user": min_user,
        "min_item": min_item, "repeat": not one_pass, "keep": [*(keep or ())], "bad_lines": bad_lines,
    }  # fmt: skip
    data = pipeline.prepare_within(build(DataConfig, flags), to, None if memory is None else parse(memory))
    for note in data.notes:
        tell(f"note: {note}")
    table = Table("", "value", title=escape(f"{data.name}, saved in {to}"))
    for name, value in data.figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    out.print(table)


@app.command()
def doctor(
    data: Annotated[str, typer.Argument(help="A table, a prepared folder, bundled:NAME, or a run's TOML file.")],
    items: Annotated[str | None, typer.Option(help="A table of items with their texts.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item id.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    item_id: Annotated[str | None, typer.Option(help="Column of the item id in the table of items.")] = None,
    min_user: Annotated[int | None, typer.Option(min=0, help="Interactions a user will need.")] = None,
    min_item: Annotated[int | None, typer.Option(min=0, help="Interactions an item will need.")] = None,
    template: Annotated[str | None, typer.Option(help="Prompt of an item.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Examine data before training: order, counts, texts, leaks, structure, cost. Exit code 1 if there are errors."""
    config = Path(data) if data.endswith(".toml") else None
    flags = {
        "data.interactions": None if config else data, "data.items": items, "data.user": user, "data.item": item,
        "data.timestamp": timestamp, "data.item_id": item_id, "data.min_user": min_user, "data.min_item": min_item,
        "text.item_template": template,
    }  # fmt: skip
    resolved = pipeline.run_config(config, [*given(flags), *(settings or [])])
    with Progress(console=talk, transient=True) as bar:
        task = bar.add_task("examining", total=None)
        findings = checkup.diagnose(resolved, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print(json.dumps([asdict(one) for one in findings], ensure_ascii=False))
    else:
        out.print(checkup.table(findings))
    if any(one.level == "error" for one in findings):
        raise typer.Exit(1)


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="A folder that `longtail prepare` wrote.")],
    model: Annotated[
        str, typer.Option(help="minilm, lexical, m2v:, st:, hf: or openai:NAME, http://HOST:PORT/v1#NAME, file:PATH, …")
    ] = TextConfig().model,
    user_model: Annotated[str | None, typer.Option(help="The encoder of users, if it is another one.")] = None,
    item_template: Annotated[str, typer.Option(help="Prompt of an item.")] = TextConfig().item_template,
    user_template: Annotated[
        str, typer.Option(help="Prompt of a user's training history.")
    ] = TextConfig().user_template,
    transform: Annotated[
        str, typer.Option(help="Steps fitted on the items' vectors, e.g. center,whiten:256,l2 (docs/embeddings.md).")
    ] = "",
    settings: Settings = None,
    yes: Annotated[bool, typer.Option("--yes", help="Spend what it costs without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what a server would be asked for; ask nobody.")
    ] = False,
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Embed the texts of items and of users' training histories, through the cache.

    Which histories train is the split's: --set split.scheme=time, as for fit.
    """
    flags: dict[str, str | int | list[str] | None] = {
        "text.model": model, "text.user_model": user_model,
        "text.item_template": item_template, "text.user_template": user_template,
        "text.transform": transform.split(",") if transform else None,
    }  # fmt: skip
    config, data = build(EmbedConfig, override({}, [*given(flags), *(settings or [])])), Dataset.load(folder)
    split = data.split(config.split)
    if not agreed(texts.estimates(data, split, config.text), config.text.budget, yes, dry_run):
        return
    with spreading(cluster, workers) as over:
        made = texts.embed(data, split, config.text.model_copy(update={"budget": None}), over=over)
    for kind, vectors in zip(("items", "users"), made, strict=True):
        if vectors is not None:
            vectors.save(folder / EMBEDDINGS / kind)
            print(f"{folder / EMBEDDINGS / kind}: {len(vectors):,} vectors of width {vectors.width:,}")


@app.command()
def fit(
    to: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    config: Annotated[Path | None, typer.Argument(help="A TOML file of settings.")] = None,
    data: Annotated[str | None, typer.Option(help="A table, a prepared folder or bundled:online_retail.")] = None,
    preset: Annotated[str, typer.Option(help=f"What to begin with: {', '.join(pipeline.PRESETS)}.")] = pipeline.PRESET,
    method: Annotated[str | None, typer.Option(help="longtail, llmesr, plain, …")] = None,
    backbone: Annotated[str | None, typer.Option(help="sasrec, …")] = None,
    case: Annotated[str | None, typer.Option(help="A [cases.NAME] table of the config file to lay over it.")] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's checkpoint.")] = False,
    then: Annotated[bool, typer.Option("--evaluate", help="Evaluate it on test when it is trained.")] = False,
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Train a model into a run folder; on several processes with `torchrun ... -m longtail fit` (docs/scale.md)."""
    flags = {"data.interactions": data, "method.name": method, "backbone.name": backbone}
    resolved = pipeline.run_config(config, [*given(flags), *(settings or [])], case, preset=preset)
    try:
        with distributed.together():
            talk.quiet = not distributed.leads()
            if cluster:
                training.fit(resolved, to, workers=workers, resume=resume)
            else:
                pipeline.fit(resolved, to, resume=resume or distributed.restarted())
            leads = distributed.leads()
        if then and leads:
            reporting.report(to)
    except KeyboardInterrupt:
        kept = "the last checkpoint is kept; " if (to / "checkpoint" / "last.safetensors").exists() else ""
        talk.quiet = False
        tell(f"interrupted; {kept}go on with: {distributed.command(sys.argv[1:])}")
        raise typer.Exit(130) from None
    finally:
        talk.quiet = False
    if leads:
        print(f"run folder: {to}; next: longtail evaluate {to}")


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="One or more run folders, shown side by side.")],
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Rank held-out items and report by tail and head groups; the report is saved in each run folder."""
    if split not in {"test", "valid"}:
        raise typer.BadParameter(f"split {split!r} is neither 'test' nor 'valid'")
    reports = [reporting.report(run, split, settings or []) for run in runs]
    same_protocol(reports, [run.name for run in runs])
    if as_json:
        print(json.dumps([row for report in reports for row in report.rows()], ensure_ascii=False))
        return
    for table in tables(reports, labels=[run.name for run in runs]):
        out.print(table)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that were evaluated; seeds of a case are averaged.")],
    to: Annotated[Path, typer.Option("--out", help="The page to write; its figures go into figures/ beside it.")],
) -> None:
    """Write one page that shows runs side by side: settings, tables, figures, and what they recommend to ten users."""
    reporting.write_page(runs, to)
    print(f"page: {to}; figures: {to.parent / 'figures'}")


@app.command()
def dial(
    run: Annotated[Path, typer.Argument(help="A run folder of method longtail.")],
    value: Annotated[float | None, typer.Option("--set", help="From 0, most accurate overall, to 1.")] = None,
    as_json: Json = False,
) -> None:
    """Show what each value of the tail dial gives on validation, or set it."""
    if value is not None:
        turning.turn(run, value)
        print(f"dial of {run}: {value:g}; figures of before are gone; next: longtail evaluate {run}")
        return
    with Progress(console=talk, transient=True) as bar:
        task = bar.add_task("turning the dial", total=None)
        found = turning.curve(run, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print(json.dumps(found.to_dicts()))
    else:
        out.print(frame_table(found, digits=4))


def main() -> None:
    """Run the command; a user's mistake is one clear message and exit code 2."""
    children.follow()
    logging.basicConfig(
        level=logging.getLevelNamesMapping().get(os.environ.get("LONGTAIL_LOG", "").upper(), logging.WARNING),
        format="%(message)s",
        handlers=[RichHandler(console=talk, show_time=False, show_path=False)],
    )
    try:
        app()
    except LongtailError as error:
        tell(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        tell("interrupted; nothing that was written is lost")
        sys.exit(130)
