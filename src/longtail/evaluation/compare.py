"""From run folders to a comparison: means over seeds, intervals, tests against a baseline (docs/statistics.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data.groups import BoolArray
from longtail.errors import ConfigError, RunError
from longtail.evaluation import statistics
from longtail.evaluation.comparable import Run, check_comparable, read_cases, run_members
from longtail.evaluation.metrics import METRICS
from longtail.evaluation.statistics import Floats, Part
from longtail.registry import nearest

GROUPS = ("all", "tail_items", "head_items", "tail_users", "head_users")
NDCG = ("ndcg@10",)
LEVEL = 0.95
FAMILY = ("p_users", "p_wilcoxon", "p_seeds")  # each is corrected over all pairs, groups and metrics of the table

TEXT = ("case", "group", "metric", "protocol", "split", "baseline")
KINDS: dict[str, type[pl.DataType]] = {**dict.fromkeys(TEXT, pl.String), "seeds": pl.Int64, "n": pl.Int64}


class Row(NamedTuple):
    """One case, group and metric. Users' values are means over seeds; what cannot be told is nan, and null in a frame.

    seeds, n: how many seeds and users. low, high: 95% interval of the mean over users and seeds; with one seed, over
    users alone. baseline: the case that `difference`, with its interval, is to. p_users: paired t over users;
    p_wilcoxon: signed ranks over users; p_seeds: t over seeds, paired where both cases have the same seeds, else
    Welch's. d_z, rank_biserial: effect sizes over users.
    """

    case: str
    group: str
    metric: str
    protocol: str
    split: str
    seeds: int
    n: int
    mean: float
    sd: float
    low: float
    high: float
    baseline: str | None = None
    difference: float = np.nan
    difference_low: float = np.nan
    difference_high: float = np.nan
    p_users: float = np.nan
    p_wilcoxon: float = np.nan
    p_seeds: float = np.nan
    d_z: float = np.nan
    rank_biserial: float = np.nan


class Cell(NamedTuple):
    """One case in one group under one metric.

    values: (S, n) of each seed and user. means: (R,) the mean over both, users resampled, the same for all cells of a
    group.
    """

    case: str
    seeds: list[int]
    values: Floats
    means: Floats

    @property
    def mean(self) -> float:
        """Over seeds and users."""
        return float(self.values.mean())


def compare(
    cases: Mapping[str, Sequence[Path]],
    baseline: str | None = None,
    metrics: Sequence[str] = NDCG,
    protocol: str = "full",
    groups: Sequence[str] = GROUPS,
    split: str = "test",
    generator: np.random.Generator | None = None,
    draws: int = statistics.DRAWS,
) -> pl.DataFrame:
    """Every case against the baseline, or each against the best other case: a Row a group, metric and case.

    cases: names to the run folders of their seeds. Further columns: p_users_holm, p_wilcoxon_holm and p_seeds_holm,
    corrected over the whole table (a pair that stands in two rows counts once), and stars: '*' where the case is better
    than its baseline with p_users_holm < 0.05. Without `generator` the intervals are the same at each call.
    """
    runs = read_cases(cases, split)
    every = [run for those in runs.values() for run in those]
    if not every:
        raise RunError("no run folders were given; name one or more that 'longtail evaluate' has been run on")
    if baseline is not None and baseline not in runs:
        raise ConfigError(f"no case {baseline!r}{nearest(baseline, runs)}; the cases are: {', '.join(runs)}")
    check_comparable(every, protocol)
    inside = run_members(every[0])
    generator = generator or np.random.default_rng(0)
    rows = []
    for group in dict.fromkeys(groups):
        if group not in inside:
            raise ConfigError(f"no group {group!r}{nearest(group, inside)}; the groups are: {', '.join(inside)}")
        for metric in dict.fromkeys(metrics):
            cells = _cells(runs, (protocol, group, metric), inside[group], generator, draws)
            if cells:
                rows += _rows(cells, Row("", group, metric, protocol, split, 0, 0, 0, 0, 0, 0), baseline, generator)
    return _frame(rows)


def user_values(run: Run, key: tuple[str, str, str], inside: BoolArray) -> Floats:
    """(n,) one value a user of a group; key: protocol, group, metric. A RunError if metrics.json says otherwise."""
    protocol, group, metric = key
    name, _, k = metric.partition("@")
    if name not in METRICS or not k.isdecimal() or not int(k):
        raise ConfigError(
            f"no metric {metric!r}; write one of {', '.join(f'{one}@10' for one in METRICS)}, or another k"
        )
    values = METRICS[name](run.ranks[protocol].to_numpy()[inside], int(k))
    n, value = run.figures.get(key, (len(values), None))
    if n != len(values) or (value is not None and abs(value - values.mean()) > 1e-9):
        raise RunError(
            f"{run.folder}: metrics.json and ranks.parquet disagree on {metric} of {group}, {protocol}; run "
            "'longtail evaluate' again, with groups as the run is configured"
        )
    return values


def _cells(
    runs: Mapping[str, Sequence[Run]],
    key: tuple[str, str, str],
    inside: BoolArray,
    generator: np.random.Generator,
    draws: int,
) -> list[Cell]:
    """A cell a case; none for an empty group."""
    values = [np.stack([user_values(run, key, inside) for run in those]) for those in runs.values()]
    if not inside.any():
        return []
    each = np.stack([one.mean(axis=0) for one in values], axis=1)  # (n, cases)
    means = statistics.resampled_means(each, generator, draws)
    return [
        Cell(case, [run.seed for run in those], one, means[:, at])
        for at, ((case, those), one) in enumerate(zip(runs.items(), values, strict=True))
    ]


def _rows(cells: Sequence[Cell], blank: Row, baseline: str | None, generator: np.random.Generator) -> list[Row]:
    """A row a cell, against the baseline or the best other cell; nothing is tested for the baseline itself."""
    rows = []
    for cell in cells:
        S, n = cell.values.shape
        mean, sd, _ = statistics.spread(cell.values.mean(axis=1))
        interval = _interval(cell.values, cell.means, [cell.values], generator)
        row = blank._replace(case=cell.case, seeds=S, n=n, mean=mean, sd=sd, low=interval.low, high=interval.high)
        others = [one for one in cells if one is not cell and baseline in {None, one.case}]
        if others and cell.case != baseline:
            row = _tested(row, cell, max(others, key=lambda one: one.mean), generator)
        rows.append(row)
    return rows


def _tested(row: Row, cell: Cell, other: Cell, generator: np.random.Generator) -> Row:
    """The row with what follows from the differences between two cells."""
    paired = cell.seeds == other.seeds
    each = cell.values.mean(axis=0) - other.values.mean(axis=0)  # (n,)
    sources = [cell.values - other.values] if paired else [cell.values, -other.values]
    low, high = _interval(each[None], cell.means - other.means, sources, generator)
    return row._replace(
        baseline=other.case,
        difference=float(each.mean()),
        difference_low=low,
        difference_high=high,
        p_users=statistics.paired_t(each).p,
        p_wilcoxon=statistics.wilcoxon(each).p,
        p_seeds=_over_seeds(cell.values.mean(axis=1), other.values.mean(axis=1), paired),
        d_z=statistics.d_z(each),
        rank_biserial=statistics.rank_biserial(each),
    )


def _interval(
    values: Floats, means: Floats, sources: Sequence[Floats], generator: np.random.Generator
) -> statistics.Interval:
    """Of the mean of values (S, n); means: (R,) its users resampled; sources: (S, n) that have seeds of their own."""
    each = values.mean(axis=0)
    if len(each) < 2:
        return statistics.Interval(np.nan, np.nan)
    parts: list[Part] = [statistics.users_part(each, means)]
    if all(len(one) > 1 for one in sources):
        parts += [statistics.seeds_part(one, generator, len(means)) for one in sources]
    return statistics.combined(float(each.mean()), parts, LEVEL)


def _over_seeds(first: Floats, second: Floats, paired: bool) -> float:
    """p of a t-test over seeds; nan where seeds make no difference, as for a method without randomness."""
    differences = first - second if paired else np.concatenate([first - first.mean(), second - second.mean()])
    if not np.ptp(differences) and first.mean() != second.mean():
        return np.nan
    return (statistics.paired_t(differences) if paired else statistics.welch(first, second)).p


def _frame(rows: Sequence[Row]) -> pl.DataFrame:
    """The rows with corrected p-values and stars; a pair tested in both directions is one test of the family."""
    frame = pl.DataFrame(rows, schema={name: KINDS.get(name, pl.Float64) for name in Row._fields}, orient="row")
    pair = pl.concat_list(pl.col("case", "baseline")).list.sort()
    tests = frame.with_columns(pair=pair).with_row_index("test")
    once = tests.filter(pl.col("baseline").is_not_null()).unique(["pair", "group", "metric"], maintain_order=True)
    for name in FAMILY:
        adjusted = pl.Series(f"{name}_holm", statistics.holm(once[name].to_numpy().astype(np.float64)), pl.Float64)
        once = once.with_columns(adjusted)
    corrected = [f"{name}_holm" for name in FAMILY]
    keys = ["pair", "group", "metric"]
    joined = tests.join(once.select(*keys, *corrected), on=keys, how="left", maintain_order="left")
    marks = [
        statistics.stars(p) if p is not None and difference > 0 else ""
        for p, difference in joined.select("p_users_holm", "difference").iter_rows()
    ]
    numbers = pl.selectors.float()
    return joined.drop("test", "pair").with_columns(
        pl.when(numbers.is_finite()).then(numbers), pl.Series("stars", marks, pl.String)
    )
