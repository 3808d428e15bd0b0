"""The verbs of the command line that are of prompts: which templates there are, what they make, what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from longtail import checkup, pipeline, prompting
from longtail.cli_experiments import Settings
from longtail.data.opening import DataConfig, open_data
from longtail.terminal import given, out, tell
from longtail.text.prompts import open_template, template_names

app = typer.Typer(no_args_is_help=True, help="What the text encoder reads of items and users.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Data = Annotated[str, typer.Argument(help="A table, a prepared folder, bundled:NAME, or a run's TOML file.")]
Items = Annotated[str | None, typer.Option(help="A table of items with their texts.")]


@app.command("list")
def list_templates() -> None:
    """The templates that come with the package."""
    table = Table("template", "of", "prompt")
    for name in template_names():
        shape = open_template(name)
        table.add_row(name, shape.kind, escape(shape.text))
    out.print(table)


@app.command()
def show(
    data: Data,
    items: Items = None,
    template: Annotated[str | None, typer.Option(help="A template's name, or a file of one's own.")] = None,
    item: Annotated[list[str] | None, typer.Option(help="An item's id. Repeatable.")] = None,
    users: Annotated[bool, typer.Option("--users", help="The prompts of users.")] = False,
    user: Annotated[list[str] | None, typer.Option(help="A user's id. Repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="The text encoder, whose tokens are counted.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many, where no id is given.")] = 3,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Print prompts as the text encoder will read them, with their tokens, and how many of all it reads in part."""
    of_users = users or bool(user)
    if of_users and item:
        raise typer.BadParameter("prompts are of items or of users; give --item, or --users and --user")
    config = Path(data) if data.endswith(".toml") else None
    flags = {
        "data.interactions": None if config else data, "data.items": items, "text.model": model,
        "text.user_template" if of_users else "text.item_template": template,
    }  # fmt: skip
    resolved = pipeline.run_config(config, [*given(flags), *(settings or [])])
    shown = prompting.show(resolved, users=of_users, ids=user if of_users else item, k=k)
    said = prompting.summary(shown)
    if as_json:
        print(json.dumps({"summary": said, "prompts": shown.rows.to_dicts()}, ensure_ascii=False))
        return
    for row in shown.rows.iter_rows(named=True):
        tokens = f"{row['tokens']} tokens{', cut' if row['cut'] else ''}"
        out.print(
            f"{escape(str(row['id']))} ({tokens}): {escape(row['prompt'] or '(no text)')}",
            highlight=False,
            soft_wrap=True,
        )
    for one in said:
        tell(one)


@app.command()
def lint(
    template: Annotated[str, typer.Argument(help="A template's name, or a file of one's own.")],
    items: Items = None,
    data: Annotated[
        str | None, typer.Option(help="Interactions to compare columns with: a table, a prepared folder, bundled:NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Refuse fields that count the future, by name or, with --data, by what they hold. Exit code 1 if there are any."""
    read = None if data is None else open_data(DataConfig(interactions=data, items=items))
    findings = prompting.check(template, items, read)
    if as_json:
        print(json.dumps([asdict(one) for one in findings], ensure_ascii=False))
    else:
        out.print(checkup.table(findings))
    if any(one.level == "error" for one in findings):
        raise typer.Exit(1)
