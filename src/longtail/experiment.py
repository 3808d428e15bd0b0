"""An experiment: every case of a config file with every seed, each in a run folder, and one table of them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import polars as pl

from longtail.errors import RunError
from longtail.evaluation.fingerprint import same_protocol, stored_rows
from longtail.evaluation.tables import caution
from longtail.files import atomic, read_json
from longtail.pipeline import read_cases, run_config, run_settings

METRICS = ("hr@10", "ndcg@10")


class Cell(NamedTuple):
    """One case with one seed."""

    case: str
    seed: int
    folder: Path

    def done(self, plan: Path) -> bool:
        """Whether it has been trained and evaluated; a RunError if that was under other settings than the plan's."""
        if not (self.folder / "metrics.json").exists():
            return False
        wanted = run_config(plan, [f"seed={self.seed}"], self.case).model_dump(mode="json")
        if run_settings(self.folder) != wanted:
            raise RunError(f"{self.folder} was run with other settings than {plan} has now; delete it, or change --out")
        return True


def cells(path: Path, out: Path) -> list[Cell]:
    """All cells of the config file `path`, seeds outermost, so that an early stop leaves whole seeds."""
    plan = read_cases(path)
    if not plan.cases or not plan.seeds:
        raise RunError(f"{path} describes no experiment; give it seeds = [42, 43, 44] and [cases.NAME] tables")
    return [Cell(case, seed, out / f"{case}-{seed}") for seed in plan.seeds for case in plan.cases]


def execute(path: Path, out: Path, jobs: int, tell: Callable[[str], None]) -> pl.DataFrame:
    """Fit and evaluate what is missing, `jobs` cells at a time in processes of their own; the rows of all results.

    A cell that fails does not stop the others; a RunError names it, and its log, at the end.
    """
    plan = cells(path, out)
    missing = [cell for cell in plan if not cell.done(path)]
    tell(f"{len(plan) - len(missing)} of {len(plan)} cells are done; running {len(missing)} in {jobs} processes")
    threads = os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // jobs, 1)))
    with ThreadPoolExecutor(jobs) as pool:
        broken = list(pool.map(lambda cell: _run(path, cell, threads, tell), missing))
    failed = [cell for cell, bad in zip(missing, broken, strict=True) if bad]
    rows = collect([cell.folder for cell in plan if cell.done(path)])
    if failed:
        raise RunError(f"{len(failed)} cells failed; read {failed[0].folder / 'output.log'} and run again")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows.to_dicts())
    for name, text in (("results.json", f"[\n{lines}\n]\n"), ("results.md", markdown(rows))):
        with atomic(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return rows


def _run(path: Path, cell: Cell, threads: str, tell: Callable[[str], None]) -> bool:
    """Fit and evaluate one cell in a process of its own; whether it failed."""
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {cell.folder} ({error.strerror}); choose another --out") from None
    longtail, where = [sys.executable, "-m", "longtail"], str(cell.folder)
    fit = [*longtail, "fit", str(path), "--case", cell.case, "--set", f"seed={cell.seed}", "--out", where, "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    with (cell.folder / "output.log").open("ab") as log:
        for command in (fit, [*longtail, "evaluate", where]):
            if subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode:
                tell(f"{cell.case}, seed {cell.seed}: failed, see {cell.folder / 'output.log'}")
                return True
    tell(f"{cell.case}, seed {cell.seed}: done")
    return False


def collect(folders: Sequence[Path]) -> pl.DataFrame:
    """The figures of several run folders as one table: a row a figure, with the case beside the run's facts.

    Only METRICS; each folder's metrics.json has the others. A RunError if their protocols differ.
    """
    rows, judged = [], []
    for folder in folders:
        stored = read_json(folder / "metrics.json")
        assert isinstance(stored, dict)
        case = folder.name.rpartition("-")[0]
        rows += [{"case": case, **row} for row in stored["figures"] if row["metric"] in METRICS]
        judged += stored_rows(folder.name, stored)
    same_protocol(judged)
    return pl.DataFrame(rows, infer_schema_length=None)


def markdown(rows: pl.DataFrame) -> str:
    """Mean and deviation over seeds: a table a protocol, cases down, groups across, METRICS in a cell."""
    test = rows.filter(pl.col("split") == "test")
    parts = []
    for protocol in test["protocol"].unique(maintain_order=True):
        of = test.filter(pl.col("protocol") == protocol)
        groups = [group for group in of["group"].unique(maintain_order=True) if group.count("_") < 2]
        lines = [f"| case ({protocol}) | seeds | {' | '.join(group.replace('_', ' ') for group in groups)} |"]
        lines.append("|" + " --- |" * (len(groups) + 2))
        for case in of["case"].unique(maintain_order=True):
            one = of.filter(pl.col("case") == case)
            found = [" / ".join(_spread(one, group, metric) for metric in METRICS) for group in groups]
            lines.append(f"| {case} | {one['seed'].n_unique()} | {' | '.join(found)} |")
        parts.append("\n".join([*lines, "", caution(protocol) or ""]).rstrip())
    return "\n\n".join(parts) + "\n"


def _spread(rows: pl.DataFrame, group: str, metric: str) -> str:
    values = rows.filter((pl.col("group") == group) & (pl.col("metric") == metric))["value"].drop_nulls()
    if not len(values):
        return "-"
    numbers = values.to_numpy()
    mean = f"{numbers.mean():.4f}"
    return mean if len(numbers) == 1 else f"{mean} ±{numbers.std(ddof=1):.4f}"
