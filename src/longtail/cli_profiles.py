"""The verb of the command line that has a chat model write of items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli_cache import agreed
from longtail.cli_experiments import Settings
from longtail.config import build, override
from longtail.data.dataset import Dataset
from longtail.terminal import given
from longtail.text.profiles import COLUMN, ProfileConfig, Writer

app = typer.Typer()


@app.command()
def profiles(
    folder: Annotated[Path, typer.Argument(help="A folder that `longtail prepare` wrote.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the same tables with the profiles; may be the same.")],
    model: Annotated[str, typer.Option(help="The chat model: openai:NAME, http://HOST:PORT/v1#NAME, …")],
    template: Annotated[str, typer.Option(help="Prompt of an item.")] = "item-profile",
    settings: Settings = None,
    yes: Annotated[bool, typer.Option("--yes", help="Spend what it costs without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would cost; ask nobody.")] = False,
) -> None:
    """Have a chat model write a profile of every item, through the cache, into the column 'profile' of its table.

    Its settings are as of text.profiles: --set chat.max_tokens=100, --set http.price=0.2.
    """
    flags = given({"model": model, "template": template})
    writer = Writer.of(build(ProfileConfig, override({}, [*flags, *(settings or [])])))
    assert writer is not None
    data = Dataset.load(folder)
    if not agreed([writer.estimate_items(data)], 0.0, yes, dry_run):
        return
    made = writer.items(data)
    made.save(to)
    print(f"{to}: {made.text[COLUMN].count():,} profiles of {len(made.items):,} items")
