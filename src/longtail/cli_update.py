"""`longtail update`: a finished run goes on with what came after it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from longtail import refresh, reporting
from longtail.cli_experiments import Settings
from longtail.config import build, override
from longtail.data.extension import Columns
from longtail.files import read_json
from longtail.terminal import tell
from longtail.train.warm import UpdateConfig

app = typer.Typer()


@app.command()
def update(
    run: Annotated[Path, typer.Argument(help="A finished run folder; it stays as it is.")],
    interactions: Annotated[Path, typer.Option(help="A table of the interactions that came after.")],
    to: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    items: Annotated[Path | None, typer.Option(help="A table of new items with their texts.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user id, if not as in the run.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item id.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    item_id: Annotated[str | None, typer.Option(help="Column of the item id in the table of items.")] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an update that was cut, same tables.")] = False,
    then: Annotated[bool, typer.Option("--evaluate", help="Evaluate it on test when it is updated.")] = False,
) -> None:
    """Let new users, items and interactions into a run, at a cost that grows with what is new.

    --set names fields of the update: lr, epochs, patience, replay, batch_size, validated, choose.
    """
    config = build(UpdateConfig, override({}, settings or []), "the update")
    columns = Columns(user, item, timestamp, item_id)
    try:
        refresh.update(run, interactions, to, items, config=config, columns=columns, resume=resume)
        if then:
            reporting.report(to)
    except KeyboardInterrupt:
        again = " ".join(arg for arg in sys.argv[1:] if arg != "--resume")
        tell(f"interrupted; {run} is as it was; go on with: longtail {again} --resume")
        raise typer.Exit(130) from None
    told = read_json(to / refresh.FACTS)
    assert isinstance(told, dict)
    news = told["new"]
    print(
        f"{news['interactions']:,} new interactions of {news['of users']:,} users, {news['users']:,} of them new; "
        f"{news['items']:,} new items; {told['seconds']['whole']:.0f} s"
    )
    print(f"run folder: {to}; next: longtail evaluate {to}")
