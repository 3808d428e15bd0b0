"""An index of the item vectors: its lists are nearly the exact ones, and whatever it cannot answer is scored exactly."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from longtail import cli_serving, hnsw
from longtail.errors import BundleError
from longtail.serve import ann
from longtail.serve.answers import Answer, answer
from longtail.serve.bundle import open_bundle
from longtail.serve.export import export
from longtail.serve.live import Live
from longtail.serve.manifest import facts_of
from longtail.serve.schema import Recommend
from longtail.text.embeddings import Embeddings
from tests.serve.conftest import ITEMS, USERS

INDEX = "index.usearch"


@pytest.fixture(scope="module")
def indexed(many: Path, many_texts: Embeddings) -> Path:
    """Its bundle with an index; not to be written to."""
    export(many, many.with_name("indexed"), items=many_texts, index=True, compare=20)
    return many.with_name("indexed")


@pytest.fixture
def copy(indexed: Path, tmp_path: Path) -> Path:
    """The bundle, to spoil."""
    return Path(shutil.copytree(indexed, tmp_path / "copy"))


@pytest.fixture
def without_usearch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)


def _exactly(folder: Path) -> Live:
    live = Live(open_bundle(folder))
    live.runtime.index = None
    return live


def _lists(live: Live, asked: Sequence[Recommend]) -> list[list[tuple[int, float]]]:
    found = answer(live, asked)
    assert all(isinstance(one, Answer) for one in found), found
    return [[(place.place, place.score) for place in one.items] for one in found if isinstance(one, Answer)]


def _users(**more: object) -> list[Recommend]:
    return [Recommend.model_validate({"user": f"u{at:03d}", **more}) for at in range(1, USERS + 1)]


def _counted(live: Live, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many histories were scored exactly, a number for each time."""
    scored, scores = list[int](), live.runtime.scores
    monkeypatch.setattr(
        live.runtime, "scores", lambda histories, tails: (scored.append(len(histories)), scores(histories, tails))[1]
    )
    return scored


