"""Reports as tables for people: a table a protocol, groups down, reports across; sampled figures with their warning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from longtail.evaluation.fingerprint import same_protocol
from longtail.evaluation.metrics import METRICS
from longtail.evaluation.stored import how

if TYPE_CHECKING:
    from longtail.evaluation.report import Report

SHOWN = ("hr@10", "ndcg@10")
LISTS = ("coverage", "gini", "popularity", "tail_share", "novelty", "diversity")
OF_ALL = (  # of all users together: what their lists expose, and how unequally they are served
    *(f"{name}@10" for name in LISTS),
    *(f"{kind}_{metric}" for metric in SHOWN for kind in ("head_minus_tail", "worst_ratio")),
)
ESTIMATE = "-balanced"  # the estimator of corrected figures that tables show
WARNING = "sampled candidates flatter every method and can reorder them"
ROUGH = "rough estimates of the full ranking from few candidates (Krichene and Rendle, 2020): trust the ranking itself"


def caution(protocol: str) -> str | None:
    """What must stand beside figures of a protocol wherever they are printed; None for the full ranking.

    >>> caution("sampled100")
    'sampled candidates flatter every method and can reorder them'
    """
    return None if protocol == "full" else ROUGH if "-" in protocol else WARNING


def tables(
    reports: Sequence[Report], metrics: Iterable[str] = SHOWN, labels: Sequence[str] | None = None
) -> list[Table]:
    """One table a protocol: groups down, reports (by `labels`, else by method) and metrics across, with n.

    Then one of their lists, if they were kept. A RunError if the reports' protocols differ.
    """
    metrics, names = list(metrics), labels or [str(report.facts.get("method", "")) for report in reports]
    same_protocol(reports, names)
    protocols = dict.fromkeys(figure.protocol for report in reports for figure in report.figures)
    names = [escape(name) for name in names]
    made = [_table(reports, protocol, metrics, names) for protocol in protocols if "-" not in protocol]
    if any(report.lists is not None for report in reports):
        made.append(_lists(reports, names))
    return made


def _table(reports: Sequence[Report], protocol: str, metrics: list[str], names: Sequence[str]) -> Table:
    estimates = {figure.protocol for figure in reports[0].figures} & {protocol + ESTIMATE}
    table = Table(title=f"{reports[0].split}: {_meaning(protocol, reports[0])}", caption=_caption(protocol, reports[0]))
    table.add_column("group")
    table.add_column("n", justify="right")
    columns = [(kind, metric) for metric in metrics for kind in (protocol, *estimates)]
    for name in names:
        label = f"{name}\n" if len(reports) > 1 else ""
        for kind, metric in columns:
            table.add_column(f"{label}{'' if kind == protocol else '~ '}{shown(metric)}", justify="right")
    sizes = {figure.group: figure.n for figure in reports[0].figures}
    for group, n in sizes.items():
        cells = [_cell(report.value(metric, group, kind)) for report in reports for kind, metric in columns]
        table.add_row(escape(group.replace("_", " ")), f"{n:,}", *cells)
    return table


def _meaning(protocol: str, report: Report) -> str:
    if protocol == "full" and report.terms.get("seen") == "allow":
        return "full ranking, history allowed"
    return how(protocol)


def _caption(protocol: str, report: Report) -> str | None:
    notes = [caution(protocol)] if caution(protocol) else []
    if any(figure.protocol == protocol + ESTIMATE for figure in report.figures):
        notes.append("~ estimates the full ranking from them (Krichene and Rendle, 2020)")
    if protocol == "full" and report.repeats:
        what = "left out" if report.terms.get("repeats") == "drop" else "kept as candidates"
        notes.append(f"{report.repeats:,} targets are in the history of their user: {what}")
    return "; ".join(note for note in notes if note) or None


def _lists(reports: Sequence[Report], names: Sequence[str]) -> Table:
    """What the first ten of all users' lists expose, and how unequally users are served."""
    table = Table("of all users", *names, title=f"{reports[0].split}: the first 10 of every list")
    for metric in OF_ALL:
        table.add_row(shown(metric), *(_cell(report.value(metric)) for report in reports))
    return table


def shown(metric: str) -> str:
    """A metric's name as reports print it.

    >>> shown("ndcg@10"), shown("tail_share@10"), shown("worst_ratio_hr@10")
    ('NDCG@10', 'tail share@10', 'worst ratio HR@10')
    """
    words = metric.replace("_", " ").split(" ")
    return " ".join(word.upper() if word.partition("@")[0] in METRICS else word for word in words)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
