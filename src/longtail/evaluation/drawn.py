"""The figures of a report, drawn from run folders: which arrays go into which figure, and what it says in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data.groups import Groups
from longtail.data.histories import IntArray
from longtail.data.split import Split
from longtail.evaluation import plots
from longtail.evaluation.bins import ITEM_EDGES, USER_EDGES, Binned, FloatArray, binned
from longtail.evaluation.metrics import METRICS, Ranks
from longtail.evaluation.plots import Line, Panel, Tail, Traded
from longtail.evaluation.projection import project
from longtail.evaluation.stored import Case, Stored, Swept, how, spread, sweeps

K = 10  # the cut-off that every protocol has
NAMES = {"hr": f"HR@{K}", "ndcg": f"NDCG@{K}"}
LINES = {"all": "all", "tail_users": "tail users", "tail_items": "tail items"}
ITEMS = 3_000  # items on a map: t-SNE of more takes minutes


class Drawn(NamedTuple):
    """A figure, the name of its files, and its words. sampled: it shows ranks among sampled candidates."""

    stem: str
    figure: plots.Drawing
    alt: str
    caption: str
    sampled: bool = False


def drawings(cases: Sequence[Case], split: Split, by: Groups, name: str, brief: bool = False) -> Iterator[Drawn]:
    """All figures that need no model, of the evaluated split `name`; at most plots.MOST cases are shown.

    brief: HR@10 in full ranking stands for the other bars.
    """
    shown = cases[: plots.MOST]
    yield long_tails(cases[0], split, by, name)
    for protocol in ranked(cases, name)[: 1 if brief else None]:
        for metric in list(NAMES)[: 1 if brief else None]:
            yield by_group(shown, split, name, protocol, metric)
    figures = spread(cases).filter(pl.col("split") == name, pl.col("protocol") == "full")
    yield from (swept(one, figures, metric) for one in sweeps(cases) for metric in NAMES)
    if any(len(case.runs[0].log) for case in shown):
        yield training(shown)
    if turned := {case.name: case.runs[0].dial for case in shown if len(case.runs[0].dial)}:
        yield dialled(turned)


def ranked(cases: Sequence[Case], name: str) -> list[str]:
    """The protocols, full ranking first, by which every run ranked the split."""
    of = [run.ranks.filter(pl.col("split") == name) for case in cases for run in case.runs]
    first = [column for column in of[0].columns if column == "full" or column.startswith("sampled")]
    return [column for column in first if all(column in one.columns and one[column].count() for one in of)]


def long_tails(case: Case, split: Split, by: Groups, name: str) -> Drawn:
    """Why this library is: how few users and items have most interactions, and what a model makes of the rest."""
    users, items = (_over_seeds(case, split, name, "full", "hr", of) for of in ("users", "items"))
    tails = [
        Tail("users", split.train.lengths[1:], by.user_threshold, USER_EDGES, users[0]),
        Tail("items", split.train.counts(split.items)[1:], by.item_threshold, ITEM_EDGES, items[0]),
    ]
    alt = " ".join(
        f"{tail.noun.capitalize()}: {len(tail.counts):,} in all, {int((tail.counts >= tail.threshold).sum()):,} head, "
        f"the most active with {tail.counts.max():,} training interactions; {_told(tail.hits, 'HR@10')}."
        for tail in tails
    )
    caption = (
        f"The long tails of users and items: training interactions, largest first, and {NAMES['hr']} of {case.name} "
        "(full ranking, mean over seeds) by group of five; a group spans the users or items it holds."
    )
    return Drawn("long-tails", plots.long_tails(tails, case.name, NAMES["hr"]), f"Long tails. {alt}", caption)


def by_group(cases: Sequence[Case], split: Split, name: str, protocol: str, metric: str) -> Drawn:
    """A metric in five groups of users and five of items."""
    panels = []
    for of in ("users", "items"):
        spreads = [_over_seeds(case, split, name, protocol, metric, of) for case in cases]
        first, title = spreads[0][0], f"training interactions of the {'user' if of == 'users' else 'target item'}"
        means, sds = np.stack([one.means for one, _ in spreads]), np.stack([sd for _, sd in spreads])
        panels.append(Panel(title, [case.name for case in cases], first.labels, first.n, means, sds))
    words = " ".join(
        f"{of.capitalize()}: "
        + "; ".join(f"{case.name}, {_told(_panel_row(panel, row), '')}" for row, case in enumerate(cases))
        + "."
        for of, panel in zip(("users", "items"), panels, strict=True)
    )
    full = protocol == "full"
    among = how(protocol)
    caption = f"{NAMES[metric]} by training interactions, {among}, {name}: means; whiskers are deviations over seeds."
    return Drawn(
        f"groups-{metric}{'' if full else '-' + protocol}", plots.by_group(panels, NAMES[metric]),
        f"{NAMES[metric]} by group, {among}. {words}", caption, not full,
    )  # fmt: skip


def _panel_row(panel: Panel, row: int) -> Binned:
    """One method of a panel."""
    return Binned(tuple(panel.groups), panel.n, panel.means[row])


def swept(one: Swept, figures: pl.DataFrame, metric: str) -> Drawn:
    """A metric against the values of one setting."""
    x, order = np.array(one.values), pl.DataFrame({"case": [case.name for case in one.cases]})
    lines = []
    for group, told in LINES.items():
        rows = order.join(
            figures.filter(pl.col("group") == group, pl.col("metric") == f"{metric}@{K}"),
            on="case", how="left", maintain_order="left",
        )  # fmt: skip
        means, sds = (rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy() for column in ("mean", "sd"))
        lines.append(Line(told, x, means, sds))
    words = "; ".join(
        f"{line.name}: " + ", ".join(f"{at:g} gives {mean:.4f}" for at, mean in zip(line.x, line.means, strict=True))
        for line in lines
    )
    caption = f"{NAMES[metric]} (full ranking) against {one.setting}; whiskers are deviations over seeds."
    stem = f"sweep-{one.setting.replace('.', '-')}-{metric}"
    return Drawn(
        stem, plots.sweep(one.setting, lines, NAMES[metric]), f"{NAMES[metric]} by {one.setting}. {words}", caption
    )


def training(cases: Sequence[Case]) -> Drawn:
    """Validation NDCG@10 and every loss term by epoch: the first run of each case."""
    logs = {case.name: case.runs[0].log for case in cases if len(case.runs[0].log)}
    columns = dict.fromkeys(column for log in logs.values() for column in log.columns)
    terms = [column for column in columns if column not in {"epoch", "ndcg@10", "train_s", "seconds", "stages_left"}]
    named = {"ndcg@10": "validation NDCG@10", **{term: f"loss: {term}" for term in terms}}
    panels = {
        told: [_line(case, log, column) for case, log in logs.items() if column in log.columns]
        for column, told in named.items()
    }
    best = "; ".join(f"{case}: {_best(log)}" for case, log in logs.items())
    seeds = ", ".join(str(seed) for seed in sorted({case.runs[0].seed for case in cases}))
    caption = f"Training by epoch, one run a case (seed {seeds}). Losses of different kinds are not comparable."
    return Drawn("training", plots.training(panels), f"Training curves. {best}.", caption)


def dialled(turned: Mapping[str, pl.DataFrame]) -> Drawn:
    """What the tail dial trades: accuracy overall against that on tail items, coverage and Gini, on validation."""
    panels = {
        told: [_traded(case, table, column) for case, table in turned.items()]
        for column, told in {
            "tail items": f"NDCG@{K}, tail items",
            "coverage": f"coverage@{K}",
            "Gini": f"Gini@{K}",
        }.items()
    }
    knees = {case: table.filter(pl.col("knee")).to_dicts()[0] for case, table in turned.items()}
    words = "; ".join(
        f"{case}: from {table['overall'][0]:.4f} overall and {table['tail items'][0]:.4f} on tail items at 0 to "
        f"{table['overall'][-1]:.4f} and {table['tail items'][-1]:.4f} at {table['dial'][-1]:g}, knee at "
        f"{knees[case]['dial']:g} with {knees[case]['overall']:.4f} and {knees[case]['tail items']:.4f}"
        for case, table in turned.items()
    )
    caption = (
        f"The tail dial from 0 (right) to 1 (left), on validation, full ranking: NDCG@{K} overall against that of tail "
        "items, and the coverage and Gini coefficient of all lists of ten; the knee is ringed."
    )
    return Drawn("dial", plots.dial(panels, f"NDCG@{K}, all"), f"The tail dial. {words}.", caption)


def _traded(case: str, table: pl.DataFrame, column: str) -> Traded:
    x, y = (table[one].cast(pl.Float64).fill_null(np.nan).to_numpy() for one in ("overall", column))
    return Traded(case, x, y, int(table["knee"].arg_max() or 0))


def item_map(vectors: Mapping[str, FloatArray | np.ndarray], counts: IntArray) -> Drawn:
    """Item vectors (I + 1, D) of several methods in the plane; counts (I + 1,). The same items on every call."""
    bought = np.flatnonzero(counts)
    chosen = np.sort(np.random.default_rng(0).permutation(bought)[:ITEMS])
    points = {name: project(each[chosen].astype(np.float32)) for name, each in vectors.items()}
    made_by = next(iter(points.values())).how
    figure = plots.item_map({name: one.places for name, one in points.items()}, counts[chosen], made_by)
    caption = (
        f"Item vectors in the plane ({made_by}) of {len(chosen):,} of {len(bought):,} items that were trained on, "
        "drawn with seed 0, coloured by training interactions. Where popular items stand "
        "apart, a model sees popularity before content. Distances between far groups mean little."
    )
    return Drawn(
        "item-vectors", figure, f"Maps of item vectors: {', '.join(vectors)}, coloured by popularity.", caption
    )


def _over_seeds(case: Case, split: Split, name: str, protocol: str, metric: str, of: str) -> tuple[Binned, FloatArray]:
    """A case's metric by group, the mean over its runs, and its deviation (g,): NaN for a single run."""
    each = [_of_run(run, split, name, protocol, metric, of) for run in case.runs]
    values = np.stack([one.means for one in each])  # (s, g)
    sds = values.std(0, ddof=1) if len(each) > 1 else np.full(values.shape[1], np.nan)
    return each[0]._replace(means=values.mean(0)), sds


