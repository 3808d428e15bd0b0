"""The tail dial of a run: what each of its values gives on validation, and turning it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
from torch import Tensor

from longtail.errors import ConfigError, RunError
from longtail.evaluation.protocol import ProtocolConfig
from longtail.evaluation.report import evaluate
from longtail.evaluation.stored import DIAL_FILE
from longtail.files import read_json, write_json
from longtail.nn.dial import DIAL, knee
from longtail.recommender import Recommender, load

PROTOCOL = ProtocolConfig(sampled=0, lists=True)
SHOWN = {
    "overall": ("ndcg@10", "all"),
    "tail items": ("ndcg@10", "tail_items"),
    "tail users": ("ndcg@10", "tail_users"),
}
LISTED = {"coverage": "coverage@10", "Gini": "gini@10"}


def curve(run: Path, tell: Callable[[int, int], None] = lambda done, total: None) -> pl.DataFrame:
    """A row a value of the dial: NDCG@10 overall, of tail items and tail users, coverage and Gini of the first ten, all
    on validation; and whether it is the knee, and what the run has. It is kept in the run folder."""
    model = load(run)
    dial, rows = _dial(model, run), []
    has = float(dial)
    for done, value in enumerate(DIAL):
        tell(done, len(DIAL))
        dial.fill_(value)
        report = evaluate(model, model.split, name="valid", protocol=PROTOCOL)
        figures = {name: report.value(*asked) for name, asked in SHOWN.items()}
        rows.append({"dial": value, **figures, **{name: report.value(metric) for name, metric in LISTED.items()}})
    found = pl.DataFrame(rows)
    best = knee({row["dial"]: (row["overall"], row["tail items"] or 0.0) for row in found.iter_rows(named=True)})
    found = found.with_columns(knee=pl.col("dial") == best, now=(pl.col("dial") - has).abs() < 1e-6)
    write_json(run / DIAL_FILE, found.to_dicts())
    return found


def turn(run: Path, value: float) -> None:
    """Set the dial of a run, which then recommends so."""
    if not 0 <= value <= 1:
        raise ConfigError(f"the dial goes from 0, most accurate overall, to 1, most for the tail; {value:g} is beyond")
    model = load(run)
    _dial(model, run).fill_(value)
    rows = read_json(run / DIAL_FILE) if (run / DIAL_FILE).exists() else None
    model.save(run)  # without the figures that are no longer its own
    if isinstance(rows, list):
        write_json(run / DIAL_FILE, [{**row, "now": abs(row["dial"] - value) < 1e-6} for row in rows])


def _dial(model: Recommender, run: Path) -> Tensor:
    dial = None if model.method is None else model.method.dial
    if dial is None:
        raise RunError(f"{run} has no dial: method {model.config.method.name!r} knows none; fit 'longtail' for one")
    return dial
