"""Fitting, saving, embedding and evaluating under each way to hold out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch

import longtail as lt
from longtail import cli, pipeline
from longtail.data.histories import Histories
from longtail.data.split import Split
from longtail.evaluation.protocol import rank_targets
from longtail.methods.llmesr import LLMESR
from longtail.nn.losses import LossName
from longtail.text.embed import embed_users
from longtail.text.embedders.base import sources
from tests.conftest import catalogue, vectors, walks
from tests.text.test_cache import Hashing

SCHEMES = ("time", "users", "items")
SETTINGS = {
    "backbone": {"d": 16, "max_len": 8, "dropout": 0.1},
    "neighbors": {"k": 3},
    "train": {"loss": "softmax", "lr": 0.02, "epochs": 2, "batch_size": 16, "device": "cpu"},
}
FULL = lt.ProtocolConfig(ks=(2, 10), sampled=5)


def data() -> lt.Dataset:
    """The walks along two circles, begun by three users at a time: the last begin after any cut."""
    begin = pl.col("user_id").str.slice(1).cast(pl.Int64) // 3
    return lt.Dataset.read(walks().with_columns(pl.col("timestamp") + begin), catalogue(), name="walks")


def config(scheme: str) -> lt.SplitConfig:
    return lt.SplitConfig() if scheme == "leave_one_out" else lt.SplitConfig(scheme=scheme, valid=0.2, test=0.2)


def fit(split: Split, method: str, run: Path | None = None, epochs: int = 2, resume: bool = False) -> lt.Recommender:
    assert split.data is not None
    items, users = (vectors(ids.ids, 12, seed) for ids, seed in ((split.data.items, 1), (split.data.users, 2)))
    settings = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": epochs}}
    return lt.Recommender(method, "sasrec", settings).fit(split, items=items, users=users, run=run, resume=resume)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_users_without_a_training_history_neither_teach_nor_are_taught(scheme: str) -> None:
    split = data().split(config(scheme))
    cold = np.flatnonzero(split.train.lengths[1:] == 0) + 1
    model = fit(split, "llmesr")  # their vectors are given, as vectors made elsewhere would be
    assert isinstance(model.method, LLMESR)
    neighbors = model.method.neighbors
    assert (len(cold) > 0) == (scheme != "items")
    assert not neighbors[cold].any() and not np.isin(neighbors, cold).any()
    warm = np.flatnonzero(split.train.lengths)
    assert neighbors[warm].all()


@pytest.mark.parametrize("method", ["plain", "llmesr"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_is_fitted_saved_loaded_and_evaluated(scheme: str, method: str, tmp_path: Path) -> None:
    split = data().split(config(scheme))
    model = fit(split, method, tmp_path / "run")
    again = lt.load(tmp_path / "run")
    assert again.split.scheme == split.scheme and again.split.contexts is not None and split.contexts is not None
    for stored, made in zip((again.split.train, *again.split.contexts), (split.train, *split.contexts), strict=True):
        np.testing.assert_array_equal(stored.items, made.items)
        np.testing.assert_array_equal(stored.offsets, made.offsets)
    for name in ("valid", "test"):
        report = lt.evaluate(again, split, name=name, protocol=FULL)
        assert report.ranks["user"].to_list() == np.flatnonzero(split.targets(name)).tolist()
        assert report.ranks.equals(lt.evaluate(model, again.split, name=name, protocol=FULL).ranks)
    users = split.data.users.ids if split.data else []
    found = again.recommend(users=users, k=20)
    for user, seen in zip(users, map(data().histories().of, range(1, len(users) + 1)), strict=True):
        given = found.filter(pl.col("user") == user)["item"].to_list()  # served after everything, however it was split
        assert sorted(given) == sorted(set(catalogue()["item_id"]) - set(data().items.external(seen)))


@pytest.mark.parametrize("scheme", ["time", "users"])
def test_what_is_learned_from_some_serves_the_others(scheme: str) -> None:
    split = data().split(config(scheme))
    report = lt.evaluate(fit(split, "plain", epochs=40), split, protocol=FULL)
    cold = split.train.lengths[report.ranks["user"].to_numpy()] == 0
    ranks = report.ranks["full"].to_numpy()
    assert cold.sum() > 5 and (ranks[cold] < 2).mean() > 0.9  # and contexts are in the order in which it was trained


@pytest.mark.parametrize("loss", get_args(LossName))
def test_training_leaves_held_out_items_as_they_were(loss: LossName) -> None:
    split = data().split(config("items"))
    tables = []
    for lr in (0.02, 0.01):
        settings = {**SETTINGS, "train": {**SETTINGS["train"], "loss": loss, "lr": lr}}
        method = lt.Recommender("plain", "sasrec", settings).fit(split).method
        assert method is not None
        tables.append(method.item_vectors().detach())
    same = (tables[0] == tables[1]).all(1).numpy()
    assert same[1:].tolist() == (split.train.counts(split.items)[1:] == 0).tolist() and same[1:].any()


@pytest.mark.parametrize("name", ["valid", "test"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_sampled_candidates_are_items_she_never_touched_before_or_after_the_target(scheme: str, name: str) -> None:
    split = data().split(config(scheme))
    whole = data().histories()

    def scorer(users: np.ndarray, known: Histories) -> Iterator[tuple[slice, torch.Tensor]]:
        """1 for items that a user never touched, 0 for the target, -1 for the others."""
        scores = torch.ones(len(users), split.items + 1)
        for row, user in enumerate(users):
            scores[row, torch.from_numpy(whole.of(int(user)))] = -1.0
            scores[row, int(split.targets(name)[user])] = 0.0
        yield slice(0, len(users)), scores

    ranks = rank_targets(scorer, split, name, lt.ProtocolConfig(sampled=8))
    assert ranks["sampled8"].to_list() == [8] * len(ranks) and len(ranks) > 3


def test_too_few_candidates_are_noticed_for_users_who_did_not_train() -> None:
    rows = [("old", f"i{item}", item) for item in range(4)] + [("older", f"i{item}", item) for item in range(4)]
    rows += [("new", f"i{item}", 10 + item) for item in range(9)]  # who touches all but one item
    rows += [("old", "i9", 30), ("older", "i9", 10)]
    table = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    split = lt.Dataset.read(table).split(lt.SplitConfig(scheme="time", valid=0.3, test=0.3))
    assert split.test[split.data.users.internal(["new"])[0]] and split.data is not None
    model = fit(split, "plain", epochs=1)
    with pytest.raises(lt.DataError, match="fewer than 2 items they never touched"):
        lt.evaluate(model, split, protocol=lt.ProtocolConfig(sampled=2))
    assert len(lt.evaluate(model, split, protocol=lt.ProtocolConfig(sampled=1)).ranks)


def test_a_run_of_one_split_is_not_gone_on_with_on_another(tmp_path: Path) -> None:
    whole = data()
    fit(whole.split(config("time")), "plain", tmp_path)
    for other in ("leave_one_out", "users"):
        with pytest.raises(lt.RunError, match="another config, split or data"):
            fit(whole.split(config(other)), "plain", tmp_path, epochs=3, resume=True)
    facts = tmp_path / "config.json"
    before = facts.read_bytes()
    facts.unlink()
    for name in ("items.parquet", "users.parquet", "histories.safetensors", "model.safetensors"):
        (tmp_path / name).unlink()
    with pytest.raises(lt.RunError, match="another config"):  # by the checkpoint alone
        fit(whole.split(config("users")), "plain", tmp_path, epochs=3, resume=True)
    facts.write_bytes(before)
    fit(whole.split(config("time")), "plain", tmp_path, epochs=3, resume=True)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_model_is_not_evaluated_on_what_it_was_trained_on() -> None:
    whole = data()
    model = fit(whole.split(config("time")), "plain")
    with pytest.raises(lt.DataError, match=r"fitted on split time\(.*evaluate on its own split"):
        lt.evaluate(model, whole.leave_one_out(), protocol=FULL)


def test_a_run_of_the_first_format_is_one_of_leave_one_out(tmp_path: Path) -> None:
    split = data().leave_one_out()
    model = fit(split, "plain", tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    del facts["data"]["split"]
    (tmp_path / "config.json").write_text(json.dumps({**facts, "format": 1}))
    old = lt.load(tmp_path)
    assert old.split.scheme == "leave_one_out" and old.split.contexts is None
    assert lt.evaluate(old, split, protocol=FULL).ranks.equals(lt.evaluate(model, split, protocol=FULL).ranks)
    fit(split, "plain", tmp_path, epochs=3, resume=True)  # and it can be gone on with
    assert json.loads((tmp_path / "config.json").read_text())["data"]["split"] == "leave_one_out"


def test_stored_user_vectors_of_another_split_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of leave-one-out were made of histories that hold the targets of a time split."""
    prepared = tmp_path / "prepared"
    monkeypatch.setitem(sources._entries, "hashing", lambda rest: Hashing())  # for this test alone
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["longtail", "embed", str(prepared), "--model", "hashing"])
    whole = data()
    whole.save(prepared)
    cli.app(standalone_mode=False)
    stored = lt.Embeddings.load(prepared / "embeddings" / "users")
    settings = [f"data.interactions={prepared}", "text.model=hashing", "method.name=llmesr"]
    found = pipeline.knowledge(pipeline.run_config(None, settings), whole, whole.leave_one_out())[1]
    assert found is not None and found.provenance == stored.provenance  # its own split's are taken as they are
    timed = pipeline.run_config(None, [*settings, "split.scheme=time"])
    split = whole.split(timed.split)
    made = pipeline.knowledge(timed, whole, split)[1]
    fresh = embed_users(split.train, whole.text, whole.users, Hashing(), cache=tmp_path / "c")
    assert made is not None and np.array_equal(made.vectors, fresh.vectors)
    assert not np.array_equal(made.vectors, stored.vectors)
    assert list(made.without_text) == list(whole.users.ids.filter(pl.Series(split.train.lengths[1:] == 0)))
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--set", "split.scheme=time"])
    cli.app(standalone_mode=False)
    kept = lt.Embeddings.load(prepared / "embeddings" / "users")
    again = pipeline.knowledge(timed, whole, split)[1]
    assert again is not None and again.provenance == kept.provenance and np.array_equal(kept.vectors, made.vectors)


