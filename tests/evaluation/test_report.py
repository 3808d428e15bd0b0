"""A report is what its run folder says: every figure again from the stored ranks and lists; warnings; refusals."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import longtail as lt
from longtail import pipeline
from longtail.evaluation.comparable import read_run, run_members
from longtail.evaluation.corrected import balanced, unbiased_rank
from longtail.evaluation.metrics import METRICS
from longtail.evaluation.report import Report, evaluate
from longtail.evaluation.tables import tables
from longtail.results import collect, markdown
from tests.conftest import catalogue, vectors, walks
from tests.test_cli import call

BY = lt.GroupsConfig(user_edges=(2, 4), item_edges=(15, 25), columns=("kind",))
PROTOCOL = lt.ProtocolConfig(ks=(2, 10), sampled=5, popular=4, lists=True)
SETTINGS = {"backbone": {"d": 8, "max_len": 8}, "train": {"loss": "softmax", "epochs": 1, "device": "cpu"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, lt.Recommender, Report]:
    """A run folder with a report in it, of items of a few kinds, and the model with its item vectors."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    kinds = [None if item == 7 else f"kind {item % 13}" for item in range(20)]
    data = lt.Dataset.read(walks(), catalogue().with_columns(kind=pl.Series(kinds)), name="planted")
    model = lt.Recommender("plain", "sasrec", SETTINGS)
    model.fit(data.leave_one_out(), items=vectors(data.items.ids, 12, 1), run=folder)
    report = evaluate(model, model.split, protocol=PROTOCOL, by=BY)
    report.save(folder)
    return folder, model, report


def _bin(count: int, edges: list[int], noun: str) -> str:
    if count < edges[0]:
        return f"{noun}_under_{edges[0]}"
    if count >= edges[-1]:
        return f"{noun}_{edges[-1]}_and_more"
    return next(f"{noun}_{low}_to_{high - 1}" for low, high in pairwise(edges) if low <= count < high)


class Stored:
    """A run folder read by ten slow lines a thing, with none of the code that wrote the figures."""

    def __init__(self, folder: Path) -> None:
        self.metrics = json.loads((folder / "metrics.json").read_text())
        self.terms = self.metrics["protocols"]["test"]["terms"]
        arrays = load_file(folder / "histories.safetensors")
        items, offsets = arrays["items"].tolist(), arrays["offsets"].tolist()
        self.train = [items[start:end] for start, end in pairwise(offsets)]
        self.all = [
            {*one, int(v), int(t)} - {0} for one, v, t in zip(self.train, arrays["valid"], arrays["test"], strict=True)
        ]
        self.text = pl.read_parquet(folder / "items.parquet")
        self.counts = [items.count(item) for item in range(len(self.text) + 1)]
        self.ranks = pl.read_parquet(folder / "ranks.parquet").filter(pl.col("split") == "test")
        lists = pl.read_parquet(folder / "lists.parquet").filter(pl.col("split") == "test")
        assert lists["user"].to_list() == self.ranks["user"].to_list()
        self.lists = [[item for item in row if item] for row in lists["items"].to_list()]

    def user_groups(self, user: int) -> set[str]:
        count = len(self.train[user])
        head = "head_users" if count >= self.terms["groups.user_threshold"] else "tail_users"
        return {head, _bin(count, list(map(int, self.terms["groups.user_edges"].split())), "users")}

    def kind(self, item: int) -> str:
        bought: dict[str, int] = {}
        for number, kind in enumerate(self.text["kind"], start=1):
            if kind is not None:
                bought[kind] = bought.get(kind, 0) + self.counts[number]
        top = sorted(bought, key=lambda kind: (-bought[kind], kind))[:10]
        mine = self.text["kind"][item - 1]
        return f"kind={mine if mine in top else 'other'}"

    def groups(self, user: int, item: int) -> set[str]:
        head = "head_items" if self.counts[item] >= self.terms["groups.item_threshold"] else "tail_items"
        edges = list(map(int, self.terms["groups.item_edges"].split()))
        users = self.user_groups(user)
        cell = next(group for group in users if group in {"head_users", "tail_users"}) + "_" + head
        return {"all", *users, head, cell, _bin(self.counts[item], edges, "items"), self.kind(item)}


