"""The search: it finds a planted best, goes on after a kill as it would have gone, and never looks at test items."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from math import log10
from pathlib import Path

import pytest
from rich.console import Console

from longtail.config import build
from longtail.errors import ConfigError, LongtailError, RunError
from longtail.pipeline import run_config, run_settings
from longtail.search import Hopeless, markdown, search, toml
from longtail.trials import Range, Trial, draw
from tests.conftest import catalogue, walks

CONFIG = """
seed = 5
[data]
interactions = "log.csv"
items = "items.parquet"
[method]
name = "plain"
[backbone]
d = 8
max_len = 8
[train]
epochs = 2
[search]
"train.lr" = { low = 1e-4, high = 1e-1, log = true }
"backbone.dropout" = { low = 0.0, high = 0.9, step = 0.1 }
"backbone.d" = { low = 8, high = 64, step = 8 }
"train.loss" = { choices = ["bce", "softmax"] }
"""
CONSOLE = Console(stderr=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config with ranges, on the planted data."""
    walks().write_csv(tmp_path / "log.csv")
    catalogue().write_parquet(tmp_path / "items.parquet")
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path / "config.toml"


def _height(trial: Trial) -> float:
    """A hill whose top, 1, is at lr 1e-2, dropout 0.3, d 32 and softmax."""
    lr, dropout, d = (float(trial.params[key]) for key in ("train.lr", "backbone.dropout", "backbone.d"))
    away = (log10(lr) + 2) ** 2 + (dropout - 0.3) ** 2 + ((d - 32) / 32) ** 2
    return (1.0 if trial.params["train.loss"] == "softmax" else 0.8) - 0.3 * away


def _climbed(asked: Sequence[Trial], hopeless: Hopeless) -> list[Trial]:
    """Judges by the hill, in the place of training: a curve that has nine tenths of its height from the first epoch."""
    made = []
    for trial in asked:
        curve = tuple(_height(trial) * share for share in (0.9, 0.92, 0.94, 0.96, 0.98, 1.0))
        last = hopeless(trial, curve)
        made.append(trial._replace(state="pruned" if last else "complete", curve=curve[: last or None]))
    return made


