"""What run folders say of themselves: settings, figures, ranks and logs, read without the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import polars as pl

from longtail.config import Value, flat
from longtail.errors import RunError
from longtail.evaluation.fingerprint import stored_rows
from longtail.files import read_json, read_parquet

DIAL_FILE = "dial.json"  # of a run folder, written by `longtail dial`
SPLITS = ("test", "valid")  # in the order of interest
ESTIMATORS = {"unbiased": "at an unbiased estimate of the rank", "balanced": "bias and variance balanced"}
ASIDE = ("seed", "data.", "train.device")  # settings in which the runs of one case may differ


class Stored(NamedTuple):
    """One run folder.

    settings: "train.lr" to its value, as resolved. data, versions: of config.json. figures: rows of metrics.json.
    log: a row an epoch, empty where there was no training by epochs. judged: a row a split, for `same_protocol`.
    dial: what `longtail dial` found, a row a value, empty where it was not called.
    """

    folder: Path
    seed: int
    settings: dict[str, Value]
    data: dict[str, str]
    versions: dict[str, str]
    threads: int
    figures: pl.DataFrame
    ranks: pl.DataFrame
    log: pl.DataFrame
    judged: list[dict[str, object]]
    dial: pl.DataFrame


class Case(NamedTuple):
    """Runs that differ in the seed alone, under the name of their folders."""

    name: str
    runs: list[Stored]


def read_facts(folder: Path) -> dict[str, Any]:
    """config.json of a run folder; runs of before there were other splits are by leave-one-out."""
    facts = read_json(folder / "config.json")
    if not isinstance(facts, dict) or not {"config", "data", "versions"} <= facts.keys():
        raise RunError(f"{folder / 'config.json'} is not a run's; fit again")
    return {**facts, "data": {"split": "leave_one_out", **facts["data"]}}


def read_stored(folder: Path) -> Stored:
    """A run folder that was evaluated; a RunError says what it lacks."""
    facts = read_facts(folder)
    if not (folder / "metrics.json").exists():
        raise RunError(f"{folder} has no figures yet; run 'longtail evaluate {folder}' first")
    figures = read_json(folder / "metrics.json")
    if not isinstance(figures, dict) or "figures" not in figures:
        raise RunError(f"{folder / 'metrics.json'} is corrupt; delete it and evaluate again")
    settings = read_json(folder / "run.json") if (folder / "run.json").exists() else facts["config"]
    rows = pl.DataFrame(figures["figures"], infer_schema_length=None)
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return Stored(
        folder,
        int(facts["config"]["seed"]),
        flat(cast("dict[str, Value]", settings)),
        facts["data"],
        facts["versions"],
        int(facts.get("threads", 0)),
        rows,
        read_parquet(folder / "ranks.parquet"),
        pl.DataFrame([json.loads(line) for line in lines], infer_schema_length=None),
        stored_rows(str(folder), figures),
        pl.read_json(folder / DIAL_FILE) if (folder / DIAL_FILE).exists() else pl.DataFrame(),
    )


def cases(runs: Iterable[Stored]) -> list[Case]:
    """The runs by case, in the order given. Folders are named CASE-SEED, or else each as it is."""
    grouped: dict[str, list[Stored]] = {}
    for run in runs:
        mine = {key: value for key, value in run.settings.items() if not key.startswith(ASIDE)}
        grouped.setdefault(json.dumps([run.data["hash"], mine], sort_keys=True), []).append(run)
    names = [_name(alike[0]) for alike in grouped.values()]
    longer = [
        f"{alike[0].folder.resolve().parent.name}/{name}" for alike, name in zip(grouped.values(), names, strict=True)
    ]
    told = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    told = [name if told.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(told, start=1)]
    return [Case(name, alike) for name, alike in zip(told, grouped.values(), strict=True)]


def _name(run: Stored) -> str:
    return run.folder.resolve().name.removesuffix(f"-{run.seed}")


def differing(found: Sequence[Case]) -> dict[str, list[str]]:
    """Settings in which cases differ: name to one text a case; "-" where a case has no such setting."""
    keys = dict.fromkeys(key for case in found for key in case.runs[0].settings)
    texts = {key: [told(case.runs[0].settings.get(key)) for case in found] for key in keys if not key.startswith(ASIDE)}
    return {key: values for key, values in texts.items() if len(set(values)) > 1}


def told(value: Value) -> str:
    """A setting's value for people.

    >>> told("bce"), told(None), told([5, 10]), told(True)
    ('bce', '-', '[5, 10]', 'true')
    """
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def spread(found: Sequence[Case]) -> pl.DataFrame:
    """Mean and deviation over seeds: case, split, protocol, group, metric, n, seeds, mean, sd (null for one seed).

    A seed evaluated twice counts once.
    """
    by = ["case", "split", "protocol", "group", "metric"]
    rows = pl.concat(
        [
            run.figures.select("split", "protocol", "group", "metric", "n", "value").with_columns(
                case=pl.lit(case.name), seed=pl.lit(run.seed)
            )
            for case in found
            for run in case.runs
        ],
        how="vertical_relaxed",
    ).unique([*by, "seed"], keep="last", maintain_order=True)
    return rows.group_by(by, maintain_order=True).agg(
        pl.col("n").first(),
        pl.col("seed").n_unique().alias("seeds"),
        pl.col("value").mean().alias("mean"),
        pl.col("value").std(ddof=1).alias("sd"),
    )


def how(protocol: str) -> str:
    """What a protocol ranks the target among.

    >>> how("full"), how("sampled100")
    ('full ranking, history removed', '100 sampled candidates')
    >>> how("popular50"), how("file")
    ('50 candidates sampled by popularity', 'candidates of a file')
    >>> how("sampled100-balanced")
    'full ranking, estimated from 100 sampled candidates (bias and variance balanced)'
    """
    if protocol == "full":
        return "full ranking, history removed"
    drawn, _, estimator = protocol.partition("-")
    if estimator:
        return f"full ranking, estimated from {how(drawn)} ({ESTIMATORS[estimator]})"
    for kind, words in (("sampled", "sampled candidates"), ("popular", "candidates sampled by popularity")):
        if drawn.startswith(kind):
            return f"{drawn.removeprefix(kind)} {words}"
    return "candidates of a file"


class Swept(NamedTuple):
    """A setting that has a number in several cases, which are alike in all else."""

    setting: str
    cases: list[Case]
    values: list[float]


def sweeps(found: Sequence[Case], least: int = 3) -> list[Swept]:
    """Every setting of which at least `least` cases differ in nothing else, its values ascending."""
    made = []
    for key in differing(found):
        alike: dict[str, list[tuple[float, Case]]] = {}
        for case in found:
            value = case.runs[0].settings.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                rest = {name: told(one) for name, one in case.runs[0].settings.items() if name != key}
                others = {name: one for name, one in rest.items() if not name.startswith(ASIDE)}
                alike.setdefault(json.dumps(others, sort_keys=True), []).append((float(value), case))
        for pairs in alike.values():
            if len(pairs) >= least:
                pairs.sort(key=lambda pair: pair[0])
                made.append(Swept(key, [case for _, case in pairs], [value for value, _ in pairs]))
    return made
