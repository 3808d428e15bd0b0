"""Figures, from plain arrays: long tails, metrics by group, swept settings, training, and maps of item vectors.

The only file that imports matplotlib. Colours are those of Okabe and Ito, told apart by the colour-blind; marks and
hatches differ as well. Figures are narrow, so that their text stays readable on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longtail.data.histories import IntArray
from longtail.evaluation.bins import Binned, FloatArray
from longtail.files import atomic

INK = "#1a2027"  # of text and axes; a page replaces it by its own colour of text
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C8C", "#B8A500")
Drawing: TypeAlias = Figure  # matplotlib's; a longtail Figure is a number of a report
MARKS, HATCHES = "osD^vPX*", ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
MOST = len(COLOURS)  # methods that one figure can tell apart
WIDTH = 4.5  # inches
STYLE = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "hatch.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
}


class Tail(NamedTuple):
    """What the figure of long tails shows of users or items.

    noun: "users". counts: (n,) training interactions. threshold: the count from which one is head. edges: the counts at
    which groups begin. hits: a metric by these groups.
    """

    noun: str
    counts: IntArray
    threshold: float
    edges: tuple[int, ...]
    hits: Binned


class Panel(NamedTuple):
    """Metrics of m methods in g groups: names (m,), groups (g,), n (g,), means and sds (m, g), NaN where unknown."""

    title: str
    names: Sequence[str]
    groups: Sequence[str]
    n: IntArray
    means: FloatArray
    sds: FloatArray


class Line(NamedTuple):
    """One line of a figure: name, x (n,), means and sds (n,), NaN where unknown."""

    name: str
    x: FloatArray
    means: FloatArray
    sds: FloatArray


class Traded(NamedTuple):
    """One line of the dial's figure: name, what is given and what is got (n,), and which of them is the knee."""

    name: str
    given: FloatArray
    got: FloatArray
    knee: int


@style.context(STYLE)
def long_tails(tails: Sequence[Tail], method: str, metric: str) -> Figure:
    """Training counts from the largest to the smallest on log axes, the head's end, and the metric by group."""
    figure = Figure(figsize=(WIDTH, 2.9 * len(tails)), layout="constrained")
    for axes, tail in zip(_stack(figure, len(tails)), tails, strict=True):
        ordered = np.sort(tail.counts)[::-1]
        axes.loglog(np.arange(1, len(ordered) + 1), ordered, color=COLOURS[0], lw=2, label="training interactions")
        axes.axvline(
            max(int((ordered >= tail.threshold).sum()), 1), color=INK, ls="--", lw=1,
            label=f"head: {tail.threshold:g} or more",
        )  # fmt: skip
        axes.set(xlabel=f"{tail.noun}, most active first (n = {len(ordered):,}, log)", ylabel="interactions (log)")
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        right.grid(False)
        right.margins(y=0.1)
        # A group is a stretch of the sorted axis: from its last count's end back to where the next group begins.
        begins = [int((ordered >= edge).sum()) for edge in tail.edges]
        ends = np.array([len(ordered), *begins], dtype=np.float64)
        starts = np.array([*begins, 0], dtype=np.float64) + 1
        middles = np.sqrt(starts * np.maximum(ends, starts))
        there = tail.hits.n > 0
        right.hlines(tail.hits.means[there], starts[there], ends[there], color=COLOURS[3], lw=1, alpha=0.6)
        right.plot(middles[there], tail.hits.means[there], "D-", color=COLOURS[3], ms=5, label=f"{metric}, {method}")
        right.set(ylabel=f"{metric} (share of test users)", ylim=(0, None))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
        _legend(axes, right)
    return figure


