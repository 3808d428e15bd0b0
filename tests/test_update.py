"""A finished run goes on with what came after it."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import longtail as lt
from longtail import refresh
from longtail.cli import app
from longtail.data.dataset import Dataset
from longtail.data.extension import extend
from longtail.errors import LongtailError, RunError
from longtail.pipeline import fit, item_embeddings, report, run_config
from longtail.train import loop
from longtail.train.warm import UpdateConfig
from tests.conftest import walks

WORDS = ["amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jumbo"]


def titles() -> pl.DataFrame:
    """Two words an item, of which the first tells its circle, even or odd."""
    rows = [(f"i{item:02d}", f"{['sea', 'land'][item % 2]} {WORDS[item // 2]}") for item in range(20)]
    return pl.DataFrame(rows, schema=["item_id", "title"], orient="row")


NEW = pl.DataFrame(
    {
        "user_id": ["u000", "u000", "ann", "ann", "ann", "ann", "u001"],
        "item_id": ["i02", "zz", "i01", "i03", "i05", "i07", "i03"],
        "timestamp": [101, 102, 1, 2, 3, 4, 99],
    }
)
ITEMS = pl.DataFrame({"item_id": ["zz", "cold"], "title": ["sea amber", "land basil"]})


def fitted(folder: Path, method: str, **settings: object) -> Path:
    """A run of a few epochs on the planted walks."""
    walks().write_parquet(folder / "old.parquet")
    titles().write_parquet(folder / "items.parquet")
    values = {
        "data": {"interactions": str(folder / "old.parquet"), "items": str(folder / "items.parquet")},
        "method": {"name": method},
        "text": {"model": "lexical:4", "users": "pooled"},
        **settings,
    }
    trained = {"backbone": {"d": 8, "max_len": 8}, "train": {"epochs": 12, "batch_size": 32, "loss": "softmax"}}
    values |= trained if method not in {"popular", "text_knn"} else {}
    if method == "longtail":
        values["method"] |= {"text_neighbors": 3, "order_neighbors": 3}
    if "train" in values:
        values["train"] |= {"lr": 0.01}
    fit(run_config(None, values=values), folder / method)
    return folder / method


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("runs"), "longtail")


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_old_rows_are_bit_equal_and_new_ones_come_from_texts(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    model = refresh.update(run, NEW, tmp_path / "out", ITEMS, config=UpdateConfig(epochs=0))
    old, (was, now) = lt.load(run), (lt.load(run).catalogue(), model.catalogue())
    vectors = [one.method.item_vectors().detach().numpy() for one in (old, model)]
    places = now.items.internal(was.items.ids)
    assert np.array_equal(vectors[1][places], vectors[0][1:])
    assert now.items.ids.to_list() == [*ITEMS["item_id"].sort().to_list()[:1], *was.items.ids, "zz"]
    added = vectors[1][now.items.internal(["zz", "cold"])]
    names = dict(zip(was.items.ids, vectors[0][1:], strict=True))
    assert np.linalg.norm(added[0] - names["i00"]) < np.linalg.norm(added[0] - names["i01"])  # 'sea amber' twice
    assert contents(run) == before


def test_the_new_run_is_an_ordinary_one(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = refresh.update(run, NEW, out, ITEMS)
    model = lt.load(out)
    assert model.recommend(["ann"], k=3).equals(told.recommend(["ann"], k=3))
    split, users = model.split, model.catalogue().users
    last = model.catalogue().items.external(split.test[users.internal(["u000", "ann", "u001"])])
    assert last.to_list() == ["zz", "i07", "i03"]  # leave-one-out of the longer histories
    found = report(out, settings=["protocol.sampled=0"])
    assert found.value("ndcg@10") is not None and (out / "metrics.json").exists()
    vectors = item_embeddings(model, out)
    assert vectors is not None and {"zz", "cold"} <= set(vectors.ids)
    moved = Path(shutil.move(out, tmp_path / "moved"))  # all that the next update needs is there
    again = refresh.update(moved, NEW.head(1).with_columns(timestamp=pl.lit(500)), tmp_path / "third")
    assert len(again.catalogue().items) == 22 and again.split.everything().lengths[users.internal(["u000"])][0] > 4


def test_a_user_with_new_events_sees_them(run: Path, tmp_path: Path) -> None:
    model = refresh.update(run, NEW, tmp_path / "out", ITEMS)
    assert "zz" not in model.recommend(["u000"], k=22)["item"].to_list()  # seen by now
    before = lt.load(run).recommend(["u001"], k=20)["item"].to_list()
    bare = model.recommend(histories=[[*_history(run, "u001"), "i03"]], k=22)["item"].to_list()
    assert model.recommend(["u001"], k=22)["item"].to_list() == bare and "i03" not in bare and bare != before
    with pytest.raises(LongtailError, match="ann"):
        lt.load(run).recommend(["ann"])


def _history(run: Path, user: str) -> list[str]:
    known = lt.load(run).catalogue()
    items = known.split.everything().of(int(known.users.internal([user])[0]))
    return known.items.external(items).to_list()


def test_a_new_item_is_recommended_by_its_text(run: Path, tmp_path: Path) -> None:
    """'sea amber' is the text of i00, too, so that it is recommended after it; nobody has touched it yet."""
    model = refresh.update(run, NEW.tail(1), tmp_path / "out", ITEMS)
    lists = model.recommend(histories=[["i00"]], k=22)["item"].to_list()
    assert lists.index("zz") < 5 < lists.index("cold")
    assert model.recommend(["u003"], k=22)["item"].is_in(["zz", "cold"]).sum() == 2


def test_training_on_news_learns_them(tmp_path: Path) -> None:
    """Users who go on with i08 after i01, which nobody did before: training puts it higher there."""
    folder = fitted(tmp_path, "plain")
    rows = [(f"n{user}", item, time) for user in range(40) for time, item in enumerate(["i01", "i08", "i01", "i08"])]
    news = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    places = []
    for epochs in (0, 5):
        config = UpdateConfig(epochs=epochs, lr=0.01, batch_size=8)
        model = refresh.update(folder, news, tmp_path / str(epochs), config=config)
        lists = model.recommend(histories=[["i01"]], k=20, exclude_seen=False)["item"].to_list()
        places.append(lists.index("i08"))
    assert places[0] > 3 and places[1] < 2
    assert len((tmp_path / "5" / "log.jsonl").read_text().splitlines()) > 0


def test_gamma_and_dial_are_kept_or_chosen_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, asked = lt.load(run).method, []
    monkeypatch.setattr(type(old), "choose", lambda method, validate: asked.append(validate().overall))
    config = UpdateConfig(epochs=1, validated=0.0, replay=0.0, patience=2)
    kept = refresh.update(run, NEW, tmp_path / "kept", ITEMS, config=config).method
    assert torch.equal(kept.gamma, old.gamma) and torch.equal(kept.dial, old.dial) and not asked
    refresh.update(run, NEW, tmp_path / "chosen", ITEMS, config=config.model_copy(update={"choose": True}))
    assert len(asked) == 1


def test_who_validates_has_news_and_no_item_that_trained(run: Path) -> None:
    """u000 and u001 went on; ann's is new; of a user of two events that both trained, the second validates now."""
    short = pl.DataFrame({"user_id": ["two", "two"], "item_id": ["i00", "i02"], "timestamp": [1, 2]})
    data = Dataset.read(pl.concat([walks(), short]), titles())
    more = extend(data, pl.concat([NEW, NEW.head(1).with_columns(user_id=pl.lit("two"), item_id=pl.lit("i04"))]))
    old, split = data.leave_one_out(), more.data.leave_one_out()
    before = np.concatenate([old.trains, np.zeros(len(more.origin) - more.known, bool)])[more.origin]
    assert split.valid[more.data.users.internal(["two"])][0] > 0
    alone = refresh._validating(more, split, before, 0.0, 42)
    assert more.data.users.external(alone).to_list() == ["ann", "u000", "u001"]
    assert len(refresh._validating(more, split, before, 2.0, 42)) == 9


