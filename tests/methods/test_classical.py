"""Methods without training, against slow references and against figures known from elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import longtail as lt
from longtail.data import cooccurrence
from longtail.data.histories import Histories, from_lists
from longtail.methods.base import Knowledge, Method, Sizes
from longtail.methods.item_knn import ItemKNN, ItemKNNConfig
from longtail.methods.popular import Popular, PopularConfig
from longtail.methods.repeat_last import RepeatLast, RepeatLastConfig
from longtail.methods.text_knn import TextKNN, TextKNNConfig
from tests.conftest import Planted, plant, walks

BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon_beauty_2014"
TRAIN = [[1, 2, 3], [2, 3, 2], [5], [1, 2, 5, 4], [], [3, 2]]
ASKED = from_lists([[1, 2], [4], [2, 5, 2], [6]])
LISTS = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=7)


def scores(method: Method, histories: Histories, rows: int = 2) -> np.ndarray:
    """(n, I) of users 1..n; column 0, padding, is left out."""
    blocks = [(part, block.numpy().copy()) for part, block in method.scorer(rows)(histories)]
    assert [place for part, _ in blocks for place in range(part.start, part.stop)] == list(range(histories.users))
    return np.concatenate([block for _, block in blocks])[:, 1:]


def test_popularity_counts_training_interactions_alone(planted: Planted) -> None:
    method = Popular(PopularConfig(), Sizes(6, 0, 0, 0))
    method.prepare(from_lists(TRAIN), Knowledge())
    assert scores(method, ASKED).tolist() == [[2, 5, 3, 1, 2, 0]] * 4
    model = lt.Recommender("popular").fit(planted.split)
    assert model.method.counts[1:].tolist() == planted.split.train.counts(20)[1:].tolist()


def test_repeat_last_knows_the_history_alone_the_last_item_first(caplog: pytest.LogCaptureFixture) -> None:
    method = RepeatLast(RepeatLastConfig(), Sizes(6, 0, 0, 0))
    method.prepare(from_lists(TRAIN), Knowledge())
    assert not caplog.records  # one user touched item 2 twice
    no = -np.inf
    expected = [[1 / 2, 1, no, no, no, no], [no, no, no, 1, no, no], [no, 1, no, no, 1 / 2, no], [no] * 5 + [1]]
    np.testing.assert_allclose(scores(method, ASKED), expected)


def test_repeat_last_says_that_it_has_nothing_to_say(planted: Planted, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = lt.Recommender("repeat_last").fit(planted.split)
    assert "no user of the training data comes back" in caplog.text
    assert model.recommend(histories=[["i00", "i02"]]).is_empty() and "nothing to recommend" in caplog.text
    again = model.recommend(histories=[["i00", "i02"]], exclude_seen=False)
    assert again["item"].to_list() == ["i02", "i00"]
    report = lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(sampled=5))
    assert report.value("hr@10") == report.value("hr@5", protocol="sampled5") == 0.0


def _slow_similarities(train: list[list[int]], config: ItemKNNConfig) -> np.ndarray:
    """(I + 1, I + 1) of nine items: the formula, one pair at a time."""
    c = np.zeros((10, 10))
    for history in train:
        for j in set(history):
            for i in set(history):
                c[j, i] += len(set(history)) ** -config.activity
    s = np.zeros((10, 10))
    for j in range(1, 10):
        near = [
            (c[j, i] / (np.sqrt(c[j, j] * c[i, i]) + config.shrinkage), -i) for i in range(1, 10) if i != j and c[j, i]
        ]
        for value, i in sorted(near, reverse=True)[: config.neighbors]:
            s[j, -i] = value
    return s


@given(
    LISTS,
    LISTS,
    st.sampled_from([0.0, 2.0]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([2, 9]),
)
def test_item_knn_is_its_formula(
    train: list[list[int]], asked: list[list[int]], shrinkage: float, activity: float, decay: float, neighbors: int
) -> None:
    config = ItemKNNConfig(shrinkage=shrinkage, activity=activity, decay=decay, neighbors=neighbors)
    method = ItemKNN(config, Sizes(9, 0, 0, 0))
    method.prepare(from_lists(train), Knowledge())
    s, slow = _slow_similarities(train, config), np.zeros((len(asked), 10))
    if neighbors == 2:  # whom a rounding error favours among equals is chance: take theirs, but check how near they are
        found = np.zeros((10, 10))
        np.put_along_axis(found, method.ids.numpy().astype(np.int64), method.similarities.numpy(), axis=1)
        np.testing.assert_allclose(np.sort(found, axis=1), np.sort(s, axis=1), rtol=1e-5)
        s = found
    for row, history in enumerate(asked):
        for age, j in enumerate(reversed(history)):
            slow[row] += decay**age * s[j]
    np.testing.assert_allclose(scores(method, from_lists(asked)), np.where(slow == 0, -np.inf, slow)[:, 1:], rtol=1e-5)


def test_the_blocks_in_which_pairs_are_counted_change_nothing(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> list[list[float]]:
        method = ItemKNN(ItemKNNConfig(neighbors=4), Sizes(20, 0, 0, 0))
        method.prepare(planted.split.train, Knowledge())
        return [method.ids.tolist(), method.similarities.tolist()]

    whole = made()
    monkeypatch.setattr(cooccurrence, "PRODUCTS", 1)
    assert made() == whole and whole[1][1][0] > 0


@pytest.mark.parametrize("history", [1, 2, 10])
def test_text_knn_is_the_cosine_with_the_mean_of_the_last_items(history: int) -> None:
    embeddings = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    embeddings[[0, 6]] = 0  # padding, and an item whose vector says nothing
    method = TextKNN(TextKNNConfig(history=history), Sizes(6, 5, 0, 0))
    method.prepare(from_lists(TRAIN), Knowledge(embeddings))
    unit = np.array([vector / (np.linalg.norm(vector) or 1) for vector in embeddings])
    for row, found in enumerate(scores(method, ASKED)):
        mean = unit[ASKED.of(row + 1)[-history:]].mean(axis=0)
        np.testing.assert_allclose(found, unit[1:] @ mean / (np.linalg.norm(mean) or 1), atol=1e-6)


def test_text_knn_finds_the_next_item_where_texts_tell(planted: Planted) -> None:
    turn = np.arange(20) // 2 * 2 * np.pi / 10  # each item's place on its circle
    even = np.arange(20) % 2
    rows = np.stack([np.cos(turn), np.sin(turn), even, 1 - even], axis=1).astype(np.float32)
    texts = lt.Embeddings(rows, planted.data.items.ids, planted.items.provenance, np.ones(20, bool))
    model = lt.Recommender("text_knn").fit(planted.split, items=texts)
    assert lt.evaluate(model, planted.split, protocol=lt.ProtocolConfig(ks=(2, 10), sampled=0)).value("hr@2") > 0.9


def test_settings_of_training_are_refused_where_there_is_none() -> None:
    assert lt.Recommender("item_knn").config.backbone is None and lt.Recommender("item_knn").config.train is None
    with pytest.raises(lt.ConfigError, match=r"backbone = .*'item_knn' is not trained; leave backbone and train out"):
        lt.Recommender("item_knn", "sasrec")
    with pytest.raises(lt.ConfigError, match=r"train = .*'popular' is not trained"):
        lt.Recommender("popular", settings={"train": {"lr": 0.1}})
    with pytest.raises(lt.ConfigError, match="did you mean 'item_knn'"):
        lt.Recommender("itemknn")
    with pytest.raises(lt.EmbeddingError, match="'text_knn' needs item embeddings"):
        lt.Recommender("text_knn").fit(plant(walks()).split)


def test_a_run_without_training_is_fitted_again_on_resume_and_keeps_its_place(planted: Planted, tmp_path: Path) -> None:
    first = lt.Recommender("item_knn").fit(planted.split, run=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "config.json"} <= names and "log.jsonl" not in names
    with pytest.raises(lt.RunError, match="already holds a run"):
        lt.Recommender("item_knn").fit(planted.split, run=tmp_path)
    with pytest.raises(lt.RunError, match="another config"):
        lt.Recommender("item_knn", settings={"method": {"decay": 0.5}}).fit(planted.split, run=tmp_path, resume=True)
    lt.Recommender("item_knn").fit(planted.split, run=tmp_path, resume=True)
    assert lt.load(tmp_path).recommend(users=["u001"]).equals(first.recommend(users=["u001"]))


def _figures(model: lt.Recommender, split: lt.Split) -> tuple[float | None, float | None]:
    report = lt.evaluate(model, split, protocol=lt.ProtocolConfig(sampled=0))
    return report.value("ndcg@10"), report.value("ndcg@10", "tail_items")


COSINE = {"method": {"shrinkage": 0, "activity": 0, "neighbors": 3659}}  # no item is left out
KNOWN = [("popular", {}, 0.0185, None), ("item_knn", COSINE, 0.2046, 0.1516)]


@pytest.mark.parametrize(("method", "settings", "everything", "tail"), KNOWN, ids=lambda value: str(value)[:8])
def test_figures_known_from_elsewhere_on_online_retail(
    method: str, settings: dict, everything: float, tail: float | None
) -> None:
    split = lt.Dataset.bundled("online_retail").leave_one_out()
    found = _figures(lt.Recommender(method, settings=settings).fit(split), split)
    assert found[0] == pytest.approx(everything, abs=0.002)
    assert tail is None or found[1] == pytest.approx(tail, abs=0.002)


@pytest.mark.skipif(not BEAUTY.exists(), reason="the shared data sets are not here")
def test_figures_known_from_elsewhere_on_amazon_beauty() -> None:
    split = lt.Dataset.read(BEAUTY / "interactions.parquet", BEAUTY / "items.parquet").leave_one_out()
    cosine = {"method": {"shrinkage": 0, "activity": 0}}
    for method, settings, *known in (("popular", {}, 0.0056, 0.0), ("item_knn", cosine, 0.0399, 0.0325)):
        found = _figures(lt.Recommender(method, settings=settings).fit(split), split)
        assert found == pytest.approx(known, abs=0.002), method
