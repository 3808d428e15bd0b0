"""Added items, events and reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import longtail as lt
from longtail.errors import BundleError
from longtail.nn.graph import nearest_by_text
from longtail.serve.answers import Answer, answer
from longtail.serve.bundle import open_bundle
from longtail.serve.journal import Record
from longtail.serve.live import Live, unseen
from longtail.serve.reasons import reasons
from longtail.serve.schema import Recommend
from tests.conftest import Planted


def _listed(live: Live, **asked: object) -> Answer:
    (found,) = answer(live, [Recommend.model_validate(asked)])
    assert isinstance(found, Answer), found
    return found


def _items(live: Live, **asked: object) -> list[str]:
    return [live.items.item(one.place) for one in _listed(live, **asked).items]


def test_the_list_is_the_models(live: Live, trained: lt.Recommender) -> None:
    expected = trained.recommend(users=["u007"], k=8)
    assert _items(live, user="u007", k=8) == expected["item"].to_list()
    found = _listed(live, user="u007", k=8)
    assert np.allclose([one.score for one in found.items], expected["score"].to_numpy(), atol=1e-4)
    assert found.known_user and not _listed(live, history=["i00"]).known_user


def test_many_at_once_are_answered_as_one_by_one(live: Live) -> None:
    asked = [Recommend(history=[f"i{at:02d}", f"i{(at + 2) % 20:02d}"], k=5) for at in range(20)]
    together = answer(live, asked)
    for one, found in zip(asked, together, strict=True):
        (alone,) = answer(live, [one])
        assert isinstance(found, Answer) and isinstance(alone, Answer)
        assert [row.place for row in found.items] == [row.place for row in alone.items]


def test_what_is_excluded_or_seen_is_not_listed_and_k_may_be_more_than_there_are(live: Live) -> None:
    found = _items(live, history=["i00", "i02"], exclude=["i04", "unknown"], k=100)
    assert len(found) == 17 and not {"i00", "i02", "i04"} & set(found)
    assert _items(live, history=[f"i{at:02d}" for at in range(20)]) == []


def test_an_added_item_like_another_takes_the_others_edges_and_is_recommended(live: Live, planted: Planted) -> None:
    vector = planted.items.vectors[6]  # of i06
    assert live.history("new") is None
    live.apply(live.item_record("i06-again", "", {}, vector))
    place = live.items.find("i06-again")
    assert place == 21 and live.items.title(place) == "i06-again" and live.items.count(place) == 0
    scores = live.runtime.scores([live.items.places(["i02", "i04"])])[0]
    assert np.isfinite(scores[21]) and not np.isfinite(scores[22:]).any()
    assert "i06-again" in _items(live, history=["i02", "i04"], k=20)
    near = live.runtime.additions.of_added[21]
    assert near.places[0] == live.items.find("i06") and near.weights[0] == near.weights.max()


def test_edges_of_an_added_item_are_those_that_training_would_have_given(live: Live, planted: Planted) -> None:
    generator = np.random.default_rng(5)
    vector = generator.normal(size=12).astype(np.float32)
    live.apply(live.item_record("new", "", {}, vector))
    rows = np.concatenate([np.zeros((1, 12), np.float32), planted.items.vectors])
    graph = live.items.items.text
    assert graph is not None
    M = graph.ids.shape[1]
    alone, gaps = nearest_by_text(rows, M)
    units = rows[1:] / np.linalg.norm(rows[1:], axis=1, keepdims=True)
    unit = vector / np.linalg.norm(vector)
    for j in range(1, 21):  # floor_j as in training; the cosine of the new item above it is its edge
        floor = float(units[j - 1] @ units[alone[j, 0] - 1]) - gaps[j, 0]
        found = dict(live.runtime.additions.to_added.get(j, []))
        assert found.get(21, 0.0) == pytest.approx(max(float(units[j - 1] @ unit) - floor, 0.0), abs=2e-3)


def test_items_and_events_are_replayed_and_those_of_another_space_are_left_out(bundle: Path, planted: Planted) -> None:
    live = Live(open_bundle(bundle))
    records: list[Record] = []
    for record in (
        live.item_record("new", "New", {}, planted.items.vectors[3]),
        live.event_record("u001", ["i01", "i03"]),
        live.event_record("stranger", ["i05"]),
    ):
        live.apply(record)
        records.append(record)
    assert live.history("stranger") is not None
    again = Live(live.bundle, [*records, {**records[0], "item": "other", "space": "another encoder"}, {"kind": "?"}])
    assert again.skipped == 2 and again.items.find("other") == 0
    for user in ("u001", "stranger"):
        assert np.array_equal(again.history(user), live.history(user))  # type: ignore[arg-type]
    assert np.array_equal(again.runtime.vectors(np.array([21])), live.runtime.vectors(np.array([21])))
    assert _items(again, user="stranger") == _items(live, user="stranger")


def test_events_that_a_later_bundle_was_trained_on_are_not_repeated() -> None:
    assert unseen(np.array([1, 2, 3]), [2, 3]) == []
    assert unseen(np.array([1, 2, 3]), [3, 4, 5]) == [4, 5]
    assert unseen(np.array([1, 2, 3]), [9]) == [9]
    assert unseen(None, [1, 1]) == [1, 1]


def test_events_of_this_very_bundle_are_replayed_as_they_came(bundle: Path) -> None:
    live = Live(open_bundle(bundle))
    known = live.history("u003")
    assert known is not None
    last = live.items.item(int(known[-1]))
    record = live.event_record("u003", [last])  # bought again
    again = Live(live.bundle, [record])
    assert np.array_equal(again.history("u003"), np.append(known, known[-1]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vector", "told"),
    [(np.ones(5), "a vector of 5 numbers; this bundle's encoder gives 12"), (np.full(12, np.inf), "NaN or infinity")],
)
def test_a_vector_that_does_not_fit_is_refused(live: Live, vector: np.ndarray, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        live.item_record("new", "", {}, vector.astype(np.float32))


def test_parts_sum_to_the_score_and_shares_to_one(live: Live, planted: Planted) -> None:
    live.apply(live.item_record("new", "", {}, planted.items.vectors[3]))
    for history in (["i00", "i02", "i04"], ["i01"], ["new", "i05"]):
        found = _listed(live, history=history, k=12, explain=True, tail=0.4)
        for one in found.items:
            assert one.reason is not None
            parts = (one.reason.collaborative, one.reason.semantic, one.reason.content)
            assert sum(parts) == pytest.approx(one.reason.total, abs=1e-9)
            assert one.reason.total == pytest.approx(one.score, abs=1e-4)
            assert 0 <= sum(carried.share for carried in one.reason.carried) <= 1 + 1e-6
            assert one.reason.sentence.endswith(".")


def test_who_carries_an_item_is_who_is_missed_when_left_out(live: Live) -> None:
    history = live.items.places(["i00", "i02", "i15"])
    (why,) = reasons(live, history, live.items.places(["i04"]), None, None)
    falls = {
        int(history[at]): why.total - float(live.runtime.scores([np.delete(history, at)])[0][live.items.find("i04")])
        for at in range(3)
    }
    positive = {place: max(fall, 0) for place, fall in falls.items()}
    for carried in why.carried:
        assert carried.share == pytest.approx(positive[carried.place] / sum(positive.values()), abs=1e-4)


def test_similar_users_have_the_item_and_are_not_the_user_herself(live: Live) -> None:
    found = _listed(live, user="u004", k=5, explain=True)
    for one in found.items:
        assert one.reason is not None
        for name in one.reason.similar_users:
            history = live.history(name)
            assert name != "u004" and history is not None and one.place in history


@pytest.mark.parametrize("reranker", ["mmr", "dpp"])
@pytest.mark.parametrize("diversity", [0.2, 0.6, 1.0])
def test_diverse_lists_are_those_that_the_model_gives(
    live: Live, trained: lt.Recommender, reranker: str, diversity: float
) -> None:
    users = [f"u{at:03d}" for at in range(0, 90, 7)]
    asked = {"k": 6, "diversity": diversity, "reranker": reranker}
    expected = trained.recommend(users=users, **asked)
    plain = trained.recommend(users=users, k=6)
    assert not expected.equals(plain)
    for user in users:
        found = _listed(live, user=user, **asked)
        rows = expected.filter(pl.col("user") == user)
        assert [live.items.item(one.place) for one in found.items] == rows["item"].to_list()
        assert np.allclose([one.score for one in found.items], rows["score"].to_numpy(), atol=1e-4)


def test_reranking_needs_its_candidates_and_tells_propensities(live: Live) -> None:
    plain = _items(live, history=["i00", "i02"], k=5)
    for asked in (
        {"diversity": 0.9}, {"diversity": 0.9, "reranker": "dpp"}, {"calibration": 0.9},
        {"calibration": 0.5, "diversity": 0.5}, {"calibration": 0.5, "exploration": {"policy": "ucb"}},
    ):  # fmt: skip
        found = _items(live, history=["i00", "i02"], k=5, **asked)
        assert len(set(found)) == 5
    explored = _listed(live, history=["i00", "i02"], k=5, exploration={"policy": "epsilon", "strength": 0.5, "seed": 7})
    assert all(one.propensity is not None and 0 < one.propensity <= 1 for one in explored.items)
    again = _items(live, history=["i00", "i02"], k=5, exploration={"policy": "epsilon", "strength": 0.5, "seed": 7})
    assert again == [live.items.item(one.place) for one in explored.items]
    assert plain == _items(live, history=["i00", "i02"], k=5, exploration={"policy": "epsilon", "strength": 0.0})
