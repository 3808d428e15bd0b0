"""Presets: what `longtail fit` begins with, and what is laid over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtail.cases import read_cases
from longtail.errors import ConfigError
from longtail.pipeline import PRESETS, resolve, run_config

ROOT = Path(__file__).parents[1]
DATA = {"data": {"interactions": "bundled:online_retail"}}


def test_the_default_is_longtail_and_names_lie_over_it() -> None:
    usual = run_config(None, values=DATA)
    assert usual.method.name == "longtail" and usual.train is not None and usual.train.loss == "softmax"
    plain = run_config(None, ["method.name=plain"], values=DATA)
    assert plain.method.name == "plain" and plain.train is not None and plain.train.loss == "bce"
    paper = run_config(None, values=DATA, preset="llmesr")
    assert paper.method.name == "llmesr" and paper.train is not None and paper.train.loss == "bce"


def test_released_is_what_the_authors_table_is_run_with() -> None:
    path = ROOT / "runs" / "released-yelp.toml"
    cases = read_cases(path)
    written = resolve(cases, path, case="released")
    preset = resolve(cases, path, case="corrected", preset="llmesr-released")
    assert written == preset
    alone = run_config(None, values=DATA, preset="llmesr-released")
    assert (alone.method, alone.backbone, alone.groups.counted) == (written.method, written.backbone, "released")


def test_every_preset_is_a_run_and_others_are_refused() -> None:
    for name in PRESETS:
        assert run_config(None, values=DATA, preset=name).method.name in name
    with pytest.raises(ConfigError, match="no preset 'llmers', did you mean 'llmesr'"):
        run_config(None, values=DATA, preset="llmers")
