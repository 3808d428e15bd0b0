"""What figures show is what they were given; files are whole; the caller's matplotlib settings stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

from longtail.evaluation import plots
from longtail.evaluation.bins import binned
from longtail.evaluation.plots import Line, Panel, Tail


def _tail() -> Tail:
    counts = np.array([1, 50, 7, 3, 12, 12])
    return Tail("users", counts, 12, (5, 10, 15, 20), binned(counts, np.array([0, 1, 1, 0, 1, 0.0]), (5, 10, 15, 20)))


def _panel() -> Panel:
    means = np.array([[0.1, np.nan, 0.3], [0.2, np.nan, 0.4]])
    return Panel("training interactions", ["a", "b"], ["<5", "5-9", "≥10"], np.array([40, 0, 2]), means, means / 10)


def test_long_tails_show_the_sorted_counts_the_threshold_and_the_metric_where_there_are_users() -> None:
    left, right = plots.long_tails([_tail()], "SASRec", "HR@10").axes
    assert left.lines[0].get_ydata().tolist() == [50, 12, 12, 7, 3, 1]
    assert left.lines[1].get_xdata() == [3, 3]  # three users are head
    assert left.get_xscale() == left.get_yscale() == "log"
    assert "n = 6" in left.get_xlabel()
    assert right.lines[0].get_ydata().tolist() == [0.0, 1.0, 0.5, 1.0]  # the empty group, 15 to 19, is left out
    spans = [tuple(path[:, 0]) for path in right.collections[0].get_segments()]
    assert spans == [(5, 6), (4, 4), (2, 3), (1, 1)]


def test_bars_have_the_given_heights_and_whiskers_and_an_empty_group_says_so() -> None:
    (axes,) = plots.by_group([_panel()], "NDCG@10").axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers[::2]]
    assert heights == [[0.1, 0, 0.3], [0.2, 0, 0.4]]
    whiskers = axes.containers[1].lines[2][0].get_segments()
    assert np.allclose(whiskers[0][:, 1], [0.09, 0.11])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["<5\nn = 40", "5-9\nempty", "≥10\nn = 2"]
    left = [bars[0].get_x() for bars in axes.containers[::2]]
    assert left[0] + axes.containers[0][0].get_width() <= left[1] + 1e-9  # no bar hides another


def test_swept_settings_and_training_are_drawn_as_given_and_one_colour_is_one_name() -> None:
    x, y = np.array([0.01, 0.1, 1.0]), np.array([0.2, 0.4, 0.3])
    line = Line("all", x, y, y / 10)
    (axes,) = plots.sweep("method.alpha", [line, line._replace(name="tail users", means=y / 2)], "HR@10").axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "method.alpha"
    assert [container.lines[0].get_ydata().tolist() for container in axes.containers] == [y.tolist(), (y / 2).tolist()]
    short = [line._replace(name="b")]
    above, below = plots.training({"NDCG@10": [line._replace(name="a"), *short], "loss: x": short}).axes
    assert above.lines[1].get_color() == below.lines[0].get_color() != above.lines[0].get_color()
    assert below.get_xlabel() == "epoch" and below.get_ylabel() == "loss: x"


def test_a_map_shows_every_item_in_the_colour_of_its_count() -> None:
    places, counts = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), np.array([100, 1, 10])
    figure = plots.item_map({"a": places, "b": -places, "c": places}, counts, "t-SNE")
    drawn = figure.axes[1].collections[0]
    order = np.argsort(counts)  # the most popular is drawn last, on top
    assert (drawn.get_offsets() == -places[order]).all()
    assert np.allclose(drawn.get_array(), np.log10(counts[order] + 1))
    assert figure.axes[0].get_title() == "a" and not figure.axes[3].axison


def test_saving_writes_both_formats_without_a_date_and_leaves_the_settings_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    svg = plots.save(plots.by_group([_panel()], "HR@10"), tmp_path / "deep" / "bars")
    assert dict(mpl.rcParams) == before
    assert {path.name for path in svg.parent.iterdir()} == {"bars.svg", "bars.png"}
    assert (svg.parent / "bars.png").read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert "dc:date" not in text and "training interactions</text>" in text and plots.INK in text
    again = plots.save(plots.by_group([_panel()], "HR@10"), tmp_path / "bars").read_text()
    assert again == text  # the same figure is the same file
