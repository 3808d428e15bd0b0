"""A search for settings: trials drawn from the ranges of [search], judged by validation NDCG@10 and never by test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from longtail.cases import as_table, beside, read_cases
from longtail.children import OUTPUT, Child, in_parallel, threads_of, training
from longtail.config import Value, build
from longtail.errors import ConfigError, RunError
from longtail.experiment import epochs_of, jobs_for
from longtail.files import atomic, locked, read_json, write_json
from longtail.pipeline import RunConfig, resolve
from longtail.trials import Range, Scalar, Trial, draw
from longtail.watch import Training, Watch, curve

Hopeless = Callable[[Trial, Sequence[float]], int]
"""The epoch after which a trial with that curve is behind the median of the others, or 0 if it is not."""
Judge = Callable[[Sequence[Trial], Hopeless], list[Trial]]
"""Runs trials and gives them back with state and curve: training does, and a test may put any function in its place."""


def search(
    path: Path,
    out: Path,
    trials: int,
    console: Console,
    *,
    jobs: int | None = None,
    settings: Sequence[str] = (),
    case: str | None = None,
    judge: Judge | None = None,
) -> list[Trial]:
    """Run trials until there are so many, `jobs` at a time, and write trials.json, trials.md and best.toml.

    A draw follows from the config's seed and from the trials before it, of which those that run together are none: it
    can be stopped at any time, and goes on as it would have gone.
    """
    cases = read_cases(path)
    base = resolve(cases, path, settings, case)
    jobs = jobs or jobs_for([base])
    facts = {"settings": base.model_dump(mode="json"), "search": cases.search}
    ranges = _ranges(path, cases.search)
    for at in (0, -1):  # a value that a setting cannot take is told now, not after the first trials
        resolve(cases, path, [*settings, *_settings({key: one.ends()[at] for key, one in ranges.items()})], case)
    with locked(out / "lock"):
        known = _read(out / "trials.json", facts)
        ended = [trial for trial in known if trial.state != "begun"]
        begun = [trial for trial in known if trial.state == "begun"]
        with Watch(console, max(trials - len(ended), len(begun))) as watch:
            chosen = [*(["--case", case] if case else []), *(word for one in settings for word in ("--set", one))]
            judge = judge or partial(_fitted, [str(path), *chosen], out, epochs_of(base), jobs, watch)
            while begun or len(ended) < trials:
                asked, pruner = draw(ranges, base.seed, ended, begun, min(jobs, trials - len(ended)))
                begun = []
                _write(out, facts, [*ended, *asked])
                ended += judge(asked, pruner)
                _write(out, facts, ended)
    return _conclude(out, ended, lambda found: resolve(cases, path, [*settings, *_settings(found.params)], case))


def markdown(trials: Sequence[Trial]) -> str:
    """The trials as a table, best first, those that did not end last."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    lines = [f"| trial | NDCG@10 (valid) | epochs | state | {' | '.join(keys)} |", "|" + " --- |" * (len(keys) + 4)]
    for trial in sorted(trials, key=lambda one: (one.state != "complete", -one.value, one.number)):
        values = [_short(trial.params[key]) for key in keys]
        figures = [trial.name, f"{trial.value:.4f}" if trial.curve else "-", str(len(trial.curve)), trial.state]
        lines.append(f"| {' | '.join([*figures, *values])} |")
    return "\n".join(lines) + "\n"


def _fitted(
    arguments: Sequence[str],
    out: Path,
    epochs: int,
    jobs: int,
    watch: Watch,
    asked: Sequence[Trial],
    hopeless: Hopeless,
) -> list[Trial]:
    """Train a run folder a trial, and leave off where it is hopeless. Nothing is evaluated on test."""
    ended: dict[int, Trial] = {}

    def start(trial: Trial) -> Child:
        given = [word for one in _settings(trial.params) for word in ("--set", one)]
        return training(out / trial.name, [*arguments, *given], threads_of(jobs))

    def look(running: list[tuple[Trial, Child]]) -> None:
        watch.show([Training(trial.name, out / trial.name, epochs) for trial, _ in running])
        for trial, child in running:
            if hopeless(trial, curve(out / trial.name)):
                child.stop()

    def end(trial: Trial, problem: str) -> None:
        found = curve(out / trial.name)
        if last := hopeless(trial, found):
            ended[trial.number] = trial._replace(state="pruned", curve=tuple(found[:last]))
        else:
            ended[trial.number] = trial._replace(state="failed" if problem else "complete", curve=tuple(found))
        bad = ended[trial.number].state == "failed"
        watch.ended(trial.name, f"see {out / trial.name / OUTPUT}" if bad else "")

    in_parallel(asked, jobs, start, end, look)
    return [ended[trial.number] for trial in asked]


def _conclude(out: Path, ended: list[Trial], config: Callable[[Trial], RunConfig]) -> list[Trial]:
    """Write the table, and the config of the best trial; a RunError if there is none."""
    with atomic(out / "trials.md") as temporary:
        temporary.write_text(markdown(ended), encoding="utf-8")
    whole = [trial for trial in ended if trial.state == "complete"]
    if not whole:
        raise RunError(f"no trial was completed; read {out / ended[0].name / OUTPUT}")
    best = max(whole, key=lambda trial: (trial.value, -trial.number))
    text = f"# {best.name} of {out.name}: validation NDCG@10 {best.value:.4f}, the best of {len(ended)} trials.\n"
    values = beside(Path.cwd(), config(best).model_dump(mode="json", exclude_none=True))
    with atomic(out / "best.toml") as temporary:
        temporary.write_text(text + toml(values), encoding="utf-8")
    return ended


def _ranges(path: Path, given: Mapping[str, Value]) -> dict[str, Range]:
    if not given:
        raise ConfigError(
            f'{path} has no [search] table; give it ranges, e.g. "train.lr" = {{ low = 1e-4, high = 1e-2, log = true }}'
        )
    return {key: build(Range, as_table(value), f'{path}, search."{key}"') for key, value in given.items()}


def _read(path: Path, facts: Mapping[str, Value]) -> list[Trial]:
    """The trials of an earlier, or killed, search in the same folder; a RunError if it was another search."""
    if not path.exists():
        return []
    stored = read_json(path)
    if not isinstance(stored, dict) or {"settings": stored["settings"], "search": stored["search"]} != facts:
        raise RunError(
            f"{path} is of a search with other settings or ranges; choose another --out, or delete the folder"
        )
    return [Trial(one["number"], one["params"], one["state"], tuple(one["curve"])) for one in stored["trials"]]


def _write(out: Path, facts: Mapping[str, Value], trials: Sequence[Trial]) -> None:
    write_json(out / "trials.json", {"format": 1, **facts, "trials": [trial._asdict() for trial in trials]})


def _settings(values: Mapping[str, Value] | Mapping[str, Scalar], equals: str = "=") -> list[str]:
    return [f"{key}{equals}{json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def _short(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def toml(values: Mapping[str, Value], above: str = "") -> str:
    """Settings as TOML: plain values first, then a table each.

    >>> print(toml({"seed": 1, "train": {"lr": 5e-05, "loss": "bce"}}))
    seed = 1
    <BLANKLINE>
    [train]
    lr = 5e-05
    loss = "bce"
    """
    plain = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in values.items()
        if not isinstance(value, dict)
    ]
    tables = [toml(value, f"{above}{key}.") for key, value in values.items() if isinstance(value, dict)]
    head = [f"[{above[:-1]}]"] if above else []
    return "\n".join(["\n".join([*head, *plain]) + "\n", *tables])
