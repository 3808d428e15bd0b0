"""Evaluated runs as their folders hold them, by case, and whether their figures may stand in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import polars as pl

from longtail.config import Value, build
from longtail.data.groups import BoolArray, GroupsConfig, groups, members
from longtail.data.histories import Histories
from longtail.data.split import Split
from longtail.errors import RunError, some
from longtail.evaluation.stored import read_facts
from longtail.files import read_json, read_parquet, read_safetensors

Table = Mapping[str, Value]
SHOWN = {"ks", "lists"}  # settings of a protocol that change what is shown of the ranks, not the ranks
CANDIDATES = {"sampled", "popular", "candidates_file", "seed"}  # and those that change no full ranking


class Run(NamedTuple):
    """One run folder. config: of config.json; settings: of run.json, empty for a model saved by hand.

    ranks: user, target and a column a protocol, of one split, users ascending. figures: what metrics.json says of it:
    protocol, group and metric to n and value. terms: how they came to be, field by field, if it keeps that.
    """

    folder: Path
    seed: int
    config: Table
    settings: Table
    data: Table
    ranks: pl.DataFrame
    figures: dict[tuple[str, str, str], tuple[int, float | None]]
    terms: Table


def find_cases(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """Case names to run folders. An argument is a run folder, a folder of run folders, or NAME=FOLDER.

    Without NAME a case is called as its folders are, less the seed: plain-42 and plain-43 are two seeds of plain.
    """
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        name, given, rest = argument.partition("=")
        labelled = bool(given) and not Path(argument).exists()
        folder = Path(rest if labelled else argument)
        below = (
            [] if (folder / "config.json").exists() else sorted(path.parent for path in folder.glob("*/config.json"))
        )
        for run in below or [folder]:
            seed = read_facts(run)["config"].get("seed")
            found.setdefault(name if labelled else run.resolve().name.removesuffix(f"-{seed}"), []).append(run)
    return found


def read_run(folder: Path, split: str = "test") -> Run:
    """What a run folder holds of its evaluation on 'test' or 'valid'; a RunError if it has not been evaluated there."""
    facts = read_facts(folder)
    again = f"run 'longtail evaluate {folder} --split {split}'"
    if not (folder / "metrics.json").exists() or not (folder / "ranks.parquet").exists():
        raise RunError(f"{folder} has not been evaluated; {again}")
    stored = read_json(folder / "metrics.json")
    if not isinstance(stored, dict) or "figures" not in stored:
        raise RunError(f"{folder / 'metrics.json'} is corrupt; delete it and {again}")
    rows = [row for row in stored["figures"] if row["split"] == split]
    ranks = read_parquet(folder / "ranks.parquet").filter(pl.col("split") == split).drop("split").sort("user")
    if not rows or ranks.is_empty():
        raise RunError(f"{folder} has not been evaluated on {split!r}; {again}")
    settings = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    figures = {(row["protocol"], row["group"], row["metric"]): (row["n"], row["value"]) for row in rows}
    terms = stored.get("protocols", {}).get(split, {}).get("terms", {})
    seed, config = int(facts["config"]["seed"]), facts["config"]
    return Run(folder, seed, config, cast("Table", settings), facts["data"], ranks, figures, terms)


def read_cases(folders: Mapping[str, Sequence[Path]], split: str = "test") -> dict[str, list[Run]]:
    """The runs of each case by seed; a RunError if those of a case differ in more than that."""
    found = {name: sorted((read_run(one, split) for one in those), key=_seed) for name, those in folders.items()}
    for name, runs in found.items():
        for before, run in pairwise(runs):
            if before.seed == run.seed:
                raise RunError(
                    f"case {name!r} has seed {run.seed} twice, in {before.folder} and {run.folder}; "
                    "leave one out, or name them apart with NAME=FOLDER"
                )
            if difference := differing(_trained(before), _trained(run)):
                raise RunError(
                    f"{before.folder} and {run.folder} are no seeds of one case {name!r}: {difference}; "
                    "name them apart with NAME=FOLDER"
                )
    return found


def check_comparable(runs: Sequence[Run], protocol: str) -> None:
    """A RunError naming the first difference between how the runs were evaluated.

    What is compared is what the folders tell: data, split, the protocol and groups, and each user's target. What only
    changes figures of other protocols, or how many figures there are, may differ.
    """
    first = runs[0]
    for run in runs:
        if protocol not in run.ranks.columns:
            kinds = some(column for column in run.ranks.columns if column not in {"user", "target"})
            raise RunError(f"{run.folder} has no ranks under {protocol!r}; it has {kinds}; evaluate again with it")
        pair = f"{first.folder} and {run.folder} cannot be compared"
        for kind in ("hash", "split"):
            if first.data.get(kind) != run.data.get(kind):
                names = f"{first.data.get(kind)} or {run.data.get(kind)}"
                raise RunError(f"{pair}: other data ({kind} {names}); fit both on the same data and split")
        kept = bool(first.terms and run.terms)
        if difference := differing(_terms(first, protocol, kept), _terms(run, protocol, kept)):
            raise RunError(f"{pair}: {difference}; evaluate both alike")
        if difference := _other_targets(first, run):
            raise RunError(f"{pair}: {difference}; evaluate both again, on the same data and protocol")


def differing(mine: Table, yours: Table, before: str = "") -> str | None:
    """The first setting that both have with different values; None if there is none.

    >>> differing({"seed": 1, "train": {"lr": 0.1}}, {"train": {"lr": 0.2}})
    'train.lr is 0.1 or 0.2'
    """
    for key in (key for key in mine if key in yours):
        one, other = mine[key], yours[key]
        if isinstance(one, dict) and isinstance(other, dict):
            if found := differing(one, other, f"{before}{key}."):
                return found
        elif one != other:
            return f"{before}{key} is {one!r} or {other!r}"
    return None


def run_members(run: Run) -> dict[str, BoolArray]:
    """Which rows of the run's ranks belong to each group, from its training histories and its configured groups."""
    arrays = read_safetensors(run.folder / "histories.safetensors")
    items, offsets, valid, test = (arrays[name].astype(np.int64) for name in ("items", "offsets", "valid", "test"))
    catalogue = read_parquet(run.folder / "items.parquet")
    by = build(GroupsConfig, _below(run.settings, "groups"), f"{run.folder / 'run.json'}: groups")
    split = Split(Histories(items, offsets), valid, test, catalogue.height)
    found = groups(split, by, catalogue.drop(catalogue.columns[0]))
    return members(found, run.ranks["user"].to_numpy(), run.ranks["target"].to_numpy())


