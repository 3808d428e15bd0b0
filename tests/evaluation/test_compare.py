"""Run folders to one comparison, on real tiny runs: numbers against scipy, refusals, and the table in every format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from longtail.data.groups import GroupsConfig
from longtail.errors import LongtailError, RunError
from longtail.evaluation.comparable import find_cases
from longtail.evaluation.compare import compare
from longtail.evaluation.metrics import ndcg
from longtail.evaluation.protocol import ProtocolConfig
from longtail.evaluation.report import evaluate
from longtail.evaluation.table_formats import FORMATS, csv, latex, markdown
from longtail.files import read_json, write_json
from longtail.recommender import Recommender, load
from tests.conftest import plant, walks
from tests.test_cli import call

FIVE = ProtocolConfig(sampled=5)
SEEDS = (("bce", 1), ("bce", 2), ("softmax", 1), ("softmax", 2), ("softmax", 3))
RATES = {"bce": 1e-6, "softmax": 2e-2}  # so that cross-entropy wins


def _fit(folder: Path, loss: str, seed: int, users: int = 90) -> None:
    split = plant(walks(users)).split
    settings = {
        "seed": seed,
        "train": {"loss": loss, "epochs": 3, "batch_size": 16, "lr": RATES[loss]},
        "backbone": {"d": 8, "max_len": 8},
    }
    facts = {"seed": seed, "protocol": FIVE.model_dump(mode="json"), "groups": GroupsConfig().model_dump(mode="json")}
    model = Recommender("plain", settings=settings).fit(split, run=folder, facts=facts)
    evaluate(model, split, protocol=FIVE).save(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five evaluated runs: two seeds of plain SASRec with BCE, three with cross-entropy."""
    out = tmp_path_factory.mktemp("runs")
    for loss, seed in SEEDS:
        _fit(out / f"{loss}-{seed}", loss, seed)
    return out


def _pick(runs: Path, **seeds: tuple[int, ...]) -> dict[str, list[Path]]:
    return {case: [runs / f"{case}-{seed}" for seed in those] for case, those in seeds.items()}


def _row(frame: pl.DataFrame, case: str, group: str = "all") -> dict[str, float]:
    return frame.filter((pl.col("case") == case) & (pl.col("group") == group)).row(0, named=True)


