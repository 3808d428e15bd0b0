"""A report: one rank a user and what follows from it, by group, with the facts it came from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longtail.data.groups import Groups, GroupsConfig, groups, members
from longtail.data.split import Split
from longtail.errors import RunError
from longtail.evaluation.metrics import Figure, figures
from longtail.evaluation.protocol import ProtocolConfig, Scorer, rank_targets
from longtail.files import read_json, read_parquet, write_json, write_parquet

SHOWN = ("hr@10", "ndcg@10")
Fact = str | int | float


class Model(Protocol):
    """What can be evaluated: something that scores the catalogue, and says what it is."""

    def check(self, split: Split) -> None:
        """Raise a DataError if the split is of other data than the model's."""

    def scorer(self) -> Scorer:
        """Scores of users and their histories."""

    def facts(self) -> dict[str, Fact]:
        """Data, method, backbone, loss, seed, …: what a row of results needs to be understood."""


@dataclass(frozen=True, eq=False)
class Report:
    """ranks: user, target, full, sampled<N>, internal ids and ranks from 0. figures: by protocol, group and metric."""

    facts: dict[str, Fact]
    split: str
    ranks: pl.DataFrame
    groups: Groups
    figures: list[Figure]

    def value(self, metric: str, group: str = "all", protocol: str = "full") -> float | None:
        """One figure, e.g. value("ndcg@10", "tail_items"); None for an empty group, or where it was not computed."""
        wanted = (metric, group, protocol)
        found = [one.value for one in self.figures if (one.metric, one.group, one.protocol) == wanted]
        return found[0] if found else None

    def rows(self) -> list[dict[str, Fact | None]]:
        """Every figure as a row: the facts, protocol, split, group, metric, n, value."""
        return [
            {
                **self.facts,
                "protocol": figure.protocol,
                "split": self.split,
                "group": figure.group,
                "metric": figure.metric,
                "n": figure.n,
                "value": figure.value,
            }
            for figure in self.figures
        ]

    def save(self, folder: Path) -> None:
        """Write ranks.parquet and metrics.json into a run folder; the other split's figures stay.

        A report.html of earlier figures is removed; longtail.reporting writes it.
        """
        ranks, rows = self.ranks.with_columns(split=pl.lit(self.split)), self.rows()
        if (folder / "metrics.json").exists() and (folder / "ranks.parquet").exists():
            other = read_parquet(folder / "ranks.parquet").filter(pl.col("split") != self.split)
            ranks = pl.concat([other, ranks], how="diagonal")
            stored = read_json(folder / "metrics.json")
            if not isinstance(stored, dict) or "figures" not in stored:
                raise RunError(f"{folder / 'metrics.json'} is corrupt; delete it and evaluate again")
            rows = [row for row in stored["figures"] if row["split"] != self.split] + rows
        write_parquet(folder / "ranks.parquet", ranks)
        write_json(folder / "metrics.json", {"format": 1, "figures": rows})
        (folder / "report.html").unlink(missing_ok=True)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=140)
        for table in tables([self]):
            console.print(table)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def evaluate(
    model: Model,
    split: Split,
    *,
    name: str = "test",
    protocol: ProtocolConfig | None = None,
    by: GroupsConfig | None = None,
) -> Report:
    """Rank the held-out targets of `name` ('valid' or 'test') under the protocol and report by group.

    Groups come from training counts alone. Sampled figures are printed beside the full ranking, never instead of it.
    """
    config = protocol or ProtocolConfig()
    model.check(split)
    ranks = rank_targets(model.scorer(), split, name, config)
    found = groups(split, by)
    inside = members(found, ranks["user"].to_numpy(), ranks["target"].to_numpy())
    kinds = [column for column in ranks.columns if column not in {"user", "target"}]
    made = [figure for kind in kinds for figure in figures(kind, ranks[kind].to_numpy(), inside, config.ks)]
    return Report(model.facts(), name, ranks, found, made)


def tables(
    reports: Sequence[Report], metrics: Iterable[str] = SHOWN, labels: Sequence[str] | None = None
) -> list[Table]:
    """One table a protocol: groups down, reports (by `labels`, else by method) and metrics across, with n."""
    metrics, names = list(metrics), labels or [str(report.facts.get("method", "")) for report in reports]
    kinds = dict.fromkeys(figure.protocol for report in reports for figure in report.figures)
    return [_table(reports, protocol, metrics, [escape(name) for name in names]) for protocol in kinds]


def _table(reports: Sequence[Report], protocol: str, metrics: list[str], names: Sequence[str]) -> Table:
    meaning = "full ranking, history removed" if protocol == "full" else f"{protocol[7:]} sampled candidates"
    caption = None if protocol == "full" else "sampled candidates flatter every method and can reorder them"
    table = Table(title=f"{reports[0].split}: {meaning}", caption=caption)
    table.add_column("group")
    table.add_column("n", justify="right")
    for name in names:
        label = f"{name}\n" if len(reports) > 1 else ""
        for metric in metrics:
            table.add_column(f"{label}{shown(metric)}", justify="right")
    sizes = {figure.group: figure.n for figure in reports[0].figures}
    for group, n in sizes.items():
        cells = [_cell(report.value(metric, group, protocol)) for report in reports for metric in metrics]
        table.add_row(group.replace("_", " "), f"{n:,}", *cells)
    return table


def shown(metric: str) -> str:
    """A metric's name as reports print it.

    >>> shown("ndcg@10")
    'NDCG@10'
    """
    return metric.upper()


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