def test_it_finds_the_top_of_a_planted_hill(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = search(Path(config.name), Path("out"), 40, CONSOLE, jobs=2, judge=_climbed)
    best = max((trial for trial in found if trial.state == "complete"), key=lambda trial: trial.value)
    first = max(trial.value for trial in found[:10])  # drawn at random
    assert best.value > 0.95 and best.value > first and best.params["train.loss"] == "softmax"
    pruned = [trial for trial in found if trial.state == "pruned"]
    assert pruned and all(len(trial.curve) < 6 and _height(trial) < best.value for trial in pruned)
    stored = run_config(Path("out") / "best.toml")
    assert (stored.train.lr, stored.backbone.d) == (best.params["train.lr"], best.params["backbone.d"])
    assert stored.data.interactions == str(tmp_path / "log.csv") and stored.seed == 5
    assert markdown(found).splitlines()[2].startswith(f"| {best.name} | {best.value:.4f} | 6 | complete |")
    for trial in found:
        assert (float(trial.params["backbone.d"]) / 8).is_integer() and 8 <= int(trial.params["backbone.d"]) <= 64
        assert 1e-4 <= float(trial.params["train.lr"]) <= 1e-1


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_search_stopped_at_any_time_goes_on_as_it_would_have_gone(config: Path, tmp_path: Path, jobs: int) -> None:
    whole = search(config, tmp_path / "whole", 12, CONSOLE, jobs=jobs, judge=_climbed)
    calls = []

    def stopped(asked: Sequence[Trial], hopeless: Hopeless) -> list[Trial]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return _climbed(asked, hopeless)

    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "cut", 12, CONSOLE, jobs=jobs, judge=stopped)
    assert search(config, tmp_path / "cut", 12, CONSOLE, jobs=jobs, judge=_climbed) == whole
    names = ("trials.json", "trials.md")
    assert all((tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert len(search(config, tmp_path / "cut", 12, CONSOLE, jobs=jobs, judge=_never)) == 12  # and then it is done
    more = search(config, tmp_path / "cut", 14, CONSOLE, jobs=jobs, judge=_climbed)
    assert more[:12] == whole and len(more) == 14


def _never(asked: Sequence[Trial], hopeless: Hopeless) -> list[Trial]:
    raise AssertionError("it ran a trial again")


def test_another_seed_draws_other_trials(config: Path, tmp_path: Path) -> None:
    first, again, other = (
        search(config, tmp_path / name, 3, CONSOLE, jobs=1, judge=_climbed, settings=[f"seed={seed}"])
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


def test_real_trials_are_trained_judged_by_validation_and_never_tested(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "longtail",
        "search",
        str(config),
        "--out",
        str(out),
        "--trials",
        "3",
        "--jobs",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = json.loads((out / "trials.json").read_text())["trials"]
    assert len(trials) == 3
    for trial in trials:
        folder = out / f"trial-{trial['number']:03d}"
        assert not [path for name in ("metrics*", "ranks*", "report*", "lists*") for path in folder.rglob(name)]
        assert "test" not in (folder / "log.jsonl").read_text()
        curve = [json.loads(line)["ndcg@10"] for line in (folder / "log.jsonl").read_text().splitlines()]
        assert trial["curve"] == curve and len(curve) == 2
        settings = run_settings(folder)
        for key, value in trial["params"].items():
            table, name = key.split(".")
            assert settings[table][name] == value  # type: ignore[index]
    best = max(trials, key=lambda trial: max(trial["curve"]))
    assert run_config(out / "best.toml").model_dump(mode="json")["train"]["lr"] == best["params"]["train.lr"]
    assert f"{max(best['curve']):.4f}" in done.stdout and f"longtail fit {out / 'best.toml'}" in done.stdout


def test_a_failed_trial_is_told_and_the_others_count(config: Path, tmp_path: Path) -> None:
    def some(asked: Sequence[Trial], hopeless: Hopeless) -> list[Trial]:
        return [one._replace(state="failed") if one.number % 2 else one for one in _climbed(asked, hopeless)]

    found = search(config, tmp_path / "out", 6, CONSOLE, jobs=1, judge=some)
    assert [trial.state == "failed" for trial in found] == [False, True] * 3
    with pytest.raises(RunError, match="no trial was completed"):
        search(config, tmp_path / "none", 1, CONSOLE, judge=lambda asked, _: [asked[0]._replace(state="failed")])


def test_a_trial_is_hopeless_at_the_same_epoch_however_often_one_looks() -> None:
    ranges = {"train.lr": build(Range, {"low": 0.0, "high": 1.0})}
    good = tuple(0.5 + epoch / 100 for epoch in range(8))
    ended = [Trial(number, {"train.lr": 0.1 * number}, "complete", good) for number in range(6)]
    curve = [0.45, 0.46, 0.47, 0.48, 0.6, 0.6, 0.6, 0.6]
    verdicts = []
    for looks in ([8], [1, 2, 3, 4, 5, 8], [2, 2, 7, 8]):
        (trial,), pruner = draw(ranges, 1, ended, [], 1)
        verdicts.append([pruner(trial, curve[:length]) for length in looks][-1])
    assert verdicts == [3, 3, 3]  # the first epoch after the warm-up
    (trial,), pruner = draw(ranges, 1, ended, [], 1)
    assert pruner(trial, [value + 0.1 for value in good]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("low = 1e-4, high = 1e-1", "low = 1e-1, high = 1e-4", "give low and a greater high"),
        ("low = 1e-4, high = 1e-1, log = true", 'choices = ["fast", "slow"]', "train.lr = 'fast'"),
        ("low = 1e-4, high = 1e-1", "low = 0.0, high = 1e-1", "needs low above 0"),
        ('choices = ["bce", "softmax"]', "choices = []", "not both"),
        ('choices = ["bce", "softmax"]', 'choose = ["bce"]', "unknown key 'choose'"),
        ('"train.lr"', '"train.learning_rate"', "unknown key 'train.learning_rate'"),
        ("[search]", "[searched]", "searched"),
    ],
)
def test_ranges_that_cannot_be_are_told_before_the_first_trial(
    config: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    config.write_text(CONFIG.replace(old, new))
    with pytest.raises(ConfigError) as told:
        search(config, tmp_path / "out", 2, CONSOLE, judge=_never)
    assert message in str(told.value)


def test_a_folder_of_another_search_is_refused(config: Path, tmp_path: Path) -> None:
    search(config, tmp_path / "out", 1, CONSOLE, judge=_climbed)
    config.write_text(CONFIG.replace("high = 64", "high = 32"))
    with pytest.raises(LongtailError, match="other settings or ranges"):
        search(config, tmp_path / "out", 2, CONSOLE, judge=_never)


def test_a_config_without_ranges_says_what_a_range_is(config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.partition("[search]")[0])
    with pytest.raises(ConfigError, match=r"no \[search\] table; give it ranges, e\.g\."):
        search(config, tmp_path / "out", 1, CONSOLE, judge=_never)


def test_settings_written_as_toml_are_read_back(tmp_path: Path, config: Path) -> None:
    import tomllib

    values = run_config(config, ["train.lr=1e-5"]).model_dump(mode="json", exclude_none=True)
    assert tomllib.loads(toml(values)) == values


def test_a_trial_that_was_begun_keeps_its_settings_whatever_would_be_drawn_now(config: Path, tmp_path: Path) -> None:
    def stopped(asked: Sequence[Trial], hopeless: Hopeless) -> list[Trial]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "out", 3, CONSOLE, jobs=3, judge=stopped)
    stored = json.loads((tmp_path / "out" / "trials.json").read_text())
    stored["trials"][1]["params"]["train.lr"] = 0.05  # as another version of optuna might have drawn it
    (tmp_path / "out" / "trials.json").write_text(json.dumps(stored))
    found = search(config, tmp_path / "out", 3, CONSOLE, jobs=1, judge=_climbed)
    assert [trial.params for trial in found] == [trial["params"] for trial in stored["trials"]]
