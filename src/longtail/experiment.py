"""An experiment: every case of a config file with every seed, each in a run folder, and one table of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl
from rich.console import Console

from longtail.cases import Cases, read_cases
from longtail.checkup import diagnose
from longtail.children import OUTPUT, Child, in_parallel, threads_of, training, usual_jobs
from longtail.config import build
from longtail.data.findings import Finding
from longtail.errors import RunError, some
from longtail.files import locked, read_json
from longtail.methods.base import TrainedMethod, methods
from longtail.model import TRAINING
from longtail.pipeline import RunConfig, resolve, run_settings
from longtail.reporting import write_page
from longtail.results import collect, write
from longtail.train.engine import pick_device
from longtail.watch import Training, Watch, log_rows

TOLD = {"train": {"track"}}  # who is told of a training changes no figure
State = Literal["done", "begun", "missing", "other", "same"]


class Cell(NamedTuple):
    """One case with one seed."""

    case: str
    seed: int
    folder: Path
    config: RunConfig
    settings: list[str]
    """What is laid over the case."""

    def state(self) -> State:
        """How far it is; "other" if it was trained and evaluated under other settings than the plan's."""
        if not self._tested():
            return "begun" if log_rows(self.folder) else "missing"
        stored = run_settings(self.folder)
        if not stored or _comparable(build(RunConfig, stored, str(self.folder))) != _comparable(self.config):
            return "other"
        return "done"

    def matches(self, pattern: str) -> bool:
        """Whether its case, or its folder's name, matches a pattern."""
        return fnmatchcase(self.case, pattern) or fnmatchcase(self.folder.name, pattern)

    def watched(self) -> Training:
        """What is watched of it."""
        return Training(self.folder.name, self.folder, epochs_of(self.config))

    def _tested(self) -> bool:
        if not (self.folder / "metrics.json").exists():
            return False
        stored = read_json(self.folder / "metrics.json")
        return isinstance(stored, dict) and any(row["split"] == "test" for row in stored.get("figures", []))


class Plan(NamedTuple):
    """The cells of a config file, and which cases have another's settings: those are not run twice."""

    cells: list[Cell]
    same: dict[str, str]


def plan(path: Path, out: Path, settings: Sequence[str] = ()) -> Plan:
    """All cells of the config file `path`, seeds outermost, so that an early stop leaves whole seeds.

    `settings` are laid over every case, a backbone's and a training's over those that are trained. Every case is
    checked before the first is trained.
    """
    cases = read_cases(path)
    if not cases.cases or not cases.seeds:
        raise RunError(
            f"{path} describes no experiment; give it seeds = [42, 43, 44] and [cases.NAME] tables, or a grid"
        )
    meant = {case: _meant_for(cases, path, settings, case) for case in cases.cases}
    if settings and all(len(kept) < len(settings) for kept in meant.values()):
        meant = {case: list(settings) for case in cases.cases}  # no case has such a setting, which is an error
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for case in cases.cases:
        found = first.setdefault(_comparable(resolve(cases, path, meant[case], case)), case)
        if found != case:
            same[case] = found
    cells = []
    for seed in dict.fromkeys(cases.seeds):
        for case in [case for case in cases.cases if case not in same]:
            given = [*meant[case], f"seed={seed}"]
            cells.append(Cell(case, seed, out / f"{case}-{seed}", resolve(cases, path, given, case), given))
    return Plan(cells, same)


def _meant_for(cases: Cases, path: Path, settings: Sequence[str], case: str) -> list[str]:
    """The settings without those of a backbone or a training if the case is not trained."""
    others = [one for one in settings if one.partition("=")[0].partition(".")[0] not in TRAINING]
    return list(settings) if resolve(cases, path, others, case).train else others


