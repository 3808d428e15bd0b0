"""Fits each of several jobs (a JSON list: method, backbone, settings, data, run folder), alone or as one of a group."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import polars as pl

import longtail as lt
from longtail.train import distributed
from tests.conftest import Planted, plant, vectors


@cache
def data(name: str) -> Planted:
    """The planted data, or some with a catalogue of which a step touches little."""
    if name == "planted":
        return plant()
    rows = [(f"u{u:03d}", f"i{7 * u % 400 + 3 * step:04d}", step) for u in range(61) for step in range(4 + u % 5)]
    wide = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{item:04d}" for item in range(450)]}).with_columns(title="item_id")
    made = lt.Dataset.read(wide, items, name="wide")
    return Planted(made, made.leave_one_out(), vectors(made.items.ids, 12, 1), vectors(made.users.ids, 12, 2))


def main(jobs: Path) -> None:
    by_rows, exchange = [], distributed._exchange_rows
    distributed._exchange_rows = lambda *given: (by_rows.append(1), exchange(*given))
    with distributed.together():
        for job in json.loads(jobs.read_text(encoding="utf-8")):
            by_rows.clear()
            planted, run = data(job["data"]), f"{job['run']}-{distributed.size()}"
            model = lt.Recommender(job["method"], job["backbone"], job["settings"])
            fitted = model.fit(planted.split, items=planted.items, users=planted.users, run=run)
            facts = {"validation": fitted.validate(), "by rows": len(by_rows)}
            Path(f"{run}.{distributed.rank()}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
