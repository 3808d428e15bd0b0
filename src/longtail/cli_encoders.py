"""The verbs of the command line that are of text encoders: compare them, look at vectors, embed new items."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.progress import Progress

from longtail import encoders, vectors
from longtail.checkup import table
from longtail.config import Value
from longtail.data.opening import DataConfig, open_data
from longtail.encoders import Candidate, Plan
from longtail.terminal import frame_table, out, talk
from longtail.text.extend import embed_new
from longtail.text.transform import parse_step

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def compare_encoders(
    data: Annotated[str, typer.Argument(help="A prepared folder, or bundled:online_retail.")],
    models: Annotated[list[str], typer.Option("--model", help="minilm, lexical, hf:NAME, … Repeatable.")],
    transforms: Annotated[
        list[str] | None,
        typer.Option("--transform", help="Steps with commas between, e.g. center,l2, or none; each on every model."),
    ] = None,
    item_template: Annotated[str, typer.Option(help="Prompt of an item.")] = Plan().template,
    users: Annotated[int | None, typer.Option(min=1, help="Only of so many users, drawn at random.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Only of users who touch that many items in all.")] = None,
    history: Annotated[int, typer.Option(min=1, help="Items of a history that text-kNN looks at.")] = Plan().history,
    train: Annotated[int, typer.Option(min=0, help="Also train so many epochs on each one's vectors.")] = 0,
    method: Annotated[str, typer.Option(help="The method that --train trains.")] = Plan().method,
    test: Annotated[bool, typer.Option("--test", help="Also score test targets; they choose nothing.")] = False,
    by: Annotated[str, typer.Option(help="What ranks them on validation: tail_items or all.")] = "tail_items",
    as_json: Json = False,
) -> None:
    """Rank text encoders by the text-kNN of their vectors: validation NDCG@10, full ranking, nothing trained."""
    if by not in {"tail_items", "all"}:
        raise typer.BadParameter(f"--by {by!r} is neither 'tail_items' nor 'all'")
    chains = [() if one == "none" else tuple(one.split(",")) for one in transforms or ["none"]]
    for step in (step for chain in chains for step in chain):
        parse_step(step)
    whole = open_data(DataConfig(interactions=data))
    drawn = encoders.sample(whole, users, items)
    plan = Plan(item_template, history, train, method, test, "all" if by == "all" else "tail_items")
    candidates = [Candidate(model, chain) for model in models for chain in chains]
    with Progress(console=talk, transient=True) as bar:
        task = bar.add_task("comparing", total=len(candidates))
        found = encoders.compare(
            drawn, candidates, plan, whole=len(whole.items), watch=lambda done, total: bar.update(task, completed=done)
        )
    rows = [one.row() for one in found]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    out.print(frame_table(pl.DataFrame([{key: _shown(key, row[key]) for key in row} for row in rows])))
    print(
        f"{len(drawn.users):,} users, {len(drawn.items):,} of {len(whole.items):,} items; all item texts have about "
        f"{encoders.tokens(whole, item_template):,} tokens; 'behind': the best one's less this one's, ± 95%"
    )


def _shown(key: str, value: Value) -> str:
    """A figure as the table has it: NDCG with four digits, pace and hours as far as they are known."""
    if isinstance(value, float):
        return f"{value:.4f}" if key not in {"texts/s", "hours for all"} else f"{value:,.3g}"
    return "-" if value is None else str(value)


@app.command()
def audit(
    where: Annotated[Path, typer.Argument(help="A prepared folder with vectors, a folder of vectors, or a file.")],
    data: Annotated[
        str | None, typer.Option(help="The prepared folder whose items they are of, if it is another.")
    ] = None,
    like: Annotated[list[str] | None, typer.Option(help="An item whose nearest ones are shown. Repeatable.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many nearest ones.")] = 5,
    as_json: Json = False,
) -> None:
    """Look at vectors before training on them: holes, twins, norms, dimension, popularity. Exit code 1 on errors."""
    known = None if data is None else open_data(DataConfig(interactions=data))
    found = vectors.examine(where, known, like or [], k)
    if as_json:
        told = {kind: [asdict(one) for one in findings] for kind, findings in found.findings.items()}
        print(json.dumps({"findings": told, "nearest": found.nearest.to_dicts()}, ensure_ascii=False))
    else:
        for kind, findings in found.findings.items():
            out.print(kind)
            out.print(table(findings))
        if len(found.nearest):
            out.print(frame_table(found.nearest))
    if any(one.level == "error" for findings in found.findings.values() for one in findings):
        raise typer.Exit(1)


@app.command("embed-new")
def embed_new_items(
    items: Annotated[str, typer.Argument(help="A table of new items with their texts.")],
    like: Annotated[Path, typer.Option(help="A folder of vectors to make them like, e.g. data/embeddings/items.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the new vectors.")],
    item_id: Annotated[str | None, typer.Option(help="Column of the item id.")] = None,
) -> None:
    """Embed items that came later: same encoder, prompt and fitted transform as vectors that are there."""
    made = embed_new(items, like, item_id)
    made.save(to)
    print(f"{to}: {len(made):,} vectors of width {made.width:,}")
