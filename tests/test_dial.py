"""The tail dial: its knee, its curve, turning it, and its figure in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import longtail as lt
from longtail import dial, reporting
from longtail.errors import ConfigError, RunError
from longtail.files import read_json
from longtail.nn.dial import DIAL, knee
from tests.conftest import Planted, plant, walks

SETTINGS = {
    "method": {"text_neighbors": 3, "order_neighbors": 3, "choose": False, "tail": 0.0},
    "backbone": {"d": 8, "max_len": 8},
    "train": {"epochs": 2, "batch_size": 16, "device": "cpu"},
}


@pytest.fixture(scope="module")
def run(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialled") / "longtail-1"
    model = lt.Recommender("longtail", settings=SETTINGS).fit(planted.split, items=planted.items)
    model.save(folder)
    return folder


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_the_knee_is_the_point_furthest_above_the_line_between_the_ends(points: list[tuple[float, float]]) -> None:
    curve = {float(place): point for place, point in enumerate(points)}
    (x0, y0), (x1, y1) = points[0], points[-1]
    sx, sy = (span if span > 1e-9 else 1 for span in (abs(x1 - x0), abs(y1 - y0)))
    above = [(x - x0) / sx + (y - y0) / sy if x >= 0.99 * x0 else -9e99 for x, y in points]  # none pays more than 1 %
    assert above[int(knee(curve))] == pytest.approx(max(above))


def test_the_curve_is_of_the_scores_less_the_popularity(run: Path) -> None:
    before = lt.load(run)
    found = dial.curve(run)
    assert found["dial"].to_list() == list(DIAL) and found["knee"].sum() == 1 and found["now"].to_list()[0]
    model = lt.load(run)
    asked = model.split.history("valid").select(np.arange(1, 4))
    score = model.scorer()
    plain = np.concatenate([part.numpy().copy() for _, part in score(np.arange(1, 4), asked)])
    model.method.dial.fill_(0.7)
    turned = np.concatenate([part.numpy().copy() for _, part in model.scorer()(np.arange(1, 4), asked)])
    counts = model.split.train.counts(model.split.items)
    np.testing.assert_allclose(turned[:, 1:], (plain - 0.7 * np.log1p(counts))[:, 1:], rtol=1e-4, atol=1e-5)
    value = lt.evaluate(model, model.split, name="valid", protocol=dial.PROTOCOL).value("coverage@10")
    assert found.filter(pl.col("dial") == 0.7)["coverage"].item() == pytest.approx(value)
    after = lt.load(run)
    assert after.recommend(users=before.catalogue().users.ids).equals(
        before.recommend(users=before.catalogue().users.ids)
    )


def test_a_turned_dial_is_kept_and_drawn(run: Path) -> None:
    dial.curve(run)
    dial.turn(run, 0.5)
    assert float(lt.load(run).method.dial) == 0.5
    rows = read_json(run / "dial.json")
    assert [row["dial"] for row in rows if row["now"]] == [0.5]
    report = lt.evaluate(lt.load(run), lt.load(run).split, protocol=lt.ProtocolConfig(sampled=0))
    report.save(run)
    reporting.write_page([run], run / "report.html", brief=True)
    assert "The tail dial from 0" in (run / "report.html").read_text() and (run / "figures" / "dial.svg").exists()
    dial.turn(run, 0.0)


def test_what_has_no_dial_and_what_is_beyond_it_are_refused(run: Path, planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"goes from 0, .* 1.5 is beyond"):
        dial.turn(run, 1.5)
    lt.Recommender("popular").fit(planted.split).save(tmp_path / "popular")
    with pytest.raises(RunError, match="has no dial: method 'popular' knows none"):
        dial.curve(tmp_path / "popular")


def test_the_dial_is_left_at_the_knee_if_no_value_is_given() -> None:
    planted = plant(walks(60))
    settings = {**SETTINGS, "method": {**SETTINGS["method"], "tail": None}}
    model = lt.Recommender("longtail", settings=settings).fit(planted.split, items=planted.items)
    chosen, curve = float(model.method.dial), {}
    for value in DIAL:
        model.method.dial.fill_(value)
        curve[value] = model.validate()
    assert chosen == pytest.approx(knee(curve))
