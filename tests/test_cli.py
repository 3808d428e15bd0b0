"""The command as a user types it: the main path, wrong inputs, interruption, a full disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from longtail import cli
from tests.conftest import catalogue, vectors, walks

TINY = [
    "--set",
    "backbone.d=8",
    "--set",
    "backbone.max_len=8",
    "--set",
    "train.batch_size=16",
    "--set",
    "neighbors.k=2",
]


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `longtail args...`, in this process."""
    monkeypatch.setattr(sys, "argv", ["longtail", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        cli.main()
        sys.exit(0)
    captured = capsys.readouterr()
    code = left.value.code
    return (code if isinstance(code, int) else 1 if code else 0), captured.out, " ".join(captured.err.split())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A user's own files: interactions, items, and vectors for both made elsewhere."""
    interactions, items = walks(), catalogue()
    interactions.write_csv(tmp_path / "log.csv")
    items.write_parquet(tmp_path / "items.parquet")
    for name, ids, seed in (("item", items["item_id"], 1), ("user", interactions["user_id"].unique().sort(), 2)):
        rows = vectors(ids, 12, seed).vectors
        pl.DataFrame({f"{name}_id": ids, "vector": rows}).write_parquet(tmp_path / f"{name}_vectors.parquet")
    return tmp_path


def _vectors(files: Path) -> list[object]:
    return [
        "--set", f"text.model=file:{files / 'item_vectors.parquet'}",
        "--set", f"text.user_model=file:{files / 'user_vectors.parquet'}",
    ]  # fmt: skip


def test_the_main_path_from_files_to_recommendations(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, run = files / "prepared", files / "runs" / "one"
    code, out, _ = call(
        capsys, monkeypatch, "prepare", files / "log.csv", "--items", files / "items.parquet", "--out", prepared
    )
    assert code == 0 and "551" in out
    code, parts, _ = call(
        capsys, monkeypatch, "prepare", files / "log.csv", "--items", files / "items.parquet", "--out", prepared,
        "--memory", "16GB",
    )  # fmt: skip
    assert code == 0 and parts == out
    code, out, err = call(
        capsys, monkeypatch, "fit", "--data", prepared, "--out", run, *TINY, *_vectors(files), "--set", "train.epochs=2"
    )
    assert code == 0, err
    assert "longtail evaluate" in out
    code, out, err = call(capsys, monkeypatch, "evaluate", run)
    assert code == 2 and "protocol.sampled" in err  # a catalogue of twenty has no hundred candidates
    five = ["--set", "protocol.sampled=5"]
    code, out, err = call(capsys, monkeypatch, "evaluate", run, run, *five)
    assert code == 0 and "tail users" in out and "NDCG@10" in out, err
    code, out, _ = call(capsys, monkeypatch, "evaluate", run, "--json", "--split", "valid", *five)
    rows = json.loads(out)
    assert {row["split"] for row in rows} == {"valid"} and {"data", "method", "backbone", "loss", "seed"} <= set(
        rows[0]
    )
    code, out, _ = call(capsys, monkeypatch, "recommend", run, "--user", "u003", "-k", 3, "--json")
    assert code == 0 and [row["rank"] for row in json.loads(out)] == [1, 2, 3]
    code, out, _ = call(capsys, monkeypatch, "recommend", run, "--history", "i00, i02", "-k", 2)
    assert code == 0 and "Thing" in out


def test_a_config_file_with_cases_runs_as_an_experiment_and_again_does_nothing(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "plan.toml").write_text(
        """
        seeds = [1, 2]
        [data]
        interactions = "log.csv"
        items = "items.parquet"
        [backbone]
        d = 8
        max_len = 8
        [train]
        epochs = 2
        [protocol]
        sampled = 5
        [cases.plain-bce]
        method = {name = "plain"}
        [cases.plain-softmax]
        method = {name = "plain"}
        train = {loss = "softmax"}
        [cases.item-knn]
        method = {name = "item_knn"}
        """
    )
    out = files / "out"
    code, text, err = call(capsys, monkeypatch, "run", files / "plan.toml", "--out", out, "--jobs", 2)
    assert code == 0, err
    assert "plain-softmax | 2 |" in text and "±" in text
    rows = pl.DataFrame(json.loads((out / "results.json").read_text()), infer_schema_length=None)
    assert set(rows["seed"]) == {1, 2} and set(rows["loss"]) == {"bce", "softmax", "-"} and set(rows["data"]) == {"log"}
    assert rows.select("case", "seed", "protocol", "group", "metric").is_unique().all()
    untrained = json.loads((out / "item-knn-1" / "run.json").read_text())
    assert untrained["backbone"] is None and untrained["train"] is None  # the plan's are for the other cases
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    code, _, err = call(capsys, monkeypatch, "run", files / "plan.toml", "--out", out)
    assert code == 0 and "6 of 6 cells are done" in err
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    plan = files / "plan.toml"
    plan.write_text(plan.read_text().replace("epochs = 2", "epochs = 3"))
    code, _, err = call(capsys, monkeypatch, "run", plan, "--out", out)
    assert code == 2 and "other settings" in err  # figures of an older plan are never mixed in


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--out", "x"], "no data: give --data"),
        (["fit", "missing.toml", "--out", "x"], "no config file 'missing.toml'"),
        (["fit", "--data", "nothing.csv", "--out", "x"], "nothing.csv"),
        (["fit", "--data", "bundled:online_retial", "--out", "x"], "online_retail"),
        (["fit", "--data", "log.csv", "--method", "llmers", "--out", "x"], "did you mean 'llmesr'"),
        (["fit", "--data", "log.csv", "--set", "train.lr=fast", "--out", "x"], "train.lr"),
        (
            ["fit", "--data", "log.csv", "--set", "train.learning_rate=1", "--out", "x"],
            "unknown key 'train.learning_rate'",
        ),
        (["fit", "--data", "log.csv", "--set", "train", "--out", "x"], "not of the form key=value"),
        (["fit", "--data", "log.csv", "--method", "popular", "--backbone", "sasrec", "--out", "x"], "is not trained"),
        (["fit", "--data", "log.csv", "--set", "data.user=customer", "--out", "x"], "customer"),
        (["fit", "--data", "log.csv", "--set", "text.model=sbert:x", "--out", "x"], "sbert"),
        (["fit", "plan.toml", "--case", "b", "--out", "x"], "no case 'b'"),
        (["run", "plan.toml", "--out", "x"], "describes no experiment"),
        (["evaluate", "nowhere"], "config.json"),
        (["recommend", "nowhere", "--user", "u1"], "config.json"),
        (["embed", "nowhere"], "dataset.json"),
        (["prepare", "log.csv", "--out", "x", "--min-user", "99"], "lower the minimum"),
        (["prepare", "log.csv", "--items", "items.parquet", "--out", "."], "choose another folder"),
        (["prepare", "log.csv", "--out", "x", "--memory", "much"], "is no size; give it as 2GB"),
        (["prepare", "log.csv", "--out", "x", "--memory", "1MB"], "too little for reading log.csv; give --memory"),
        (["fit", "--data", "log.csv", "--method", "plain", "--out", "."], "not longtail's"),
        (["fit", ".", "--out", "x"], "name a TOML file"),
        (["fit", "--data", "log.csv", "--set", "train.lr=inf", "--out", "x"], "train.lr"),
        (["fit", "--data", "log.csv", "--set", "backbone.heads=3", "--out", "x"], "3 heads"),
        (
            ["fit", "--data", "log.csv", "--set", "train.device=cuda", "--method", "plain", "--out", "x"],
            "no CUDA device",
        ),
        (["fit", "--data", "log.csv", "--set", "protocol.ks=[5]", "--out", "x"], "add 10"),
        (["fit", "--data", "\N{GRINNING FACE}/log.csv", "--out", "x"], "\N{GRINNING FACE}/log.csv"),
    ],
)
def test_a_users_mistake_is_one_clear_message_and_exit_code_two(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(files)
    (files / "plan.toml").write_text('[data]\ninteractions = "log.csv"\n[cases.a]\n')
    code, out, err = call(capsys, monkeypatch, *args)
    assert code == 2 and message in err and "Traceback" not in err and out == ""
    assert not (files / "x" / "model.safetensors").exists()


def test_text_that_looks_like_markup_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = walks().with_columns(item_id="[/x]" + pl.col("item_id"))
    log.write_csv(tmp_path / "log.csv")
    log.select("item_id").unique().with_columns(title=pl.lit("Soap [pack of 2]")).write_csv(tmp_path / "items.csv")
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, monkeypatch, "prepare", "log.csv", "--items", "items.csv", "--out", "data[1]")
    assert code == 0, err
    code, out, err = call(
        capsys,
        monkeypatch,
        "fit",
        "--data",
        "data[1]",
        "--method",
        "plain",
        "--out",
        "run[1]",
        *TINY,
        "--set",
        "train.epochs=1",
    )
    assert code == 0 and "run[1]" in out, err
    code, out, err = call(capsys, monkeypatch, "recommend", "run[1]", "--user", "u003")
    assert code == 0 and "Soap [pack of 2]" in out and "[/x]i" in out, err


def _fit_command(files: Path, *more: str) -> list[str]:
    data = ["--data", str(files / "log.csv"), "--method", "plain", "--out", str(files / "run")]
    return [sys.executable, "-m", "longtail", "fit", *data, *TINY, "--set", "train.patience=1000", *more]


def test_ctrl_c_keeps_the_last_epoch_and_says_how_to_go_on(files: Path) -> None:
    long = _fit_command(files, "--set", "train.epochs=1000")
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, deadline = files / "run" / "log.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in err and "Traceback" not in err
    done = len(log.read_text().splitlines())
    evaluate = subprocess.run(
        [sys.executable, "-m", "longtail", "evaluate", str(files / "run")], capture_output=True, text=True, check=False
    )
    assert evaluate.returncode == 2 and "--resume" in evaluate.stderr
    more = subprocess.run(
        [*_fit_command(files, "--set", f"train.epochs={done + 2}"), "--resume"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert more.returncode == 0, more.stderr
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == list(range(1, done + 3))


def test_a_full_disk_in_mid_run_is_told_and_loses_nothing(files: Path) -> None:
    """A limit on the size of files makes real writes fail as a full disk does."""
    script = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.argv = {argv}; runpy.run_module('longtail', run_name='__main__')"
    short = _fit_command(files, "--set", "train.epochs=2")
    first = subprocess.run(short, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    kept = {path.name: path.read_bytes() for path in (files / "run").rglob("*") if path.is_file()}
    argv = ["longtail", *_fit_command(files, "--set", "train.epochs=4")[3:], "--resume"]
    failed = subprocess.run(
        [sys.executable, "-c", script.format(limit=6_000, argv=argv)], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2 and "cannot write" in failed.stderr and "Traceback" not in failed.stderr, (
        failed.stderr
    )
    now = {path.name: path.read_bytes() for path in (files / "run").rglob("*") if path.is_file()}
    # the third epoch's line, the four epochs that were asked for, and the process that tried
    asked = {"log.jsonl", "run.json", "lock"}
    assert {name: now[name] for name in kept.keys() - asked} == {name: kept[name] for name in kept.keys() - asked}
    again = subprocess.run(
        [*_fit_command(files, "--set", "train.epochs=4"), "--resume"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