@pytest.mark.parametrize("method", ["llmesr", "plain", "popular", "text_knn"])
def test_other_methods_go_on_too(method: str, tmp_path: Path) -> None:
    folder = fitted(tmp_path, method)
    model = refresh.update(folder, NEW, tmp_path / "out", ITEMS, config=UpdateConfig(epochs=1))
    assert len(model.recommend(["ann"], k=5)) == 5
    assert lt.load(tmp_path / "out").recommend(["ann"], k=5).equals(model.recommend(["ann"], k=5))


def test_backbones_that_hide_items_go_on_by_users(tmp_path: Path) -> None:
    folder = fitted(tmp_path, "plain", backbone={"name": "bert4rec", "d": 8, "max_len": 8}, train={"epochs": 1})
    refresh.update(folder, NEW, tmp_path / "out", ITEMS, config=UpdateConfig(epochs=1, batch_size=1))
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("melt", {}, "2 stages"),
        ("null_space", {}, "cannot be updated: new items cannot join"),
        ("plain", {"split": {"scheme": "users"}}, "split 'users'"),
    ],
)
def test_what_cannot_be_updated_says_why(
    method: str, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = fitted(tmp_path, method, **settings)
    with pytest.raises(LongtailError, match=message):
        refresh.update(folder, NEW, tmp_path / "out", ITEMS)
    assert not (tmp_path / "out").exists()


def test_changed_data_and_runs_from_python_are_refused(tmp_path: Path) -> None:
    folder = fitted(tmp_path, "popular")
    walks(users=80).write_parquet(tmp_path / "old.parquet")
    with pytest.raises(LongtailError, match=r"not what .* was fitted on"):
        refresh.update(folder, NEW, tmp_path / "out")
    (folder / "run.json").unlink()
    with pytest.raises(RunError, match="fitted from Python"):
        refresh.update(folder, NEW, tmp_path / "out")


def test_a_cut_update_leaves_the_run_and_goes_on_as_if_it_had_not_been(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, config = contents(run), UpdateConfig(epochs=3, patience=3)
    whole = refresh.update(run, NEW, tmp_path / "whole", ITEMS, config=config)
    recorded, written = loop._record, []

    def cut(*given: object) -> None:
        recorded(*given)  # type: ignore[arg-type]
        written.append(given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_record", cut)
        with pytest.raises(KeyboardInterrupt):
            refresh.update(run, NEW, tmp_path / "cut", ITEMS, config=config)
    assert contents(run) == before and len(written) == 1
    with pytest.raises(RunError, match="--resume"):
        refresh.update(run, NEW, tmp_path / "cut", ITEMS, config=config)
    with pytest.raises(RunError, match="another config, data or seed"):
        refresh.update(run, NEW, tmp_path / "cut", ITEMS, config=UpdateConfig(epochs=3, lr=1e-4), resume=True)
    resumed = refresh.update(run, NEW, tmp_path / "cut", ITEMS, config=config, resume=True)
    states = [one.method.state_dict() for one in (whole, resumed)]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert len((tmp_path / "cut" / "log.jsonl").read_text().splitlines()) == 3


def test_the_command_line(run: Path, tmp_path: Path) -> None:
    NEW.write_csv(tmp_path / "new.csv")
    ITEMS.write_csv(tmp_path / "items.csv")
    call = ["update", str(run), "--interactions", str(tmp_path / "new.csv"), "--items", str(tmp_path / "items.csv")]
    result = CliRunner().invoke(app, [*call, "--out", str(tmp_path / "out"), "--set", "epochs=1", "--set", "lr=1e-3"])
    assert result.exit_code == 0, result.output
    assert "7 new interactions of 3 users, 1 of them new; 2 new items" in result.output
    facts = json.loads((tmp_path / "out" / "update.json").read_text())
    assert shlex.split(refresh.command(tmp_path / "out"))[1:6] == call[:2] + call[2:4] + ["--items"]
    assert facts["config"]["lr"] == 1e-3 and facts["run"] == str(run.resolve())
    refused = CliRunner().invoke(app, [*call, "--out", str(tmp_path / "out")])
    assert isinstance(refused.exception, RunError) and "exists" in str(refused.exception)
    wrong = CliRunner().invoke(app, [*call, "--out", str(tmp_path / "x"), "--set", "learning=1"])
    assert isinstance(wrong.exception, LongtailError) and not (tmp_path / "x").exists()
    assert "'who'" in str(CliRunner().invoke(app, [*call, "--out", str(tmp_path / "x"), "--user", "who"]).exception)