def _of_run(run: Stored, split: Split, name: str, protocol: str, metric: str, of: str) -> Binned:
    rows = run.ranks.filter(pl.col("split") == name)
    ranks: Ranks = rows[protocol].to_numpy()
    values = METRICS[metric](ranks, K)
    if of == "users":
        return binned(split.train.lengths[rows["user"].to_numpy()], values, USER_EDGES)
    return binned(split.train.counts(split.items)[rows["target"].to_numpy()], values, ITEM_EDGES)


def _line(name: str, log: pl.DataFrame, column: str) -> Line:
    x, y = (log[one].cast(pl.Float64).fill_null(np.nan).to_numpy() for one in ("epoch", column))
    return Line(name, x, y, np.full(len(x), np.nan))


def _best(log: pl.DataFrame) -> str:
    """How long a training was, and where its last stage was best."""
    last = log.filter(pl.col("stages_left") == 0) if "stages_left" in log.columns else log
    at = int(last["ndcg@10"].arg_max() or 0)
    value, epoch = last["ndcg@10"].to_list()[at], last["epoch"].to_list()[at]
    return f"{log.height} epochs, best NDCG@10 {value:.4f} after epoch {epoch}"


def _told(bins: Binned, metric: str) -> str:
    """The groups of a figure in words."""
    parts = [
        f"{label} (n = {n:,}) {mean:.4f}" if n else f"{label} empty"
        for label, n, mean in zip(bins.labels, bins.n, bins.means, strict=True)
    ]
    return f"{metric} by training interactions " * bool(metric) + ", ".join(parts)
