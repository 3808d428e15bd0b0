"""An experiment that is killed, doubled, filtered or broken: the same table in the end, or one clear message."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from longtail import experiment, results
from longtail.children import Child, in_parallel, usual_jobs
from longtail.errors import LongtailError, RunError
from longtail.files import locked
from longtail.run_folder import lock_of
from longtail.search import search
from longtail.watch import Training, Watch
from tests.conftest import catalogue, vectors, walks

PLAN = """
seeds = [1]
[data]
interactions = "log.csv"
items = "items.parquet"
[backbone]
d = 8
max_len = 8
[train]
batch_size = 8
epochs = 40
patience = 40
[protocol]
sampled = 5
[methods.plain]
method = { name = "plain" }
[settings.softmax]
train = { loss = "softmax" }
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """An experiment of two cells on the planted data."""
    walks().write_csv(tmp_path / "log.csv")
    catalogue().write_parquet(tmp_path / "items.parquet")
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path / "plan.toml"


def _run(plan: Path, out: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "longtail", "run", str(plan), "--out", str(plan.parent / out), "--jobs", "2", *more]


def _alive(out: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended meanwhile
        if any(word.startswith(str(out)) for word in words):
            found.append(" ".join(words))
    return found


def _wait_until_nobody_works_in(out: Path) -> float:
    started = time.monotonic()
    while _alive(out):
        assert time.monotonic() - started < 20, f"these outlived their parent: {_alive(out)}"
        time.sleep(0.05)
    return time.monotonic() - started


def _epochs(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.glob("*/log.jsonl"))


def test_an_experiment_killed_at_random_moments_ends_in_the_same_table(plan: Path) -> None:
    subprocess.run(_run(plan, "whole"), check=True, capture_output=True)
    cut, moments = plan.parent / "cut", random.Random(7)
    for _ in range(3):  # in some epoch: none of the three lands before a training, or after the last
        process = subprocess.Popen(_run(plan, "cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        more = _epochs(cut) + moments.randint(1, 6)
        while process.poll() is None and _epochs(cut) < more:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (cut / "results.json").exists() and _epochs(cut) >= 3
    (cut / "plain-1" / ".model.safetensors.0a.partial").write_bytes(b"as a kill in the middle of a write leaves it")
    done = subprocess.run(_run(plan, "cut"), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in ("json", "md", "tex", "csv"):
        assert (cut / f"results.{kind}").read_bytes() == (plan.parent / "whole" / f"results.{kind}").read_bytes()
    assert not list(cut.rglob(".*.partial"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_training_outlives_the_experiment_that_started_it(plan: Path, number: signal.Signals) -> None:
    plan.write_text(PLAN.replace("= 40", "= 100000"))
    process = subprocess.Popen(_run(plan, "out"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out = plan.parent / "out"
    while process.poll() is None and len(list(out.glob("*/log.jsonl"))) < 2:
        time.sleep(0.05)
    assert len(_alive(out)) == 3
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    _wait_until_nobody_works_in(out)
    assert process.returncode == (130 if number != signal.SIGKILL else -9) and "Traceback" not in told


def test_a_second_experiment_in_a_folder_at_work_says_which_process_works_there(plan: Path) -> None:
    out = plan.parent / "out"
    with locked(out / "lock"), pytest.raises(LongtailError, match=rf"another process \({os.getpid()}\) .* {out}"):
        experiment.execute(plan, out, Console(stderr=True), jobs=1)


def test_a_cell_waits_for_the_process_that_works_in_its_folder(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it finds the trainings of a killed experiment, which need a moment to notice; one that stays is named."""
    monkeypatch.setattr("longtail.children.ENDING", 0.2)
    out = plan.parent / "out"
    with locked(lock_of(out / "plain-1")), pytest.raises(RunError, match="1 cells failed"):
        experiment.execute(plan, out, Console(stderr=True), jobs=1, settings=["train.epochs=1"], patterns=["plain"])
    assert str(os.getpid()) in (out / "plain-1" / "output.log").read_text()
    assert (out / "results.json").exists()  # of those that did not fail: none here
    lock = lock_of(out / "plain-1").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    monkeypatch.setattr("longtail.children.ENDING", 30.0)
    holder = subprocess.Popen(["sleep", "1.5"], pass_fds=[lock.fileno()])  # the lock ends with its last holder
    lock.close()
    rows = experiment.execute(plan, out, Console(stderr=True), jobs=1, settings=["train.epochs=1"], patterns=["plain"])
    assert holder.poll() == 0 and set(rows["case"]) == {"plain"}


def test_a_dry_run_lists_the_cells_and_runs_none(plan: Path) -> None:
    plan.write_text(PLAN + '[sweep]\n"train.lr" = [1e-3, 1e-2]\nonly = ["plain"]\n')
    listed = experiment.states(plan, plan.parent / "out")
    assert listed["state"].to_list() == ["missing"] * 3 + ["same"]  # 1e-3 is the default: the base is that cell
    assert listed["case"].to_list() == ["plain", "plain-softmax", "plain-train.lr=0.01", "plain-train.lr=0.001"]
    assert experiment.states(plan, plan.parent / "out", patterns=["*softmax*"])["case"].to_list()[0] == "plain-softmax"
    with pytest.raises(RunError, match="matches none"):
        experiment.states(plan, plan.parent / "out", patterns=["softmax"])
    assert not (plan.parent / "out").exists()


def test_every_cell_is_checked_before_the_first_is_trained(plan: Path) -> None:
    plan.write_text(PLAN + "[settings.wrong]\ntrain = { lr = -1 }\n")
    with pytest.raises(LongtailError, match=r"case plain-wrong: train\.lr = -1"):
        experiment.execute(plan, plan.parent / "out", Console(stderr=True))


def test_a_cell_that_fails_is_named_and_the_others_are_done(plan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan.write_text(PLAN + '[settings.nowhere]\ndata = { interactions = "nowhere.csv" }\n')
    out, one = plan.parent / "out", ["train.epochs=1"]
    with pytest.raises(RunError, match=r"1 cells failed; read .*plain-nowhere-1.*output\.log"):
        experiment.execute(plan, out, Console(stderr=True), jobs=2, settings=one)
    assert "nowhere.csv" in (out / "plain-nowhere-1" / "output.log").read_text()
    assert "plain-nowhere-1: failed" in capfd.readouterr().err
    rows = json.loads((out / "results.json").read_text())
    assert {row["case"] for row in rows} == {"plain", "plain-softmax"}
    listed = experiment.states(plan, out, one)
    assert dict(listed.select("case", "state").iter_rows()) == {
        "plain": "done", "plain-softmax": "done", "plain-nowhere": "missing"
    }  # fmt: skip
    assert set(experiment.states(plan, out, ["train.epochs=2"])["state"]) == {"other", "missing"}
    assert experiment.states(plan, out, [*one, 'train.track=["tensorboard"]'])["state"].to_list()[0] == "done"


def test_the_four_tables_say_the_same(tmp_path: Path) -> None:
    facts = {"data": "d", "method": "m", "protocol": "full", "split": "test"}
    rows = [
        {"case": case, **facts, "seed": seed, "group": group, "metric": metric, "n": 5, "value": value + seed / 10}
        for case, value in (("a_b", 0.1), ("50%", 0.2))
        for seed in (1, 2)
        for group in ("all", "tail_items")
        for metric in ("hr@10", "ndcg@10")
    ]
    rows[0]["value"] = None  # an empty group has no value
    results.write(tmp_path, pl.DataFrame(rows))
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    table = list(csv.DictReader((tmp_path / "results.csv").open()))
    (one,) = [row for row in table if (row["case"], row["group"], row["metric"]) == ("50%", "all", "hr@10")]
    assert (one["seeds"], float(one["mean"])) == ("2", pytest.approx(0.35))  # (0.3 + 0.4) / 2
    assert float(one["sd"]) == pytest.approx(0.1 / 2**0.5)
    marked = (tmp_path / "results.md").read_text()
    assert (
        "| 50% | 2 | 0.3500 ±0.0707 / 0.3500 ±0.0707 |" in marked and "| a_b | 2 | 0.3000 / 0.2500 ±0.0707 |" in marked
    )
    typeset = (tmp_path / "results.tex").read_text()
    assert r"50\% & 2 & 0.3500 $\pm$0.0707" in typeset and r"a\_b" in typeset
    assert not re.search(r"(?<!\\)[_%#]", typeset.partition("\n")[2])  # all but the comment on the first line


def test_what_runs_and_how_far_it_is_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    lines = [json.dumps({"epoch": epoch, "ndcg@10": value}) for epoch, value in ((1, 0.3), (2, 0.2))]
    (tmp_path / "a-1" / "log.jsonl").write_text("\n".join(lines) + "\n")
    console = Console(record=True, width=120, file=(tmp_path / "screen").open("w"))
    with Watch(console, 5) as watch:
        watch.ended("b-1", "")
        watch.ended("c-1", "see its log")
        console.print(watch.table([Training("a-1", tmp_path / "a-1", 8), Training("d-1", tmp_path / "d-1", 8)]))
    text = console.export_text()
    assert "1 done, 2 running, 1 failed, 1 waiting; at most 0:00:00 left" in " ".join(text.split())
    assert re.search(r"a-1 +│ 2/8 +│ 0\.2000 +│ 0\.3000", text) and re.search(r"d-1 +│ 0/8", text)
    assert "b-1: done" in text and "c-1: failed, see its log" in text


def test_children_end_with_what_went_wrong_and_never_more_than_asked_run_at_once(tmp_path: Path) -> None:
    ended: dict[str, str] = {}
    seen: list[int] = []
    words = {"good": ["--help"], "bad": ["fit", "nowhere.toml", "--out", str(tmp_path / "x")], "worse": ["fat"]}

    def start(name: str) -> Child:
        return Child(words[name], tmp_path / name, 1)

    in_parallel(words, 2, start, ended.__setitem__, lambda running: seen.append(len(running)))
    assert ended == {"good": "", "bad": "exit code 2", "worse": "exit code 2"} and max(seen) == 2
    assert "no config file" in (tmp_path / "bad").read_text()
    assert usual_jobs() >= 1


def test_the_example_in_the_docs_is_valid_and_has_as_many_cells_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "plan.toml").write_text(block)
    made = experiment.plan(tmp_path / "plan.toml", tmp_path / "out")
    assert f": {len(made.cells)} trainings." in page and set(made.same) == {"retail-sasrec-llmesr-neighbors.k=10"}
    assert {cell.config.train.loss for cell in made.cells} == {"softmax", "bce"}
    assert search(
        tmp_path / "plan.toml",
        tmp_path / "search",
        1,
        Console(stderr=True),
        case=made.cells[0].case,
        judge=lambda asked, _: [one._replace(state="complete", curve=(0.5,)) for one in asked],
    )


@pytest.mark.slow
def test_the_example_in_the_docs_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "plan.toml").write_text(block)
    out = tmp_path / "out"
    rows = experiment.execute(
        tmp_path / "plan.toml", out, Console(stderr=True), settings=["train.epochs=1"], patterns=["*-42"]
    )
    assert len(set(rows["case"])) == 7 and (out / "results.tex").exists()


def test_the_papers_experiment_runs_in_small(plan: Path) -> None:
    """Baselines, the ablations and a point of each sweep, on planted data."""
    folder = plan.parent
    interactions, items = walks(), catalogue()
    for name, ids in (("item", items["item_id"]), ("user", interactions["user_id"].unique().sort())):
        pl.DataFrame({f"{name}_id": ids, "vector": vectors(ids, 12, 1).vectors}).write_parquet(
            folder / f"{name}s.pq.parquet"
        )
    paper = Path(__file__).parents[1] / "runs" / "paper.toml"
    settings = {
        "data.interactions": folder / "log.csv", "data.items": folder / "items.parquet",
        "text.model": f"file:{folder / 'items.pq.parquet'}", "text.user_model": f"file:{folder / 'users.pq.parquet'}",
        "backbone.d": 8, "backbone.max_len": 8, "train.epochs": 1, "protocol.sampled": 5,
    }  # fmt: skip
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "longtail", "run", str(paper), "--out", str(folder / "out"), "--jobs", "2", *given]
    baselines = ["rlmrec_gen", "melt"]
    wanted = [
        *(f"sasrec-{name}" for name in ("plain", *baselines, "llmesr")),
        "sasrec-llmesr-no_*",
        "sasrec-llmesr-*=0.05",
        "none-*",
        "?*4rec-llmesr",
    ]
    picked = [word for pattern in wanted for word in ("--cells", f"beauty-{pattern}-42")]
    done = subprocess.run([*command, *picked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cases = {row["case"].removeprefix("beauty-") for row in json.loads((folder / "out" / "results.json").read_text())}
    without = {f"llmesr-no_{part}" for part in ("collaborative_view", "semantic_view", "distillation", "fusion")}
    trained = {"plain", "llmesr", "llmesr-method.alpha=0.05", *without, *baselines}
    classical = {"popular", "repeat_last", "item_knn", "text_knn"}
    others = {"bert4rec-llmesr", "gru4rec-llmesr"}
    assert cases == {f"sasrec-{name}" for name in trained} | {f"none-{name}" for name in classical} | others
