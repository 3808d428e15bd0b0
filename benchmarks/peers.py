"""Plain SASRec in longtail beside RecTools' and RecBole's on Amazon Beauty 2014: seconds an epoch and NDCG@10.

Each system trains in its own process and interpreter, one after the other (in turn with longtail where it has all
seeds), on the same interactions, with the same width, length, layers, dropout, learning rate, epochs and threads, and
hands in ten items a user, which one piece of code ranks. `benchmarks/peers/README.md` tells how to install the peers
and in what they differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

import measure
from longtail.evaluation.metrics import ndcg
from measure import Claim

RUNNERS = Path(__file__).resolve().parent / "peers"
BEAUTY = measure.SHARED / "amazon_beauty_2014" / "interactions.parquet"
SHARED = {"lr": 1e-3, "d": 64, "max_len": 50, "blocks": 2, "heads": 1, "dropout": 0.2, "threads": 2}
BATCH = 128
SEEDS = (42, 43, 44)
PEERS = ("rectools", "recbole")
PARTS = ("train", "valid", "test")


class Case(NamedTuple):
    """A peer's training, and how many times as long as longtail's its epoch is claimed to take.

    rows: longtail's, users or prefixes; seeds: the peer's, where longtail has all.
    """

    peer: str
    loss: str
    epochs: int
    times: float
    rows: str = "users"
    seeds: tuple[int, ...] = SEEDS[:1]


CASES = (
    Case("rectools", "softmax", epochs=2, times=10),
    Case("rectools", "bce", epochs=5, times=5, seeds=SEEDS),
    Case("recbole", "softmax", epochs=2, times=5),
)
PREFIXES = (Case("recbole", "softmax", epochs=5, times=5, rows="prefixes", seeds=SEEDS),)
QUICK_USERS = 6000
QUICK = (Case("rectools", "bce", epochs=1, times=5),)


class Outcome(NamedTuple):
    """What one training gave. valid, test: (U,) NDCG@10 of each user, in the order of their ids."""

    system: str
    loss: str
    seed: int
    batch_size: int
    epoch_seconds: list[float]
    wall_seconds: float
    valid: npt.NDArray[np.float64]
    test: npt.NDArray[np.float64]
    versions: dict[str, str]
    settings: dict[str, object]

    def row(self) -> dict[str, object]:
        """As it stands in the table and in the results."""
        return {
            "system": self.system,
            "loss": self.loss,
            "epochs": len(self.epoch_seconds),
            "seed": self.seed,
            "seconds_an_epoch": median(self.epoch_seconds),
            "valid_ndcg@10": float(self.valid.mean()),
            "test_ndcg@10": float(self.test.mean()),
        }

    def rest(self) -> dict[str, object]:
        """What the results tell beyond the table."""
        names = ("batch_size", "epoch_seconds", "wall_seconds", "versions", "settings")
        return {name: getattr(self, name) for name in names}


def prepare(users: int | None) -> pl.DataFrame:
    """user, item (from 1), timestamp, part (0 train, 1 the last but one, 2 the last), of all or some random users."""
    if not BEAUTY.exists():
        raise SystemExit("Amazon Beauty 2014 (shared/data/amazon_beauty_2014) does not lie beside the project")
    rows = pl.read_parquet(BEAUTY)
    if users is not None:
        some = rows["user_id"].unique().sort().sample(users, seed=0)
        rows = rows.filter(pl.col("user_id").is_in(some.implode()))
    ids = [pl.col(f"{noun}_id").rank("dense").cast(pl.Int64).alias(noun) for noun in ("user", "item")]
    rows = rows.select(*ids, "timestamp").sort("user", "timestamp")
    left = pl.int_range(pl.len(), 0, -1).over("user")
    part = pl.when(left > 2).then(0).otherwise(3 - left)
    return rows.with_columns(part.cast(pl.Int64).alias("part"))


def run(system: str, python: str, case: Case, batch_size: int, seed: int, interactions: pl.DataFrame) -> Outcome:
    """Train `system` in a fresh process of the interpreter `python` and rank what it hands in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        interactions.write_parquet(folder / "interactions.parquet")
        paths = {"folder": name, "interactions": str(folder / "interactions.parquet")}
        asked = {"loss": case.loss, "epochs": case.epochs, "batch_size": batch_size, "rows": case.rows, "seed": seed}
        task = {**paths, **asked, **SHARED}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        threads = str(SHARED["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
        started = time.perf_counter()
        command = [python, str(RUNNERS / f"run_{system}.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{system} failed:\n{done.stderr[-2000:]}")
        wall = time.perf_counter() - started
        measure.console.print(f"{system}, {case.loss}, seed {seed}: trained and recommended in {wall:,.0f} s")
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        valid, test = (gains(pl.read_parquet(folder / f"{part}.parquet"), interactions, part) for part in PARTS[1:])
    times = answer["epoch_seconds"]
    return Outcome(
        system, case.loss, seed, batch_size, times, wall, valid, test, answer["versions"], answer["settings"]
    )


def gains(best: pl.DataFrame, interactions: pl.DataFrame, part: str) -> npt.NDArray[np.float64]:
    """(U,) NDCG@10 of each user's target of `part`, 0 where it was not among the items handed in."""
    at = PARTS.index(part)
    best = best.select(pl.col("user", "rank", "item").cast(pl.Int64))
    seen = best.join(interactions.filter(pl.col("part") < at), on=["user", "item"], how="semi")
    assert seen.is_empty() and best.select("user", "item").is_unique().all() and best["rank"].is_between(1, 10).all()
    targets = interactions.filter(pl.col("part") == at).sort("user")
    ranks = targets.join(best, on=["user", "item"], how="left", maintain_order="left")["rank"]
    return ndcg(ranks.fill_null(11).to_numpy() - 1, 10)


def compare(
    case: Case, theirs: Sequence[Outcome], ours: Sequence[Outcome], quick: bool
) -> tuple[list[Claim], dict[str, object]]:
    """The claims of one case, and the spread of its difference in NDCG@10 over users and over seeds."""
    valid, test = (
        np.mean([getattr(run, part) for run in ours], axis=0) - np.mean([getattr(run, part) for run in theirs], axis=0)
        for part in PARTS[1:]
    )  # (U,)
    what = f"{case.peer} SASRec, {case.loss}"
    ratio = times_as_long(theirs, ours)
    claims = [Claim(f"{what}: seconds an epoch over longtail's", ratio, "times", case.times, at_most=False)]
    claims += [
        Claim(
            f"longtail's valid NDCG@10 less that of {what}, {case.epochs} epochs",
            float(valid.mean()),
            "NDCG@10",
            None if quick else 0.0,  # a quick run trains too little for a comparison
            at_most=False,
        ),
    ]
    claims.append(Claim(f"the same on test, {case.epochs} epochs", float(test.mean()), "NDCG@10"))
    told: dict[str, object] = {"case": case._asdict()}
    for part, difference in (("valid", valid), ("test", test)):
        told[f"{part}_difference_standard_error"] = float(difference.std(ddof=1) / len(difference) ** 0.5)
        for whose, runs in (("longtail", ours), (case.peer, theirs)):
            told[f"{whose}_{part}_by_seed"] = [float(getattr(run, part).mean()) for run in runs]
    return claims, told


def times_as_long(theirs: Sequence[Outcome], ours: Sequence[Outcome]) -> float:
    """Seconds an epoch over longtail's: the median of pairs that ran in turn; of all epochs where only ours has seeds.

    A machine that is slower now than then is so for both of a pair.
    """
    if [run.seed for run in theirs] != [run.seed for run in ours]:
        theirs, ours = (  # one pair: of all epochs
            [runs[0]._replace(epoch_seconds=[one for run in runs for one in run.epoch_seconds])]
            for runs in (theirs, ours)
        )
    pairs = zip(theirs, ours, strict=True)
    return median(median(their.epoch_seconds) / median(our.epoch_seconds) for their, our in pairs)


def rows_a_step(system: str, interactions: pl.DataFrame) -> int:
    """BATCH users, or for RecBole, whose row is one target, as many targets as BATCH users have on average."""
    train = interactions.filter(pl.col("part") == 0)
    users = train["user"].n_unique()
    return round(BATCH * (train.height - users) / users) if system == "recbole" else BATCH


def longtail(case: Case, interactions: pl.DataFrame, seed: int) -> Outcome:
    """longtail's run of the loss and the epochs of a case."""
    return run("longtail", sys.executable, case, BATCH, seed, interactions)


def alone(case: Case, ours: Sequence[Outcome]) -> Claim:
    """longtail's figure, with no peer to compare it with."""
    seconds = median([one for outcome in ours for one in outcome.epoch_seconds])
    return Claim(f"longtail SASRec, {case.loss}: an epoch", seconds, "s")


def main() -> None:
    arguments = measure.parser(__doc__)
    for peer in PEERS:
        arguments.add_argument(f"--{peer}", metavar="PYTHON", help=f"interpreter of a venv that has {peer}")
    arguments.add_argument("--prefixes", action="store_true", help="RecBole's rows for longtail too, and more epochs")
    options = arguments.parse_args()
    possible = QUICK if options.quick else PREFIXES if options.prefixes else CASES
    for peer in PEERS:
        if not getattr(options, peer):
            measure.console.print(f"no --{peer} PYTHON: {peer} is left out; benchmarks/peers/README.md installs it")
    cases = [case for case in possible if getattr(options, case.peer)]
    interactions = prepare(QUICK_USERS if options.quick else None)
    ours: dict[tuple[str, int, str], list[Outcome]] = {}
    claims, comparisons, peers = [], [], []
    for case in cases or possible[:1]:
        training, theirs = (case.loss, case.epochs, case.rows), list[Outcome]()
        python, rows = getattr(options, case.peer), rows_a_step(case.peer, interactions)
        for seed in SEEDS[:1] if options.quick else SEEDS:
            known = ours.setdefault(training, [])
            if seed not in [one.seed for one in known]:
                known.append(longtail(case, interactions, seed))
            if case in cases and seed in case.seeds:
                theirs.append(run(case.peer, python, case, rows, seed, interactions))
        if case not in cases:
            claims.append(alone(case, ours[training]))
            continue
        made, comparison = compare(case, theirs, ours[training], options.quick)
        claims, comparisons, peers = [*claims, *made], [*comparisons, comparison], [*peers, *theirs]
    runs = [outcome for same in ours.values() for outcome in same] + peers
    measure.table("SASRec, each training in its own process", [outcome.row() for outcome in runs])
    details = {
        "data": {"name": BEAUTY.parent.name, **{noun: interactions[noun].n_unique() for noun in ("user", "item")}},
        "interactions": interactions.height,
        "shared_settings": SHARED,
        "comparisons": comparisons,
        "runs": [{**outcome.row(), **outcome.rest()} for outcome in runs],
    }
    if partial := len(cases) < len(possible) and not options.quick:
        measure.console.print("a run without all peers writes no results")
    given = [(f"--{peer}", "PYTHON") for peer in PEERS if getattr(options, peer)]
    told = [word for pair in given for word in pair]  # the results tell the command, not where the peers lie
    sys.argv[1:] = ["--prefixes"] * options.prefixes + told
    name = "peers_prefixes" if options.prefixes else "peers"
    measure.finish("peers", claims, details, quick=options.quick or partial, name=name)


if __name__ == "__main__":
    main()