@pytest.mark.parametrize("k", [1, 10, 100])
def test_lists_by_the_index_are_nearly_the_exact_ones_in_their_order(
    indexed: Path, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(open_bundle(indexed))
    scored, asked = _counted(live, monkeypatch), _users(k=k)
    found, expected = _lists(live, asked), _lists(_exactly(indexed), asked)
    assert not scored  # nobody's list needed all scores
    shared = 0
    for mine, theirs in zip(found, expected, strict=True):
        truth = dict(theirs)
        assert [score for _, score in mine] == sorted((score for _, score in mine), reverse=True) and len(mine) == k
        shared += len(truth.keys() & dict(mine))
        assert all(abs(score - truth.get(place, score)) < 1e-4 for place, score in mine)
    assert shared >= 0.98 * k * USERS


def test_the_index_gives_the_highest_products_less_the_dial(indexed: Path) -> None:
    live, shared = Live(open_bundle(indexed)), 0
    runtime, index = live.runtime, live.runtime.index
    assert index is not None and runtime.facts.dial == 10.0
    counts = np.log1p(runtime.items.counts)
    for u in runtime.encode([live.items.places([f"i{at:04d}"]) for at in range(1, 101)]):
        base = runtime.items.vectors.rows(np.arange(ITEMS + 1)) @ u - 10.0 * counts
        base[0] = -np.inf
        shared += len(np.intersect1d(index.places(u, 10, 0)[:20], np.argsort(-base)[:20]))
    assert shared >= 0.97 * 20 * 100


def test_the_recall_in_the_manifest_is_that_of_the_lists(indexed: Path) -> None:
    facts = open_bundle(indexed).manifest.index
    assert facts is not None and facts.users == USERS and facts.k == 10 and facts.recall >= 0.99
    found, expected = _lists(Live(open_bundle(indexed)), _users()), _lists(_exactly(indexed), _users())
    shares = [len(dict(mine).keys() & dict(theirs)) / 10 for mine, theirs in zip(found, expected, strict=True)]
    assert facts.recall == pytest.approx(np.mean(shares), abs=1e-9)


@pytest.mark.parametrize(
    ("more", "exact"),
    [
        ({"exclude": [f"i{at:04d}" for at in range(1, 1500)]}, False),
        ({"where": {"kind": [f"kind {at}" for at in range(200)]}}, False),
        ({"where": {"kind": "kind 7"}}, True),
        ({"tail": 0.9}, True),
        ({"diversity": 0.5}, True),
        ({"calibration": 0.5}, True),
        ({"exploration": {"policy": "ucb", "seed": 3}}, True),
    ],
)
def test_what_the_index_cannot_answer_is_scored_exactly(
    indexed: Path, more: dict[str, object], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, asked = Live(open_bundle(indexed)), _users(k=5, **more)[:30]
    scored = _counted(live, monkeypatch)
    found, expected = _lists(live, asked), _lists(_exactly(indexed), asked)
    assert scored == ([30] if exact else [])
    same = [[place for place, _ in one] for one in found], [[place for place, _ in one] for one in expected]
    assert same[0] == same[1] if exact else sum(map(list.__eq__, *same)) >= 28


def test_a_list_of_nearly_all_items_is_whole(indexed: Path) -> None:
    names = [f"i{at:04d}" for at in range(1, ITEMS - 3)]
    asked = [Recommend(history=["i0001"], k=10, exclude=names[:2000]), Recommend(history=names[:1990], k=500)]
    found, expected = _lists(Live(open_bundle(indexed)), asked), _lists(_exactly(indexed), asked)
    assert [len(one) for one in found] == [10, 500]
    assert [place for place, _ in found[1]] == [place for place, _ in expected[1]]


def test_added_items_and_those_that_edges_reach_are_candidates_whatever_the_index_finds(
    indexed: Path, many_texts: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, other = Live(open_bundle(indexed)), _exactly(indexed)
    for one in (live, other):
        one.apply(one.item_record("new", "", {}, many_texts.vectors[99]))  # as the text of i0100
    history = [other.items.items.ids[int(place)] for place in (8, 9, 100)]
    near = [int(one.places[0]) for one, _ in other.runtime._reaches(other.items.places(history))]
    assert near and live.runtime.index is not None
    monkeypatch.setattr(
        live.runtime.index, "places", lambda u, k, unwanted: np.array([1])
    )  # an index that is of no use
    asked = [Recommend(history=history, k=1), Recommend(history=history, k=3)]
    monkeypatch.setattr(ann.Near, "first", lambda self, k, unwanted, wanted=None: (self.places[-k:], self.scores[-k:]))
    found = {place for place, _ in _lists(live, [Recommend(history=history, k=500)])[0]}
    assert live.items.find("new") in found and set(near) - {0} <= found
    scores = other.runtime.scores([other.items.places(history)])[0]
    assert all(score == pytest.approx(float(scores[place]), abs=1e-5) for place, score in _lists(live, asked)[1])


def test_a_list_that_ends_below_what_may_be_missing_is_none() -> None:
    near = ann.Near(np.array([2, 5, 9]), np.array([1.0, 3.0, 2.0], np.float32), bound=2.0)
    found = near.first(2, np.array([0]))
    assert found is not None and found[0].tolist() == [5, 9]
    assert near.first(3, np.array([0])) is None and near.first(2, np.array([5])) is None


def test_an_unknown_column_is_told(indexed: Path) -> None:
    (found,) = answer(Live(open_bundle(indexed)), [Recommend(user="u001", where={"colour": "red"})])
    assert isinstance(found, BundleError) and "no column 'colour'" in str(found)


def test_without_usearch_a_bundle_with_an_index_is_served_exactly(
    indexed: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _lists(_exactly(indexed), _users())
    request.getfixturevalue("without_usearch")
    live = Live(open_bundle(indexed))
    assert live.runtime.index is None and _lists(live, _users()) == expected
    assert "pip install 'longtail[index]'" in caplog.text


@pytest.mark.usefixtures("without_usearch")
def test_without_usearch_an_index_that_is_asked_for_is_refused_and_auto_goes_without(
    many: Path,
    many_texts: Embeddings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(BundleError, match=r"needs usearch; pip install 'longtail\[index\]', or .* --no-index"):
        export(many, tmp_path / "bundle", items=many_texts, index=True)
    monkeypatch.setattr(ann, "MANY", ITEMS)
    found = export(many, tmp_path / "bundle", items=many_texts, compare=5)
    assert found.index is None and INDEX not in found.files and "needs usearch" in caplog.text


def test_many_items_get_an_index_by_themselves_unless_it_is_declined(
    many: Path, many_texts: Embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(many, tmp_path / "few", items=many_texts, compare=5).index is None
    monkeypatch.setattr(ann, "MANY", ITEMS)
    found = export(many, tmp_path / "many", items=many_texts, int8=True, users=False, compare=5)
    assert found.index is not None and INDEX in found.files and found.index.recall > 0.95
    assert Live(open_bundle(tmp_path / "many")).runtime.index is not None
    assert export(many, tmp_path / "declined", items=many_texts, index=False, compare=5).index is None


def test_a_poor_index_is_refused_if_asked_for_and_left_out_if_not(
    many: Path,
    many_texts: Embeddings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ann, "CANDIDATES", (1,))
    for name, value in {"CONNECTIVITY": 2, "EXPANSION_ADD": 1}.items():
        monkeypatch.setattr(hnsw, name, value)
    with pytest.raises(BundleError, match=r"the index finds \d+\.\d% of the first 10 items, and 95% are wanted"):
        export(many, tmp_path / "bundle", items=many_texts, index=True, compare=5)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(ann, "MANY", ITEMS)
    found = export(many, tmp_path / "bundle", items=many_texts, compare=5)
    assert found.index is None and not (tmp_path / "bundle" / INDEX).exists() and "95% are wanted" in caplog.text
    open_bundle(tmp_path / "bundle")


def test_the_command_tells_the_recall(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli_serving.export(many, tmp_path / "bundle", index=True)
    assert "its index finds 99" in (told := capsys.readouterr().out) or "its index finds 100" in told


def _relist(folder: Path) -> None:
    facts = json.loads((folder / "manifest.json").read_text())
    facts["files"][INDEX] = facts_of(folder / INDEX).model_dump()
    (folder / "manifest.json").write_text(json.dumps(facts))


def test_an_index_that_was_changed_or_does_not_fit_is_refused(copy: Path) -> None:
    (copy / INDEX).write_bytes((copy / INDEX).read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"index.usearch has .* bytes, not .*; export the run again"):
        open_bundle(copy)
    _relist(copy)
    with pytest.raises(
        BundleError, match=r"index.usearch is no index of this bundle's items \(.* do not fit its graph"
    ):
        Live(open_bundle(copy))


def test_an_index_of_other_items_is_refused_and_a_missing_one(copy: Path) -> None:
    index = hnsw.empty(18, "ip", dtype="f16")
    index.add(np.arange(1, 50), np.random.default_rng(0).normal(size=(49, 18)).astype(np.float32))
    index.save(copy / INDEX)
    _relist(copy)
    with pytest.raises(BundleError, match="not 3,000 vectors of 18 numbers"):
        Live(open_bundle(copy))
    facts = json.loads((copy / "manifest.json").read_text())
    del facts["files"][INDEX]
    (copy / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(BundleError, match=r"does not list index.usearch"):
        open_bundle(copy)


def test_keys_beyond_the_catalogue_are_no_items(copy: Path) -> None:
    index = hnsw.empty(18, "ip", dtype="f16")
    beyond = np.where(np.arange(ITEMS) % 2, 2**40, 1) + np.arange(ITEMS)
    index.add(beyond, np.random.default_rng(0).normal(size=(ITEMS, 18)).astype(np.float32))
    index.save(copy / INDEX)
    _relist(copy)
    for one in _lists(Live(open_bundle(copy)), _users(k=20)):
        assert len(one) == 20 and all(0 < place <= ITEMS for place, _ in one)


def test_a_bundle_from_before_there_were_indexes_is_read(copy: Path) -> None:
    facts = json.loads((copy / "manifest.json").read_text())
    del facts["index"], facts["files"][INDEX]
    (copy / "manifest.json").write_text(json.dumps(facts))
    (copy / INDEX).unlink()
    assert open_bundle(copy).manifest.index is None and Live(open_bundle(copy)).runtime.index is None