def _expected(stored: Stored, vectors: np.ndarray) -> dict[tuple[str, str, str], float]:
    """protocol, group, metric to the mean over the users of the group."""
    values: dict[tuple[str, str, str], list[float]] = {}
    pools = [len(stored.text) - len(stored.all[user]) + 1 for user in stored.ranks["user"]]
    wanted = {f"{name}@{k}": (metric, k) for name, metric in METRICS.items() for k in (2, 10)}
    tables = dict(zip(wanted, balanced(int(np.median(pools)), 5, list(wanted.values())), strict=True))
    for row, pool, top in zip(stored.ranks.rows(named=True), pools, stored.lists, strict=True):
        mine = {}
        for name in tables:
            metric, k = METRICS[name.split("@")[0]], int(name.split("@")[1])
            for protocol in ("full", "sampled5", "popular4"):
                mine[protocol, name] = float(metric(np.array(row[protocol]), k))
            rank = np.array([row["sampled5"]])
            mine["sampled5-balanced", name] = float(tables[name][rank[0]])
            mine["sampled5-unbiased", name] = float(unbiased_rank(rank, np.array([pool]), 5, metric, k)[0])
        for key, value in mine.items():
            for group in stored.groups(row["user"], row["target"]):
                values.setdefault((key[0], group, key[1]), []).append(value)
        for k in (2, 10):
            cut, total = top[:k], sum(stored.counts) + len(stored.text)
            unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
            of_list = {
                "popularity": np.mean([stored.counts[item] for item in cut]),
                "tail_share": np.mean([stored.counts[item] < stored.terms["groups.item_threshold"] for item in cut]),
                "novelty": np.mean([-np.log2((stored.counts[item] + 1) / total) for item in cut]),
                "diversity": np.mean([1 - unit[a] @ unit[b] for a, b in combinations(cut, 2)]),
            }
            for name, value in of_list.items():
                for group in {"all"} | stored.user_groups(row["user"]):
                    values.setdefault(("full", group, f"{name}@{k}"), []).append(float(value))
    return {key: sum(of) / len(of) for key, of in values.items()}


def _gaps(found: dict[tuple[str, str, str], float]) -> dict[tuple[str, str, str], float]:
    made = {}
    for protocol, metric in {key[::2] for key in found if key[2].split("@")[0] in METRICS and "-" not in key[0]}:
        of = {
            group: found[protocol, group, metric]
            for protocol_, group, metric_ in found
            if (protocol_, metric_) == (protocol, metric)
        }
        users = [
            value for group, value in of.items() if group.startswith("users_") or group in {"head_users", "tail_users"}
        ]
        made[protocol, "all", f"head_minus_tail_{metric}"] = of["head_users"] - of["tail_users"]
        made[protocol, "all", f"worst_ratio_{metric}"] = min(users) / of["all"]
    return made


def test_every_figure_recomputes_from_the_run_folder(run: tuple[Path, lt.Recommender, Report]) -> None:
    folder, model, _ = run
    stored = Stored(folder)
    vectors = model.item_embeddings()
    assert vectors is not None
    expected = _expected(stored, vectors)
    expected |= _gaps(expected)
    for k in (2, 10):
        shown = [sum(row[:k].count(item) for row in stored.lists) for item in range(1, len(stored.text) + 1)]
        expected["full", "all", f"coverage@{k}"] = float(np.mean(np.array(shown) > 0))
        pairs = sum(abs(one - other) for one in shown for other in shown)
        expected["full", "all", f"gini@{k}"] = pairs / (2 * len(shown) * sum(shown))
    found = {(row["protocol"], row["group"], row["metric"]): row for row in stored.metrics["figures"]}
    empty = {key for key, row in found.items() if row["n"] == 0}
    assert found.keys() - empty == expected.keys() and len(expected) > 400
    for key, value in expected.items():
        assert found[key]["value"] == pytest.approx(value, abs=1e-5), key
    assert all(found[key]["value"] is None for key in empty)


def test_a_report_carries_its_protocol_everywhere(run: tuple[Path, lt.Recommender, Report]) -> None:
    folder, model, report = run
    stored = json.loads((folder / "metrics.json").read_text())["protocols"]["test"]
    assert stored["fingerprint"] == report.fingerprint and stored["terms"] == report.terms
    assert {row["fingerprint"] for row in report.rows()} == {report.fingerprint}
    assert {"candidates.sampled5", "candidates.popular4"} <= report.terms.keys()
    again = evaluate(lt.load(folder), model.split, protocol=PROTOCOL, by=BY)
    assert again.fingerprint == report.fingerprint  # a loaded model knows the same data
    text = str(report)
    assert text.count("sampled candidates flatter every method") == 2  # one a protocol
    for part in ("5 sampled candidates", "4 candidates sampled by popularity", "~ NDCG@10", "kind=kind 1", "first 10"):
        assert part in text


def test_evaluating_without_lists_leaves_none_behind(run: tuple[Path, lt.Recommender, Report], tmp_path: Path) -> None:
    _, model, report = run
    report.save(tmp_path)
    evaluate(model, model.split, name="valid", protocol=PROTOCOL).save(tmp_path)
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    assert lists["split"].value_counts().sort("split")["count"].to_list() == [len(report.ranks)] * 2
    plain = lt.ProtocolConfig(sampled=0)
    evaluate(model, model.split, protocol=plain).save(tmp_path)
    assert set(pl.read_parquet(tmp_path / "lists.parquet")["split"]) == {"valid"}
    evaluate(model, model.split, name="valid", protocol=plain).save(tmp_path)
    assert not (tmp_path / "lists.parquet").exists()


