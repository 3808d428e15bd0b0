"""Encoders are compared on validation alone, vectors audited, and new items embedded, the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from longtail.cli import app
from longtail.data.dataset import Dataset
from longtail.encoders import Candidate, Plan, compare, sample
from longtail.errors import ConfigError, DataError, EmbeddingError
from longtail.text.embed import embed_items
from longtail.text.embeddings import Embeddings
from longtail.text.extend import embed_new
from longtail.vectors import examine

KINDS = ["shampoo", "lipstick", "perfume", "toothbrush"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Users who buy things of one kind, whose word is in the title; popularity falls with the number."""
    generator, rows = np.random.default_rng(0), []
    for user in range(120):
        for time in range(6):
            number = min(int(generator.geometric(0.15)), 25)
            rows.append((f"u{user:03d}", f"{KINDS[user % 4]}{number:02d}", time))
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    ids = interactions["item_id"].unique().sort()
    titles = [f"{one[:-2]} number{int(one[-2:]) % 5} size{int(one[-2:]) // 5}" for one in ids]
    return Dataset.read(interactions, pl.DataFrame({"item_id": ids, "title": titles}), name="kinds")


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("prepared")
    data.save(place)
    noise = np.random.default_rng(1).normal(size=(len(data.items), 8)).tolist()
    pl.DataFrame({"item_id": data.items.ids, "v": noise}).write_parquet(place / "noise.parquet")
    return place


def test_what_reads_the_texts_is_ahead_of_noise_and_the_gap_is_beyond_its_margin(data: Dataset, folder: Path) -> None:
    noise = Candidate(f"file:{folder / 'noise.parquet'}")
    found = compare(
        data, [noise, Candidate("lexical:8", ("center", "l2"))], Plan(cache=folder / "c", train=1, test=True)
    )
    assert [one.candidate.model for one in found] == ["lexical:8", noise.model]
    best, worst = found
    assert best.behind == best.margin == 0 and worst.behind > worst.margin > 0
    assert worst.behind == pytest.approx(best.valid.tail_items - worst.valid.tail_items)
    assert (best.width, worst.width) == (8, 8) and worst.texts_per_second is None and best.texts_per_second > 0
    assert best.trained is not None and best.test is not None and best.test.tail_items > worst.test.tail_items
    overall = compare(data, [noise, Candidate("lexical:8")], Plan(cache=folder / "c", by="all"))
    assert overall[0].valid.overall - overall[1].valid.overall == pytest.approx(overall[1].behind)
    assert (
        overall[0].test is None and overall[0].trained is None and overall[0].texts_per_second is None
    )  # from the cache


def test_a_sample_is_of_whole_users_and_no_larger_than_asked(data: Dataset) -> None:
    few = sample(data, items=40)
    assert 20 < len(few.items) <= 40
    assert set(few.users.ids) < set(data.users.ids)
    for user in few.users.ids.head(3):
        of = lambda d, user=user: d.items.external(d.histories().of(int(d.users.internal([user])[0]))).to_list()  # noqa: E731
        assert of(few) == of(data)
    assert len(sample(data, users=7).users) == 7 and sample(data) is data
    assert sample(data, users=7, items=10**6).hash == sample(data, users=7).hash
    with pytest.raises(DataError, match="no user touches 1 items or fewer"):
        sample(data, items=1)


def test_the_same_encoder_twice_is_refused(data: Dataset) -> None:
    with pytest.raises(ConfigError, match="give different encoders"):
        compare(data, [Candidate("lexical:8")] * 2)