def test_the_command_line_takes_a_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data().save(tmp_path / "data")

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["longtail", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
            sys.exit(0)
        captured = capsys.readouterr()
        return int(left.value.code or 0), " ".join((captured.out + captured.err).split())

    tiny = ["--method", "plain", "--set", "backbone.d=8", "--set", "train.epochs=1", "--set", "protocol.sampled=5"]
    fitted = ["fit", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *tiny]
    assert call(*fitted, "--set", "split.scheme=users")[0] == 0
    assert call("evaluate", str(tmp_path / "run"))[0] == 0
    assert lt.load(tmp_path / "run").split.scheme == "users(valid=0.1, test=0.1, seed=42)"
    code, said = call(*fitted, "--set", "split.scheme=time", "--resume")
    assert code == 2 and "another config, split or data" in said
    code, said = call("embed", str(tmp_path / "data"), "--set", "split.shceme=time")
    assert code == 2 and "unknown key 'split.shceme', did you mean 'scheme'?" in said
    code, said = call("embed", str(tmp_path / "data"), "--set", "train.lr=1")
    assert code == 2 and "unknown key 'train'" in said and "valid here: text, split" in said


def test_the_config_files_in_the_docs_are_valid() -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    found = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)]
    assert [pipeline.run_config(None, values=values).split.scheme for values in found] == ["leave_one_out", *SCHEMES]
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    lines = example.replace("users = ", "# ").splitlines()  # whose texts take minutes
    said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert said.strip() in example