def _trained(run: Run) -> Table:
    """Everything that shapes a run but its seed, and the device, which is not a choice of method."""
    train = {key: value for key, value in _below(run.config, "train").items() if key != "device"}
    rest = {key: value for key, value in run.config.items() if key not in {"seed", "train"}}
    return {**rest, "train": train, "text": _below(run.settings, "text"), "data": {"hash": run.data["hash"]}}


def _terms(run: Run, protocol: str, kept: bool) -> Table:
    """What figures of the protocol depend on: as kept with them, or else as the run is configured."""
    if kept:
        mine = {
            key: value for key, value in run.terms.items() if not key.startswith("candidates.") and key not in SHOWN
        }
        return {**mine, **{key: run.terms[key] for key in [f"candidates.{protocol}"] if key in run.terms}}
    aside = SHOWN | (CANDIDATES if protocol == "full" else set())
    config = {key: value for key, value in _below(run.settings, "protocol").items() if key not in aside}
    return {"protocol": config, "groups": _below(run.settings, "groups")}


def _below(table: Table, key: str) -> dict[str, Value]:
    found = table.get(key)
    return found if isinstance(found, dict) else {}


def _seed(run: Run) -> int:
    return run.seed


def _other_targets(first: Run, run: Run) -> str | None:
    """The first user that only one of the runs evaluated, or whose targets differ, by external id."""
    mine, yours = (one.ranks["user"].to_numpy() for one in (first, run))
    alone = np.setxor1d(mine, yours)
    if len(alone):
        where = first if alone[0] in mine else run
        return f"user {_external(where, 'users', int(alone[0]))} was evaluated in {where.folder} alone"
    targets = [one.ranks["target"].to_numpy() for one in (first, run)]
    other = np.flatnonzero(targets[0] != targets[1])
    if not len(other):
        return None
    at = other[0]
    goals = " or ".join(_external(one, "items", int(goal[at])) for one, goal in zip((first, run), targets, strict=True))
    return f"the target of user {_external(first, 'users', int(mine[at]))} is {goals}"


def _external(run: Run, table: str, internal: int) -> str:
    """The id a user or item has outside, from the first column of its table."""
    return repr(read_parquet(run.folder / f"{table}.parquet").to_series(0)[internal - 1])
