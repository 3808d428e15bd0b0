"""A finished run that goes on with the last 5 % of events, beside fitting on all of them: seconds, and NDCG@10.

Amazon Beauty as this project has it gives the order of each user's events and no times. So each user gets two moments,
drawn uniformly, at which her first and last events lie, the others evenly between, and the last 5 % of all events are
"new": those of users who stay, and all events of users who come late. longtail is fitted on the rest with its defaults,
updated with the new ones by `refresh.update`, and fitted on all. Both are asked for the same targets, the last event of
every user. Seconds are of the processor, on one thread, so that other work on the machine does not count; the training
part is `Recommender.fit`: edges, epochs with their validation, what is chosen then, and writing the run. --runs keeps
the two fitted runs, with their seconds, and takes them when called again. `--quick` does it with a few epochs on a part
of the bundled data.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl

import measure
from longtail import refresh
from longtail.config import Value
from longtail.errors import LongtailError
from longtail.evaluation.metrics import ndcg
from longtail.evaluation.protocol import rank_targets
from longtail.pipeline import fit, run_config
from longtail.recommender import Recommender, load
from longtail.train.warm import UpdateConfig
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
SHARE, SEED = 0.05, 42


def clocked(table: pl.DataFrame) -> pl.DataFrame:
    """The interactions in their order, with drawn times."""
    table = table.sort("timestamp", maintain_order=True).sort("user_id", maintain_order=True)
    lengths = table.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
    ends = np.sort(np.random.default_rng(SEED).random((len(lengths), 2)), axis=1)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    done = (np.arange(table.height) - starts) / np.repeat(np.maximum(lengths - 1, 1), lengths)
    first, last = (np.repeat(ends[:, side], lengths) for side in (0, 1))
    return table.with_columns(timestamp=pl.Series(((first + done * (last - first)) * 10**9).astype(np.int64)))


def settings(interactions: Path, items: Path, quick: bool) -> dict[str, Value]:
    """longtail at its defaults, for Beauty's short histories; a few epochs of it."""
    made: dict[str, Value] = {
        "data": {"interactions": str(interactions), "items": str(items)},
        "backbone": {"max_len": 50},
        "seed": SEED,
    }
    return {**made, "train": {"epochs": 3}} if quick else made


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of the processor, of all and of the training part, and of all by the clock."""
    inside, fitting = [], Recommender.fit

    def watched(*given: Any, **named: Any) -> Recommender:
        cpu = time.process_time()
        made = fitting(*given, **named)
        inside.append(time.process_time() - cpu)
        return made

    cpu, clock = time.process_time(), time.perf_counter()
    with patch.object(Recommender, "fit", watched):
        run()
    whole = time.process_time() - cpu
    return {"whole": whole, "training": sum(inside), "clock": time.perf_counter() - clock}


def epochs(run: Path) -> int:
    """How many there were."""
    return len((run / "log.jsonl").read_text(encoding="utf-8").splitlines())


def judged(run: Path, touched: set[str | int]) -> dict[str, float]:
    """NDCG@10 on test: of all users, of those with new events, and of the others."""
    model = load(run)
    ranks = rank_targets(model.scorer(), model.split, "test")
    gains = ndcg(ranks["full"].to_numpy(), 10)
    users = model.catalogue().users.external(ranks["user"].to_numpy()).is_in(list(touched)).to_numpy()
    return {"all": float(gains.mean()), "with_news": float(gains[users].mean()), "others": float(gains[~users].mean())}


def fitted(folder: Path, name: str, quick: bool) -> dict[str, float]:
    """Fit the table of that name beside it, unless that was done; its seconds."""
    kept = folder / f"{name}.seconds.json"
    if not (folder / name / "model.safetensors").exists():
        values = settings(folder / f"{name}.parquet", folder / "items.parquet", quick)
        kept.write_text(json.dumps(timed(lambda: fit(run_config(None, values=values), folder / name))))
    seconds: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    return seconds


def main() -> None:
    options = measure.parser(__doc__)
    options.add_argument("--runs", type=Path, help="where the fitted runs are kept")
    asked = options.parse_args()
    if asked.quick and asked.runs:
        options.error("--quick fits on a part of the bundled data; leave --runs out")
    if asked.quick:
        interactions, items = measure.small_tables(150)
    else:
        interactions, items = (pl.read_parquet(BEAUTY / f"{name}.parquet") for name in ("interactions", "items"))
    whole = clocked(interactions)
    cut = float(np.sort(whole["timestamp"].to_numpy())[int(whole.height * (1 - SHARE))])
    old, new = whole.filter(pl.col("timestamp") < cut), whole.filter(pl.col("timestamp") >= cut)
    with tempfile.TemporaryDirectory() as place:
        folder, out = asked.runs or Path(place), Path(place) / "out"
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("old", old), ("new", new), ("all", whole), ("items", items)):
            table.write_parquet(folder / f"{name}.parquet")
        fitted(folder, "old", asked.quick)
        seconds = {"retraining": fitted(folder, "all", asked.quick)}
        more, texts = folder / "new.parquet", items.join(new, on="item_id", how="semi")
        seconds["update"] = timed(lambda: refresh.update(folder / "old", more, out / "updated", texts))
        refresh.update(folder / "old", more, out / "let in", texts, config=UpdateConfig(epochs=0))
        touched = set(new["user_id"])
        runs = {"retrained": folder / "all", "updated": out / "updated", "let in, without training": out / "let in"}
        found = {name: judged(run, touched) for name, run in runs.items()}
        facts = json.loads((out / "updated" / refresh.FACTS).read_text(encoding="utf-8"))
        done = {"retraining": epochs(folder / "all"), "update": epochs(out / "updated")}
    again, update = seconds["retraining"], seconds["update"]
    kept = found["updated"]["all"] / found["retrained"]["all"]
    bounds = (None, None) if asked.quick else (10.0, 0.98)
    claims = [
        Claim("retraining over update, whole", again["whole"] / update["whole"], "times", bounds[0], at_most=False),
        Claim("retraining over update, training part", again["training"] / update["training"], "times"),
        Claim("NDCG@10 of the updated run over the retrained one", kept, "", bounds[1], at_most=False),
        Claim("update, whole", update["whole"], "s"),
        Claim("update, training part", update["training"], "s"),
        Claim("retraining, whole", again["whole"], "s"),
        Claim("retraining, training part", again["training"], "s"),
        Claim("NDCG@10, updated", found["updated"]["all"], ""),
        Claim("NDCG@10, retrained", found["retrained"]["all"], ""),
    ]
    measure.table("NDCG@10 on test", [{"run": name, **figures} for name, figures in found.items()])
    asked_for = {"new": facts["new"], "config": facts["config"], "seconds": seconds, "epochs": done, "ndcg@10": found}
    measure.finish("update", claims, asked_for, quick=asked.quick)


if __name__ == "__main__":
    try:
        main()
    except LongtailError as error:
        sys.exit(str(error))