@style.context(STYLE)
def by_group(panels: Sequence[Panel], metric: str) -> Figure:
    """A metric by group for several methods: bars, with deviations over seeds where there are any."""
    figure = Figure(figsize=(WIDTH, 2.9 * len(panels)), layout="constrained")
    for axes, panel in zip(_stack(figure, len(panels)), panels, strict=True):
        m, places = len(panel.names), np.arange(len(panel.groups))
        for row, name in enumerate(panel.names):
            at = places + (row - (m - 1) / 2) * 0.8 / m
            axes.bar(
                at, np.nan_to_num(panel.means[row]), 0.8 / m, color=COLOURS[row % MOST], edgecolor=INK, lw=0.5,
                hatch=HATCHES[row % MOST], label=name,
            )  # fmt: skip
            axes.errorbar(at, panel.means[row], panel.sds[row], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        sizes = [f"n = {n:,}" if n else "empty" for n in panel.n]
        texts = [f"{group}\n{size}" for group, size in zip(panel.groups, sizes, strict=True)]
        axes.set_xticks(places, texts, fontsize=8.5)
        axes.grid(False, axis="x")
        axes.set(xlabel=panel.title, ylabel=f"{metric} (mean)")
    _legend_below(figure, figure.axes[0])
    return figure


@style.context(STYLE)
def sweep(setting: str, lines: Sequence[Line], metric: str) -> Figure:
    """A metric against a swept setting, with deviations over seeds: one line for all users, others for the tail."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    xs = np.concatenate([line.x for line in lines])
    if len(xs) and xs.min() > 0 and xs.max() / xs.min() >= 20:
        axes.set_xscale("log")
    for row, line in enumerate(lines):
        axes.errorbar(
            line.x, line.means, line.sds, fmt=f"{MARKS[row % MOST]}-", color=COLOURS[row % MOST], ms=5, capsize=3,
            label=line.name,
        )  # fmt: skip
    axes.set_xticks(np.unique(xs), [f"{x:g}" for x in np.unique(xs)])
    axes.minorticks_off()
    axes.set(xlabel=setting, ylabel=f"{metric} (mean ± sd over seeds)")
    _legend_below(figure, axes)
    return figure


@style.context(STYLE)
def training(terms: Mapping[str, Sequence[Line]]) -> Figure:
    """One panel a quantity of the log (validation NDCG@10, loss terms), one line a run, against the epoch."""
    figure = Figure(figsize=(WIDTH, 2.4 * len(terms)), layout="constrained")
    names = list(dict.fromkeys(line.name for lines in terms.values() for line in lines))  # some lack some terms
    for axes, (term, lines) in zip(_stack(figure, len(terms)), terms.items(), strict=True):
        for line in lines:
            row = names.index(line.name)
            axes.plot(
                line.x, line.means, color=COLOURS[row % MOST], marker=MARKS[row % MOST], ms=4,
                markevery=max(len(line.x) // 8, 1), label=line.name,
            )  # fmt: skip
        axes.set(xlabel="epoch", ylabel=term)
    _legend_below(figure, *figure.axes)
    return figure


@style.context(STYLE)
def dial(panels: Mapping[str, Sequence[Traded]], given: str) -> Figure:
    """One panel a quantity that a dial trades for `given`, one line a run, the knee ringed."""
    figure = Figure(figsize=(WIDTH, 2.4 * len(panels)), layout="constrained")
    for axes, (got, lines) in zip(_stack(figure, len(panels)), panels.items(), strict=True):
        for row, line in enumerate(lines):
            colour = COLOURS[row % MOST]
            axes.plot(line.given, line.got, color=colour, marker=MARKS[row % MOST], ms=4, label=line.name)
            axes.plot(line.given[line.knee], line.got[line.knee], "o", ms=11, mfc="none", mec=colour, mew=1.5)
        axes.set(xlabel=given, ylabel=got)
    _legend_below(figure, *figure.axes)
    return figure


@style.context(STYLE)
def item_map(maps: Mapping[str, FloatArray], counts: IntArray, how: str) -> Figure:
    """Item vectors (n, 2) of several methods side by side, coloured by the items' training counts (n,)."""
    columns = 2 if len(maps) > 1 else 1
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(WIDTH, 0.7 + WIDTH / columns * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colour = np.log10(counts + 1.0)
    order = np.argsort(colour, kind="stable")  # often bought items on top
    for axes, (name, places) in zip(panels, maps.items(), strict=False):
        drawn = axes.scatter(
            places[order, 0], places[order, 1], c=colour[order], s=5, cmap="viridis", lw=0, rasterized=True
        )
        axes.set_title(name, fontsize=9.5)
        axes.set(xticks=[], yticks=[], facecolor="white")  # on a dark page too: the scale begins with dark violet
        axes.spines[:].set_visible(False)
        axes.grid(False)
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(drawn, ax=list(panels), location="bottom", shrink=0.8, aspect=30)
    ticks = [1, 3, 10, 30, 100, 300, 1000, 3000]
    ticks = [tick for tick in ticks if colour.min() <= np.log10(tick + 1.0) <= colour.max()]
    bar.set_ticks([float(np.log10(tick + 1.0)) for tick in ticks], labels=[f"{tick:,}" for tick in ticks])
    bar.set_label(f"training interactions of an item (log); {how}, n = {len(counts):,}")
    return figure


@style.context(STYLE)
def save(figure: Figure, stem: Path) -> Path:
    """Write `stem`.svg and `stem`.png, each whole or not at all; the path of the SVG.

    The same figure is the same file: no date, and ids that are not drawn by lot. The SVG holds its text as text.
    """
    with style.context({"svg.hashsalt": "longtail"}):
        png, svg = (stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg"))
        with atomic(png) as temporary:
            figure.savefig(temporary, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # laid out once is enough, and takes as long as drawing
        with atomic(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return svg


def _stack(figure: Figure, n: int) -> list[Axes]:
    """n axes, one below the other: side by side they would be too small on a phone."""
    return list(figure.subplots(n, 1, squeeze=False)[:, 0])


def _legend(*axes: Axes) -> None:
    """One legend above the axes for all that is drawn in them."""
    named = [pair for one in axes for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    handles, names = [handle for handle, _ in named], [name for _, name in named]
    axes[0].legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5, borderaxespad=0.2)


def _legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend below the whole figure, each name once."""
    named = {name: handle for one in axes for handle, name in zip(*one.get_legend_handles_labels(), strict=True)}
    columns = 2 if max(map(len, named), default=0) <= 22 and len(named) > 1 else 1
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, fontsize=8.5)