def test_reports_of_different_protocols_are_not_set_side_by_side(run: tuple[Path, lt.Recommender, Report]) -> None:
    _, model, report = run
    other = evaluate(model, model.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=5, seen="allow"), by=BY)
    with pytest.raises(lt.RunError, match=r"mine and yours .*: seen: exclude against allow; candidates\.popular4: "):
        tables([report, other], labels=["mine", "yours"])
    assert "history allowed" in str(other) and len(tables([report, report])) == 4


def test_targets_in_the_history_are_counted_and_shown(tmp_path: Path) -> None:
    """Ten of the users end where they began; six candidates of a file each."""
    back = walks().group_by("user_id", maintain_order=True).first().head(10).with_columns(timestamp=pl.lit(99))
    data = lt.Dataset.read(pl.concat([walks(), back], how="vertical_relaxed"), catalogue())
    model = lt.Recommender("plain", "sasrec", SETTINGS).fit(data.leave_one_out())
    path = tmp_path / "candidates.parquet"
    users, items = pl.DataFrame({"user": data.users.ids}), pl.DataFrame({"item": data.items.ids.head(6)})
    users.join(items, how="cross").write_parquet(path)
    repeats = model.split.test[1:] == [int(history[0]) for history in map(data.histories().of, range(1, 91))]
    config = lt.ProtocolConfig(sampled=0, candidates_file=str(path))
    kept = evaluate(model, model.split, protocol=config)
    dropped = evaluate(model, model.split, protocol=config.model_copy(update={"repeats": "drop"}))
    assert kept.repeats == dropped.repeats == int(repeats.sum()) == 10
    assert len(kept.ranks) == 90 and dropped.ranks["user"].to_list() == (np.flatnonzero(~repeats) + 1).tolist()
    assert "10 targets are in the history of their user: kept as candidates" in " ".join(str(kept).split())
    assert "10 targets are in the history of their user: left out" in " ".join(str(dropped).split())
    assert "candidates of a file" in str(kept) and kept.ranks["file"].max() <= 6
    assert kept.value("hr@10", protocol="file") == 1.0


def test_commands_refuse_runs_of_different_protocols(
    run: tuple[Path, lt.Recommender, Report],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = [tmp_path / "one-1", tmp_path / "two-1"]
    for folder, seen in zip(folders, ("exclude", "allow"), strict=True):
        run[1].save(folder)
        (folder / "run.json").write_text(json.dumps({"protocol": {"sampled": 5, "seen": seen}}))
    for more in ([], ["--json"]):
        code, out, err = call(capsys, monkeypatch, "evaluate", *folders, *more)
        assert (code, out) == (2, "") and "one-1 and two-1 were not evaluated under the same protocol: seen" in err
    with pytest.raises(lt.RunError, match=r"one-1 and two-1 .*: seen: exclude against allow; evaluate"):
        collect(folders)
    code, out, err = call(capsys, monkeypatch, "evaluate", *folders, "--set", "protocol.seen=allow")
    assert code == 0 and out.count("sampled candidates flatter") == 1, err
    text = markdown(collect(folders))
    assert text.count("sampled candidates flatter every method") == 1
    assert text.count("rough estimates of the full ranking") == 2  # unbiased and balanced
    assert text.index("| case (full)") < text.index("sampled candidates flatter")


def test_lists_of_a_loaded_run_are_told_apart_by_vectors_made_again_or_of_its_prepared_folder(
    run: tuple[Path, lt.Recommender, Report], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, model, report = run
    split, folder = model.split, tmp_path / "run"
    assert split.data is not None
    split.data.save(tmp_path / "data")
    model.save(folder)
    facts = {"data": {"interactions": str(tmp_path / "data")}, "text": {"model": f"file:{tmp_path / 'items.parquet'}"}}
    (folder / "run.json").write_text(json.dumps(facts))

    def found() -> float | None:
        return pipeline.report(folder, settings=["protocol.lists=true", "protocol.sampled=0"]).value("diversity@10")

    assert found() is None and "without their diversity" in caplog.text and "items.parquet" in caplog.text
    made = vectors(split.data.items.ids, 12, 1)
    table = pl.DataFrame({"item_id": made.ids, "vector": made.vectors})
    table.write_parquet(tmp_path / "items.parquet")
    assert found() == pytest.approx(report.value("diversity@10"))
    (tmp_path / "items.parquet").unlink()
    made.save(tmp_path / "data" / "embeddings" / "items")
    assert found() == pytest.approx(report.value("diversity@10"))


def test_a_candidates_file_lies_beside_the_config_that_names_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[data]\ninteractions = "log.csv"\n[protocol]\ncandidates_file = "few.parquet"\n')
    assert pipeline.run_config(plan).protocol.candidates_file == str(tmp_path / "few.parquet")


def test_a_comparison_finds_the_groups_of_an_item_column(
    run: tuple[Path, lt.Recommender, Report], tmp_path: Path
) -> None:
    _, model, report = run
    model.save(tmp_path)
    report.save(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"groups": BY.model_dump(mode="json")}))
    found = run_members(read_run(tmp_path))
    sizes = {figure.group: figure.n for figure in report.figures}
    assert {group: int(inside.sum()) for group, inside in found.items()} == sizes and "kind=other" in found