def test_the_command_ranks_encoders_and_transforms(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = ["compare-encoders", str(folder), "--model", "lexical:8", "--model", f"file:{folder / 'noise.parquet'}"]
    done = CliRunner().invoke(app, [*asked, "--transform", "none", "--transform", "center,l2", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert len(rows) == 4 and {row["transform"] for row in rows} == {"-", "center l2"}
    assert [row["valid tail"] for row in rows] == sorted((row["valid tail"] for row in rows), reverse=True)
    assert not any("test" in key for key in rows[0])
    table = CliRunner().invoke(app, [*asked, "--users", "60"])
    assert table.exit_code == 0 and "60 users" in table.output and "valid tail" in table.output


def test_an_audit_of_a_prepared_folder_of_vectors_and_of_a_broken_file(
    data: Dataset, folder: Path, tmp_path: Path
) -> None:
    embed_items(data, "lexical:8", cache=tmp_path / "c").save(folder / "embeddings" / "items")
    done = CliRunner().invoke(app, ["audit", str(folder), "--like", data.items.ids[0], "-k", "2", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {one["topic"] for one in told["findings"]["items"]} >= {"values", "popularity", "dimension"}
    assert [row["item"] for row in told["nearest"]] == [data.items.ids[0]] * 2
    assert all(row["its title"].split()[0] == row["title"].split()[0] for row in told["nearest"])
    table = pl.read_parquet(folder / "noise.parquet").head(9)
    table.with_columns(v=pl.lit([1.0, float("nan")])).write_parquet(tmp_path / "v.parquet")
    broken = CliRunner().invoke(app, ["audit", str(tmp_path / "v.parquet"), "--data", str(folder)])
    assert broken.exit_code == 1 and "NaN or infinity" in broken.output and "have no vector" in broken.output
    ragged = examine(tmp_path / "none.parquet", None)
    assert ragged.findings["items"][0].level == "error" and "no file" in ragged.findings["items"][0].text


def test_new_items_are_embedded_as_the_old_ones_were(data: Dataset, tmp_path: Path) -> None:
    made = embed_items(data, "lexical:8", cache=tmp_path / "c", transform=("center", "l2"))
    made.save(tmp_path / "items")
    titles = ["lipstick number1 size1", "perfume number7", None]
    table = pl.DataFrame({"item_id": ["new1", "new2", "new3"], "title": titles})
    new = embed_new(table, tmp_path / "items", cache=tmp_path / "c")
    same = made.matrix(["lipstick06"])[1]
    np.testing.assert_allclose(new.vectors[0], same, atol=1e-5)
    np.testing.assert_allclose(new.vectors[2], made.vectors.mean(axis=0), atol=1e-6)
    assert new.has_text.tolist() == [True, True, False]
    new.save(tmp_path / "new")
    assert Embeddings.load(tmp_path / "new").provenance.transform == made.provenance.transform
    (tmp_path / "items" / "encoder.safetensors").unlink()
    with pytest.raises(EmbeddingError, match="learns from the item texts"):
        embed_new(table, tmp_path / "items", cache=tmp_path / "c")


def test_the_command_embeds_with_a_transform_and_a_fit_takes_these_vectors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["embed", str(folder), "--model", "lexical:8", "--transform", "center,whiten:4"])
    assert done.exit_code == 0 and "of width 4" in done.output, done.output
    items, users = (Embeddings.load(folder / "embeddings" / kind) for kind in ("items", "users"))
    assert items.transform is not None and items.transform.steps == ("center", "whiten:4")
    assert users.provenance.transform == items.provenance.transform
    np.testing.assert_allclose(np.cov(items.vectors.T, bias=True), np.eye(4), atol=1e-3)
    arguments = ["fit", "--data", str(folder), "--method", "text_knn", "--set", 'text.model="lexical:8"']
    steps = ["--set", 'text.transform=["center", "whiten:4"]']
    for extra, again in ((steps, False), ([], True)):
        caplog.clear()
        run = tmp_path / f"run{len(extra)}"
        assert CliRunner().invoke(app, [*arguments, *extra, "--out", str(run)]).exit_code == 0
        assert ("embedding again" in caplog.text) == again and (run / "transform.safetensors").exists() != again


def test_the_page_shows_the_stored_figures() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "embeddings.md").read_text(encoding="utf-8")
    for row in json.loads((docs / "results" / "encoders.json").read_text(encoding="utf-8")):
        lines = [
            line for line in page.splitlines() if f"| `{row['model']}` | {row['transform']} | {row['width']} |" in line
        ]
        assert any(f"| {row['value']:.4f} |" in line for line in lines), row
