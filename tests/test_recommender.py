"""Recommending, saving, loading, and what is said when something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import longtail as lt
from longtail.data.histories import from_lists
from longtail.data.split import leave_one_out
from longtail.evaluation import protocol
from longtail.evaluation.report import evaluate
from longtail.files import locked
from tests.conftest import Planted, catalogue, plant, vectors, walks

SETTINGS = {
    "backbone": {"d": 8, "max_len": 8, "dropout": 0.1},
    "neighbors": {"k": 2},
    "train": {"loss": "softmax", "lr": 0.01, "epochs": 3, "batch_size": 32, "device": "cpu"},
}


@pytest.fixture(scope="module")
def run(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    model = lt.Recommender("llmesr", "sasrec", SETTINGS)
    model.fit(planted.split, items=planted.items, users=planted.users, run=folder)
    evaluate(model, planted.split, protocol=lt.ProtocolConfig(sampled=5)).save(folder)
    return folder


def _copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_run_folder_holds_what_it_should_and_no_pickle(run: Path) -> None:
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == {
        "config.json",
        "model.safetensors",
        "items.parquet",
        "users.parquet",
        "histories.safetensors",
        "log.jsonl",
        "ranks.parquet",
        "metrics.json",
        "checkpoint/last.safetensors",
        "checkpoint/lock",
    }
    facts = json.loads((run / "config.json").read_text())
    assert facts["config"]["train"]["lr"] == 0.01 and facts["versions"]["longtail"] == lt.__version__
    assert len((run / "log.jsonl").read_text().splitlines()) == 3


def test_known_users_and_their_bare_histories_get_the_same(run: Path, planted: Planted) -> None:
    model = lt.load(run)
    everything = planted.data.histories()
    users = ["u005", "u000", "u005"]
    bare = [planted.data.items.external(everything.of(int(user))) for user in planted.data.users.internal(users)]
    known, told = model.recommend(users=users, k=4), model.recommend(histories=bare, k=4)
    assert known["user"].to_list() == [user for user in users for _ in range(4)]
    assert told["user"].to_list() == [position for position in range(3) for _ in range(4)]
    for column in ("rank", "item", "title"):
        assert known[column].to_list() == told[column].to_list()
    np.testing.assert_allclose(known["score"], told["score"], atol=1e-6)
    assert known["rank"].to_list() == [1, 2, 3, 4] * 3
    assert (known["title"] == "Thing " + known["item"].str.slice(1).cast(pl.Int64).cast(pl.String)).all()
    scores = known["score"].to_numpy().reshape(3, 4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_how_many_users_are_scored_at_once_changes_nothing(
    run: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = lt.load(run), lt.ProtocolConfig(sampled=5)

    def judged() -> tuple[pl.DataFrame, pl.DataFrame]:
        top = model.recommend(users=planted.data.users.ids, k=3)
        return evaluate(model, planted.split, protocol=config).ranks, top.drop("score")

    before = judged()
    monkeypatch.setattr(protocol, "SCORES", 1)
    monkeypatch.setattr(protocol, "ROWS", 7)
    assert all(now.equals(then) for now, then in zip(judged(), before, strict=True))


def test_seen_items_return_only_when_asked_for(run: Path) -> None:
    model, history = lt.load(run), ["i00", "i02", "i04"]
    without = model.recommend(histories=[history], k=20)
    with_seen = model.recommend(histories=[history], k=20, exclude_seen=False)
    assert len(without) == 17 and not set(history) & set(without["item"])
    assert len(with_seen) == 20 and set(history) <= set(with_seen["item"])


def test_diverse_lists_leave_seen_items_out_and_are_told_apart_from_what_cannot_be_made(
    run: Path, planted: Planted
) -> None:
    model, history = lt.load(run), ["i00", "i02", "i04"]
    plain = model.recommend(histories=[history], k=20)
    diverse = model.recommend(histories=[history, ["i01"]], k=20, diversity=0.8, reranker="dpp")
    first = diverse.filter(pl.col("user") == 0)
    assert set(first["item"]) == set(plain["item"]) and first["item"].to_list() != plain["item"].to_list()
    assert first["rank"].to_list() == list(range(1, 18)) and len(diverse) == 17 + 19
    scores = dict(zip(plain["item"], plain["score"], strict=True))
    assert [scores[item] for item in first["item"]] == pytest.approx(first["score"].to_list(), abs=1e-4)
    assert model.recommend(histories=[history], k=5, diversity=0.8)["item"][0] == plain["item"][0]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(lt.DataError, match=r"diversity = .*: choose from 0"):
            model.recommend(histories=[history], diversity=wrong)
    with pytest.raises(lt.DataError, match="unknown reranker 'mmd', did you mean 'mmr'"):
        model.recommend(histories=[history], diversity=0.5, reranker="mmd")  # type: ignore[arg-type]
    popular = lt.Recommender("popular").fit(planted.split)
    with pytest.raises(lt.DataError, match="method 'popular' has no item vectors"):
        popular.recommend(histories=[history], diversity=0.5)


def test_figures_recompute_from_the_stored_ranks(run: Path) -> None:
    ranks = pl.read_parquet(run / "ranks.parquet")
    stored = json.loads((run / "metrics.json").read_text())["figures"]
    (value,) = [
        row["value"] for row in stored if (row["protocol"], row["group"], row["metric"]) == ("full", "all", "hr@10")
    ]
    assert value == pytest.approx(float((ranks["full"] < 10).mean()))
    row = stored[0]
    assert [row[key] for key in ("data", "method", "backbone", "loss", "seed", "split")] == [
        "planted",
        "llmesr",
        "sasrec",
        "softmax",
        42,
        "test",
    ]


def test_the_validation_report_is_kept_beside_the_test_report(run: Path, planted: Planted, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path)
    before = json.loads((folder / "metrics.json").read_text())["figures"]
    for _ in range(2):
        evaluate(lt.load(folder), planted.split, name="valid", protocol=lt.ProtocolConfig(sampled=0)).save(folder)
    after = json.loads((folder / "metrics.json").read_text())["figures"]
    assert [row for row in after if row["split"] == "test"] == before
    full = [row for row in before if row["protocol"] == "full"]
    assert len([row for row in after if row["split"] == "valid"]) == len(full)
    assert set(pl.read_parquet(folder / "ranks.parquet")["split"]) == {"valid", "test"}


def test_a_report_reads_as_a_table(run: Path, planted: Planted) -> None:
    text = str(lt.evaluate(lt.load(run), planted.split, protocol=lt.ProtocolConfig(sampled=5)))
    for part in ("tail items", "head users tail items", "NDCG@10", "full ranking", "5 sampled candidates"):
        assert part in text


def test_asking_wrongly_is_answered_clearly(run: Path) -> None:
    model = lt.load(run)
    with pytest.raises(lt.DataError, match="unknown user 'nobody'"):
        model.recommend(users=["nobody"])
    with pytest.raises(lt.DataError, match="unknown item 'i99'"):
        model.recommend(histories=[["i00", "i99"]])
    with pytest.raises(lt.DataError, match="history 1 is empty"):
        model.recommend(histories=[["i00"], []])
    with pytest.raises(lt.DataError, match="no histories"):
        model.recommend(histories=[])
    with pytest.raises(lt.DataError, match="either users"):
        model.recommend()
    with pytest.raises(lt.DataError, match="k = 0"):
        model.recommend(users=["u001"], k=0)
    with pytest.raises(lt.RunError, match="has not been fitted"):
        lt.Recommender("plain").recommend(users=["u001"])


def test_fitting_wrongly_is_answered_clearly(planted: Planted, run: Path) -> None:
    model = lt.Recommender("llmesr", "sasrec", SETTINGS)
    with pytest.raises(lt.EmbeddingError, match="needs item embeddings"):
        model.fit(planted.split)
    with pytest.raises(lt.EmbeddingError, match="needs user embeddings"):
        model.fit(planted.split, items=planted.items)
    with pytest.raises(lt.EmbeddingError, match=r"cover 19 of 20 items.*'i19'"):
        model.fit(planted.split, items=vectors(planted.data.items.ids.head(19), 12, 0), users=planted.users)
    with pytest.raises(lt.DataError, match="knows no data set"):
        model.fit(leave_one_out(from_lists([[1, 2, 3]]), 3))
    with pytest.raises(lt.RunError, match="already holds a run"):
        model.fit(planted.split, items=planted.items, users=planted.users, run=run)
    with pytest.raises(lt.ConfigError, match="did you mean 'llmesr'"):
        lt.Recommender("llmers")
    with pytest.raises(lt.ConfigError, match="did you mean 'dropout'"):
        lt.Recommender("plain", "sasrec", {"backbone": {"dropuot": 0.2}})
    with pytest.raises(lt.ConfigError, match=r"train\.lr = -1.*greater than 0"):
        lt.Recommender("plain", "sasrec", {"train": {"lr": -1}})


def test_vectors_with_nan_are_refused_before_training(planted: Planted) -> None:
    broken = vectors(planted.data.items.ids, 12, 0)
    broken.vectors[4, 3] = np.nan
    with pytest.raises(lt.EmbeddingError, match="'i04'"):
        lt.Recommender("llmesr", "sasrec", SETTINGS).fit(planted.split, items=broken, users=planted.users)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "items.parquet", "users.parquet", "histories.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_run_names_the_file(run: Path, tmp_path: Path, name: str, damage: str) -> None:
    path = _copy(run, tmp_path) / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(lt.RunError, match=name):
        lt.load(path.parent)


def test_a_newer_run_and_one_that_did_not_end_say_so(run: Path, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(lt.RunError, match="upgrade longtail"):
        lt.load(folder)
    (folder / "config.json").write_text(json.dumps({**facts, "sizes": None}))
    with pytest.raises(lt.RunError, match="--resume"):
        lt.load(folder)
    (folder / "config.json").write_text(json.dumps({**facts, "sizes": {**facts["sizes"], "items": 7}}))
    with pytest.raises(lt.RunError, match="do not fit"):
        lt.load(folder)


def test_a_run_resumed_with_other_vectors_is_refused(run: Path, tmp_path: Path, planted: Planted) -> None:
    other = vectors(planted.data.items.ids, 14, 0)
    with pytest.raises(lt.RunError, match="another config"):
        lt.Recommender("llmesr", "sasrec", SETTINGS).fit(
            planted.split, items=other, users=planted.users, run=_copy(run, tmp_path), resume=True
        )
    assert lt.load(tmp_path / "copy").facts() == lt.load(run).facts()  # and it is as it was


def test_users_with_under_three_interactions_train_and_are_served_but_not_evaluated(planted: Planted) -> None:
    rows = pl.DataFrame({"user_id": ["new", "new"], "item_id": ["i00", "i02"], "timestamp": [0, 1]})
    more = plant(pl.concat([walks(), rows]))
    model = lt.Recommender("llmesr", "sasrec", SETTINGS).fit(more.split, items=more.items, users=more.users)
    assert len(model.recommend(users=["new"], k=3)) == 3
    new = int(more.data.users.internal(["new"])[0])
    assert new not in lt.evaluate(model, more.split, protocol=lt.ProtocolConfig(sampled=0)).ranks["user"]


def test_nothing_of_a_users_own_or_of_another_run_is_overwritten(run: Path, tmp_path: Path, planted: Planted) -> None:
    catalogue().write_parquet(tmp_path / "items.parquet")
    before = (tmp_path / "items.parquet").read_bytes()
    with pytest.raises(lt.LongtailError, match="not longtail's"):
        lt.load(run).save(tmp_path)
    assert (tmp_path / "items.parquet").read_bytes() == before
    other = lt.Recommender("plain", "sasrec", SETTINGS).fit(planted.split)
    folder = _copy(run, tmp_path)
    with pytest.raises(lt.RunError, match="another config"):
        other.save(folder)
    shutil.rmtree(folder / "checkpoint")
    with pytest.raises(lt.RunError, match="without a checkpoint"):
        lt.Recommender("llmesr", "sasrec", SETTINGS).fit(
            planted.split, items=planted.items, users=planted.users, run=folder, resume=True
        )
    assert lt.load(folder).facts() == lt.load(run).facts()


def test_figures_of_an_older_model_do_not_outlive_it(run: Path, tmp_path: Path, planted: Planted) -> None:
    folder = _copy(run, tmp_path)
    longer = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 5}}
    lt.Recommender("llmesr", "sasrec", longer).fit(
        planted.split, items=planted.items, users=planted.users, run=folder, resume=True
    )
    assert not {"metrics.json", "ranks.parquet", "report.html"} & {path.name for path in folder.iterdir()}
    assert len((folder / "log.jsonl").read_text().splitlines()) == 5


def test_a_folder_at_work_is_left_to_the_process_that_works_in_it(tmp_path: Path, planted: Planted) -> None:
    with locked(tmp_path / "checkpoint" / "lock"), pytest.raises(lt.LongtailError, match="another process"):
        lt.Recommender("plain", "sasrec", SETTINGS).fit(planted.split, run=tmp_path)
    lt.Recommender("plain", "sasrec", SETTINGS).fit(planted.split, run=tmp_path)


def test_reordered_rows_in_a_run_folder_are_noticed(run: Path, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path)
    items = pl.read_parquet(folder / "items.parquet")
    items.reverse().write_parquet(folder / "items.parquet")
    with pytest.raises(lt.RunError, match=r"items\.parquet is missing or not what was saved"):
        lt.load(folder)


def test_a_split_of_other_data_is_refused(run: Path) -> None:
    other = plant(walks(seed=5))
    with pytest.raises(lt.DataError, match="not of the data"):
        lt.evaluate(lt.load(run), other.split)


def test_an_item_table_may_use_any_column_name(tmp_path: Path) -> None:
    table = catalogue().with_columns(item_id_=pl.lit(1), _id=pl.lit("x"))
    data = lt.Dataset.read(walks(), table, item_id="item_id")
    model = lt.Recommender("plain", "sasrec", SETTINGS).fit(data.leave_one_out(), run=tmp_path)
    found = lt.load(tmp_path)
    assert found.recommend(users=["u001"]).equals(model.recommend(users=["u001"]))
    assert found.known is not None and found.known.text.equals(data.text)


def test_a_refused_fit_leaves_the_recommender_as_it_was(run: Path) -> None:
    model = lt.load(run)
    before = model.recommend(users=["u001"])
    with pytest.raises(lt.EmbeddingError):
        model.fit(plant(walks(seed=5)).split)
    assert model.recommend(users=["u001"]).equals(before)
    with pytest.raises(lt.DataError, match="come as a list"):
        model.recommend(users=1)


def test_a_few_users_may_validate(planted: Planted, tmp_path: Path) -> None:
    settings = {"backbone": {"d": 8, "max_len": 6}, "seed": 3}
    training = {"loss": "softmax", "lr": 0.02, "epochs": 3, "batch_size": 16, "validation_users": 20}
    few = planted.split.validating(20, 3)
    assert np.count_nonzero(few.valid) == 20 and set(few.valid) <= {0, *planted.split.valid}
    assert planted.split.validating(None, 3) is planted.split.validating(10**6, 3) is planted.split
    model = lt.Recommender("plain", "sasrec", {**settings, "train": training})
    model.fit(planted.split, run=tmp_path / "run")
    log = [json.loads(line)["ndcg@10"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert max(log) == pytest.approx(model.validate(few).overall) != model.validate().overall