def test_every_number_of_a_row_is_what_scipy_makes_of_the_ranks(runs: Path) -> None:
    frame = compare(_pick(runs, bce=(1, 2), softmax=(1, 2)), "bce", groups=("all", "tail_users"))
    row = _row(frame, "softmax")
    ranks = {(loss, seed): pl.read_parquet(runs / f"{loss}-{seed}" / "ranks.parquet") for loss, seed in SEEDS}
    values = {key: ndcg(table["full"].to_numpy(), 10) for key, table in ranks.items()}
    mine, other = (np.stack([values[loss, seed] for seed in (1, 2)]) for loss in ("softmax", "bce"))
    assert (row["seeds"], row["n"], row["baseline"]) == (2, 90, "bce")
    assert row["mean"] == pytest.approx(mine.mean())
    assert row["sd"] == pytest.approx(mine.mean(axis=1).std(ddof=1))
    assert row["difference"] == pytest.approx(mine.mean() - other.mean())
    assert row["low"] < row["mean"] < row["high"]
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    a, b = mine.mean(axis=0), other.mean(axis=0)
    assert row["p_users"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    pratt = stats.wilcoxon(np.round(a - b, 12), zero_method="pratt", correction=False, method="asymptotic")
    assert row["p_wilcoxon"] == pytest.approx(pratt.pvalue)
    assert row["p_seeds"] == pytest.approx(stats.ttest_rel(mine.mean(axis=1), other.mean(axis=1)).pvalue)
    assert row["d_z"] == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert _row(frame, "bce")["p_users"] is None  # the baseline is not tested against itself
    assert _row(frame, "softmax", "tail_users")["n"] < 90


def test_means_are_those_that_the_reports_stored(runs: Path) -> None:
    frame = compare(_pick(runs, bce=(1,), softmax=(1,)), metrics=("hr@10", "mrr@5"), protocol="sampled5")
    stored = pl.DataFrame(read_json(runs / "bce-1" / "metrics.json")["figures"])  # type: ignore[index]
    stored = stored.filter(pl.col("protocol") == "sampled5").select("group", "metric", "n", "value")
    joined = frame.filter(pl.col("case") == "bce").join(stored, on=["group", "metric"])
    assert len(joined) == 10
    assert joined["mean"].to_list() == pytest.approx(joined["value"].to_list())
    assert joined["n"].to_list() == joined["n_right"].to_list()


def test_seeds_that_are_shared_are_paired_and_others_are_not(runs: Path) -> None:
    means = {
        key: ndcg(pl.read_parquet(runs / f"{key[0]}-{key[1]}" / "ranks.parquet")["full"].to_numpy(), 10).mean()
        for key in SEEDS
    }
    row = _row(compare(_pick(runs, bce=(1, 2), softmax=(2, 3)), "bce"), "softmax")
    first, second = ([means[loss, seed] for seed in those] for loss, those in (("softmax", (2, 3)), ("bce", (1, 2))))
    assert row["p_seeds"] == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
    alone = _row(compare(_pick(runs, bce=(1,), softmax=(1,)), "bce"), "softmax")
    assert alone["p_seeds"] is None and alone["sd"] is None and alone["p_users"] is not None


def test_a_method_that_seeds_do_not_change_is_not_tested_over_seeds(runs: Path, tmp_path: Path) -> None:
    for loss in ("bce", "softmax"):
        _copy(runs / f"{loss}-1", tmp_path / f"{loss}-1", seed=1)
        _copy(runs / f"{loss}-1", tmp_path / f"{loss}-2", seed=2)
    row = _row(compare(find_cases([str(tmp_path)])), "softmax")
    assert row["seeds"] == 2 and row["sd"] == 0 and row["difference"] != 0 and row["p_seeds"] is None


def test_a_model_compared_with_itself_has_no_difference_and_no_star(runs: Path) -> None:
    one = [runs / "bce-1", runs / "bce-2"]
    frame = compare({"a": one, "b": one})
    assert (frame["difference"] == 0).all() and (frame["stars"] == "").all()
    for name in ("p_users", "p_wilcoxon", "p_seeds"):
        assert (frame[name] == 1).all() and (frame[f"{name}_holm"] == 1).all()
    assert markdown(frame).count("**") == 2 * 2 * 5  # both are best in each of the five groups


def test_the_whole_table_is_one_family_and_a_pair_counts_once(runs: Path) -> None:
    cases = _pick(runs, bce=(1, 2), softmax=(1, 2))
    frame = compare(cases)  # each against the best other: one pair, in both directions, in five groups
    ps = frame.filter(pl.col("case") == "bce").sort("p_users")
    slow = np.minimum(np.maximum.accumulate(ps["p_users"].to_numpy() * np.arange(5, 0, -1)), 1)
    assert ps["p_users_holm"].to_list() == pytest.approx(slow.tolist())
    both = frame.pivot("case", index="group", values="p_users_holm")
    assert both["bce"].to_list() == pytest.approx(both["softmax"].to_list())
    starred = frame.filter(pl.col("stars") == "*")
    assert starred.equals(frame.filter((pl.col("p_users_holm") < 0.05) & (pl.col("difference") > 0)))
    assert len(starred) and "for 5 tests" in markdown(frame)


def test_without_a_baseline_each_case_meets_the_best_other(runs: Path) -> None:
    frame = compare({**_pick(runs, bce=(1, 2), softmax=(1, 2)), "third": [runs / "softmax-3"]})
    for (group,), of in frame.group_by("group"):
        means = dict(of.select("case", "mean").iter_rows())
        for case, baseline in of.select("case", "baseline").iter_rows():
            assert baseline == max((name for name in means if name != case), key=means.__getitem__), group


def test_a_comparison_is_the_same_when_made_again(runs: Path) -> None:
    cases = _pick(runs, bce=(1, 2), softmax=(1, 2))
    assert compare(cases).equals(compare(cases))
    assert not compare(cases).equals(compare(cases, generator=np.random.default_rng(7)))


def test_cases_are_folders_less_their_seed(runs: Path, tmp_path: Path) -> None:
    found = find_cases([str(runs)])
    assert {case: len(those) for case, those in found.items()} == {"bce": 2, "softmax": 3}
    found = find_cases([f"mine={runs / 'bce-1'}", str(runs / "bce-2")])
    assert found == {"mine": [runs / "bce-1"], "bce": [runs / "bce-2"]}
    _copy(runs / "bce-1", tmp_path / "d-64", seed=1)
    assert list(find_cases([str(tmp_path / "d-64")])) == ["d-64"]  # 64 is not its seed


def test_runs_that_are_no_seeds_of_one_case_are_refused(runs: Path) -> None:
    with pytest.raises(RunError, match=r"train\.loss is 'bce' or 'softmax'.*NAME=FOLDER"):
        compare({"a": [runs / "bce-1", runs / "softmax-2"]})
    with pytest.raises(RunError, match="seed 1 twice"):
        compare({"a": [runs / "bce-1", runs / "bce-1"]})


def test_runs_that_cannot_be_compared_are_refused_with_the_difference_named(runs: Path, tmp_path: Path) -> None:
    def refused(message: str, protocol: str = "full") -> None:
        with pytest.raises(RunError, match=message):
            compare({"a": [runs / "bce-1"], "b": [tmp_path / "b"]}, protocol=protocol)

    ranks = _copy(runs / "softmax-1", tmp_path / "b") / "ranks.parquet"
    table = pl.read_parquet(ranks)
    table.filter(pl.col("user") != 3).write_parquet(ranks)
    refused("user 'u002' was evaluated in .*bce-1 alone")
    table.with_columns(target=pl.when(pl.col("user") == 5).then(1).otherwise("target")).write_parquet(ranks)
    refused("the target of user 'u004' is 'i.*' or 'i00'")
    table.drop("sampled5").write_parquet(ranks)
    refused("no ranks under 'sampled5'; it has 'full'", "sampled5")
    table.write_parquet(ranks)
    _edit(tmp_path / "b" / "metrics.json", "protocols", {})  # figures of a version that kept no terms
    _edit(tmp_path / "b" / "run.json", "protocol", {"sampled": 5, "seed": 7})
    refused("protocol.seed is 42 or 7", "sampled5")
    compare({"a": [runs / "bce-1"], "b": [tmp_path / "b"]})  # full ranking knows no candidates
    _edit(tmp_path / "b" / "run.json", "groups", {"scheme": "pareto", "percentile": 50.0})
    refused("groups.percentile is 80.0 or 50.0")
    shutil.rmtree(tmp_path / "b")
    _fit(tmp_path / "b", "bce", 1, users=80)
    refused("other data")


def test_the_terms_kept_with_figures_are_compared_where_they_are_kept(runs: Path, tmp_path: Path) -> None:
    terms = {"data": "a", "ks": "5 10", "seen": "exclude", "candidates.sampled5": "1f"}
    for name, changed in (("a", {}), ("b", {"ks": "10", "candidates.sampled5": "2e"}), ("c", {"seen": "allow"})):
        _copy(runs / "bce-1", tmp_path / name)
        _edit(tmp_path / name / "metrics.json", "protocols", {"test": {"terms": {**terms, **changed}}})
    two = {"a": [tmp_path / "a"], "b": [tmp_path / "b"]}
    compare(two)
    with pytest.raises(RunError, match=r"candidates\.sampled5 is '1f' or '2e'"):
        compare(two, protocol="sampled5")
    with pytest.raises(RunError, match="seen is 'exclude' or 'allow'"):
        compare({"a": [tmp_path / "a"], "c": [tmp_path / "c"]})


def test_groups_set_when_evaluating_are_noticed(runs: Path, tmp_path: Path) -> None:
    folder = _copy(runs / "bce-1", tmp_path / "b")
    model = load(folder)
    evaluate(model, model.split, protocol=FIVE, by=GroupsConfig(percentile=50)).save(folder)
    with pytest.raises(RunError, match=r"metrics.json and ranks.parquet disagree on ndcg@10 of tail_items"):
        compare({"b": [folder]})


def test_a_run_from_before_there_were_other_splits_is_by_leave_one_out(runs: Path, tmp_path: Path) -> None:
    folder = _copy(runs / "bce-1", tmp_path / "b")
    facts = json.loads((folder / "config.json").read_text())
    assert facts["data"].pop("split") == "leave_one_out"
    (folder / "config.json").write_text(json.dumps(facts))
    assert compare({"a": [runs / "softmax-1"], "b": [folder]}).height


def test_every_format_holds_the_same_table(runs: Path) -> None:
    cases = {"a_b & 50%|x": [runs / "bce-1", runs / "bce-2"], "softmax": [runs / "softmax-1", runs / "softmax-2"]}
    frame = compare(cases, groups=("all", "tail_users"))
    assert (
        pl.read_csv(csv(frame).encode(), schema=frame.schema).with_columns(pl.col("stars").fill_null("")).equals(frame)
    )
    assert json.loads(FORMATS["json"](frame)) == frame.to_dicts()
    best = max((row["mean"], row["case"]) for row in frame.to_dicts() if row["group"] == "all")
    worst = min((row["mean"], row["case"]) for row in frame.to_dicts() if row["group"] == "all")
    tex, text = latex(frame), markdown(frame)
    assert rf"\textbf{{{best[0]:.4f}}}" in tex and rf"\underline{{{worst[0]:.4f}}}" in tex
    assert f"**{best[0]:.4f}**" in text and f"_{worst[0]:.4f}_" in text
    assert r"a\_b \& 50\%\textbar{}x & 2 & " in tex and r"a\_b & 50%\|x | 2 |" in text
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3 and {line.replace(r"\&", "").count("&") for line in body} == {3}
    assert tex.index(r"\toprule") < tex.index(r"\midrule") < tex.index(r"\bottomrule")
    row = _row(frame, "softmax")
    for shown in (tex, text):
        assert f"{row['sd']:.4f}" in shown and f"[{row['low']:.4f}, {row['high']:.4f}]" in shown
        assert "better than the best other case" in shown and "for 2 tests" in shown


def test_the_command_compares_folders_and_explains_mistakes(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (runs / "bce-1", runs / "bce-2", runs / "softmax-1", runs / "softmax-2")
    code, text, err = call(capsys, monkeypatch, "compare", *both, "--baseline", "bce", "--group", "all")
    assert code == 0 and "NDCG@10, all, n = 90" in text and "softmax" in text and "Wilcoxon" in text, err
    only = ("--metric", "hr@5", "--metric", "ndcg@10", "--protocol", "sampled5", "--group", "all")
    code, text, _ = call(capsys, monkeypatch, "compare", runs, *only, "--format", "json")
    rows = json.loads(text)
    assert code == 0 and {row["metric"] for row in rows} == {"hr@5", "ndcg@10"}
    assert {(row["case"], row["seeds"]) for row in rows} == {("bce", 2), ("softmax", 3)}
    for name in ("markdown", "latex", "csv"):
        code, text, _ = call(capsys, monkeypatch, "compare", *both, "--format", name)
        assert code == 0 and "softmax" in text
    for wrong, message in (
        (("--baseline", "bcee"), "did you mean 'bce'"),
        (("--metric", "ncdg@10"), "no metric 'ncdg@10'"),
        (("--group", "tails"), "no group 'tails'"),
        (("--protocol", "sampled9"), "it has 'full', 'sampled5'"),
        (("--split", "valid"), "has not been evaluated on 'valid'"),
        (("--format", "pdf"), "format 'pdf' is none of"),
    ):
        code, text, err = call(capsys, monkeypatch, "compare", *both, *wrong)
        assert code == 2 and message in err and "Traceback" not in err and not text, err
    code, _, err = call(capsys, monkeypatch, "compare", runs / "nothing")
    assert code == 2 and "config.json" in err


def test_a_folder_that_was_not_evaluated_says_so(runs: Path, tmp_path: Path) -> None:
    folder = _copy(runs / "bce-1", tmp_path / "b")
    (folder / "metrics.json").unlink()
    with pytest.raises(RunError, match="has not been evaluated; run 'longtail evaluate"):
        compare({"b": [folder]})
    with pytest.raises(LongtailError, match="no run folders"):
        compare({})


def _copy(source: Path, target: Path, seed: int | None = None) -> Path:
    """A copy of a run folder, said to be of another seed if one is given."""
    shutil.copytree(source, target)
    if seed is not None:
        config = read_json(target / "config.json")["config"]  # type: ignore[index]
        _edit(target / "config.json", "config", {**config, "seed": seed})
    return target


def _edit(path: Path, key: str, value: dict[str, object]) -> None:
    stored = read_json(path)
    assert isinstance(stored, dict)
    write_json(path, {**stored, key: value})
