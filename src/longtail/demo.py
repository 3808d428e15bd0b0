"""`longtail demo`: three methods on the bundled data, side by side, and what each recommends to a tail user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longtail import pipeline, reporting
from longtail.config import Value, merge
from longtail.data.groups import groups
from longtail.evaluation.report import tables
from longtail.pipeline import RunConfig, run_config
from longtail.recommender import Recommender

SETTINGS: dict[str, Value] = {
    "data": {"interactions": "bundled:online_retail", "min_user": 3, "min_item": 3},
    "backbone": {"name": "sasrec", "max_len": 30, "dropout": 0.3},
    "train": {"loss": "softmax", "lr": 3e-3, "epochs": 8, "patience": 2},
}
METHODS: dict[str, Value] = {
    "plain": {"name": "plain"},
    "llmesr": {"name": "llmesr", "teacher": "bank"},
    "longtail": {"name": "longtail"},
}
NAMES = {"plain": "SASRec", "llmesr": "LLM-ESR on SASRec", "longtail": "longtail"}


def config(method: str) -> RunConfig:
    """The demo's config: the library's defaults, cut to minutes on a laptop."""
    return run_config(None, values=merge(SETTINGS, {"method": METHODS[method]}))


def run(folder: Path, out: Console, talk: Console) -> None:
    """Train all into `folder`, print the comparison by group and the recommendations. A second run reuses them."""
    models, reports = [], []
    for method in METHODS:
        talk.rule(f"{NAMES[method]} on Online Retail (UCI, CC BY 4.0)")
        models.append(pipeline.fit(config(method), folder / method, resume=True))
        reports.append(reporting.report(folder / method))
    for table in tables(reports):
        out.print(table)
    _recommendations(models, out)
    reporting.write_page([folder / method for method in METHODS], folder / "report.html", brief=True)
    for method in METHODS:
        out.print(f"run folder of {NAMES[method]}: {folder / method}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"all on one page: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def _recommendations(models: list[Recommender], out: Console) -> None:
    """History and recommendations of one tail user: a quarter of the evaluated tail users have a shorter history."""
    split = models[0].split
    assert split.data is not None
    data = split.data
    tail = np.flatnonzero((split.test > 0) & ~groups(split).head_users)
    user = tail[np.argsort(split.train.lengths[tail], kind="stable")[len(tail) // 4]]
    seen = split.history("test").of(int(user))
    bought = data.items.external(split.test[user : user + 1])[0]
    title = data.text["title"][int(split.test[user]) - 1]
    out.print(
        f"Tail user {data.users.external(np.array([user]))[0]}, who then bought {bought}: {title}",
        highlight=False,
        markup=False,
    )
    history = Table("item", "title", title="history, oldest first")
    for item in seen:
        history.add_row(str(data.items.external(np.array([item]))[0]), escape(str(data.text["title"][int(item) - 1])))
    shown = [history]
    for method, model in zip(METHODS, models, strict=True):
        found = model.recommend(histories=[data.items.external(seen)], k=10)
        shown.append(_top(NAMES[method], found, str(bought)))
    out.print(Columns(shown))


def _top(name: str, found: pl.DataFrame, bought: str) -> Table:
    table = Table("#", "item", "title", "score", title=name)
    for row in found.iter_rows(named=True):
        style = "bold green" if str(row["item"]) == bought else ""
        cells = (str(row["rank"]), str(row["item"]), escape(str(row["title"])), f"{row['score']:.2f}")
        table.add_row(*cells, style=style)
    return table