def picked(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose case, or folder, matches one of the patterns; all without any."""
    for pattern in patterns:
        if not any(cell.matches(pattern) for cell in cells):
            raise RunError(f"--cells {pattern!r} matches none of the cells {some(cell.folder.name for cell in cells)}")
    return [cell for cell in cells if not patterns or any(cell.matches(pattern) for pattern in patterns)]


def states(path: Path, out: Path, settings: Sequence[str] = (), patterns: Sequence[str] = ()) -> pl.DataFrame:
    """What `execute` would find: a row a cell, with its case, seed, folder and state."""
    made = plan(path, out, settings)
    rows: list[tuple[str, int | None, str, State]] = [
        (cell.case, cell.seed, str(cell.folder), cell.state()) for cell in picked(made.cells, patterns)
    ]
    rows += [(case, None, f"has the settings of {other}", "same") for case, other in made.same.items()]
    return pl.DataFrame(rows, schema=["case", "seed", "folder", "state"], orient="row")


def execute(
    path: Path,
    out: Path,
    console: Console,
    *,
    jobs: int | None = None,
    settings: Sequence[str] = (),
    patterns: Sequence[str] = (),
) -> pl.DataFrame:
    """Fit and evaluate what is missing, `jobs` cells at a time in processes of their own; the rows of all results.

    A cell that fails does not stop the others; a RunError names it, and its log, at the end. It can be killed at any
    time and run again: what is done is kept, what was begun goes on from its last checkpoint.
    """
    made = plan(path, out, settings)
    wanted = picked(made.cells, patterns)
    found = {cell.folder: cell.state() for cell in made.cells}
    for folder in [folder for folder, state in found.items() if state == "other"]:
        raise RunError(f"{folder} was run with other settings than {path} has now; delete it, or change --out")
    missing = [cell for cell in wanted if found[cell.folder] != "done"]
    jobs = jobs or jobs_for([cell.config for cell in missing])
    with locked(out / "lock"), Watch(console, len(missing)) as watch:
        for case, other in made.same.items():
            watch.tell(f"{case} has the settings of {other} and is not run again")
        done = len(wanted) - len(missing)
        watch.tell(f"{done} of {len(wanted)} cells are done; running {len(missing)} in {jobs} processes")
        threads = threads_of(jobs)
        in_parallel(
            missing,
            jobs,
            lambda cell: _start(path, cell, threads),
            lambda cell, problem: watch.ended(cell.folder.name, problem and f"see {cell.folder / OUTPUT}"),
            lambda running: watch.show([cell.watched() for cell, _ in running]),
        )
        done_cells = [cell for cell in made.cells if cell.state() == "done"]
        rows = _collected(done_cells)
        write(out, rows)
        if done_cells:
            watch.tell(f"writing {out / 'report.html'}")
            write_page([cell.folder for cell in done_cells], out / "report.html", findings=_findings(done_cells))
    if watch.failed:
        raise RunError(f"{len(watch.failed)} cells failed; read {out / watch.failed[0] / OUTPUT} and run again")
    return rows


def _collected(cells: Sequence[Cell]) -> pl.DataFrame:
    """The rows of the cells, whose protocols must agree where their data do."""
    folders: dict[str, list[Path]] = {}
    for cell in cells:
        folders.setdefault(cell.config.data.model_dump_json(), []).append(cell.folder)
    return pl.concat([collect(one) for one in folders.values()] or [collect([])], how="diagonal_relaxed")


def _findings(cells: Sequence[Cell]) -> list[Finding]:
    """What the doctor finds in each data set of the cells."""
    configs = {cell.config.data.model_dump_json(): cell.config for cell in cells}
    told = [(Path(config.data.interactions), diagnose(config)) for config in configs.values()]
    if len(told) == 1:
        return told[0][1]
    return [replace(one, topic=f"{path.parent.name}/{path.name}: {one.topic}") for path, found in told for one in found]


def _start(path: Path, cell: Cell, threads: int) -> Child:
    """The process that fits and evaluates a cell."""
    given = [word for setting in cell.settings for word in ("--set", setting)]
    return training(cell.folder, [str(path), "--case", cell.case, *given, "--evaluate"], threads)


def epochs_of(config: RunConfig) -> int:
    """Epochs at most, of all stages; one for what is not trained."""
    method = methods.get(config.method.name)[1]
    return config.train.epochs * method.stages if config.train and issubclass(method, TrainedMethod) else 1


def jobs_for(configs: Sequence[RunConfig]) -> int:
    """As many as cores and memory allow; one if they would share a GPU."""
    shared = any(config.train and pick_device(config.train.device).type != "cpu" for config in configs)
    return 1 if shared else usual_jobs()


def _comparable(config: RunConfig) -> str:
    return config.model_dump_json(exclude=TOLD)
