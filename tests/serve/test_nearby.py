"""Lists by cells of items: those of all items where all cells are looked into, and nearly those where a few are."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import longtail as lt
from longtail import cells, cli_serving, lists, nearby
from longtail.data.histories import Histories
from longtail.errors import DataError
from longtail.lists import Lists
from longtail.nearby import Nearby
from longtail.serve import everybody


def asked(model: lt.Recommender, users: int | None = None) -> Histories:
    split = model.split
    return split.select(np.arange(1, users or split.train.users + 1)).everything()


def exact(model: lt.Recommender, k: int, exclude_seen: bool) -> Lists:
    return lists.top(model.scorer(), asked(model), k, exclude_seen)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("edges", [True, False])
def test_all_cells_give_the_lists_of_all_items(
    many: Path, monkeypatch: pytest.MonkeyPatch, *, edges: bool, exclude_seen: bool
) -> None:
    """With the dial, with and without edges, of which most lead to no candidate; in blocks of users."""
    for name, value in {"GOOD": 2.0, "USERS": 70, "ROWS": 33}.items():
        monkeypatch.setattr(nearby, name, value)
    monkeypatch.setattr(cells, "PROBES", (10_000,))
    model = lt.load(many)
    assert model.method is not None
    if not edges:
        monkeypatch.setattr(type(model.method), "graphs", lambda self: None)
        model.method.get_buffer("gamma").zero_()
    expected, made = exact(model, 7, exclude_seen), model.nearby(7)
    assert made.recall == 1.0
    found = made.top(asked(model), 7, exclude_seen)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=2e-4)
    assert (found.items == expected.items).mean() > 0.99  # where scores are equal, either may come first
    assert not edges or (found.items != exact_without_edges(model, 7, exclude_seen)).any()


def exact_without_edges(model: lt.Recommender, k: int, exclude_seen: bool) -> np.ndarray:
    assert model.method is not None
    gamma = model.method.get_buffer("gamma")
    kept = gamma.clone()
    gamma.zero_()
    found = exact(model, k, exclude_seen).items
    gamma.copy_(kept)
    return found


def test_a_few_cells_have_nearly_all(many: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="longtail")
    model = lt.load(many)
    made = model.nearby(5)
    looked, of = map(int, re.findall(r"(\d+) cells of (\d+) have", caplog.text)[0])
    assert looked < of / 2
    found, expected = made.top(asked(model), 5, exclude_seen=True), exact(model, 5, exclude_seen=True)
    share = (found.scores >= expected.scores[:, -1:] - 1e-4 * np.abs(expected.scores[:, -1:])).mean()
    assert share >= 0.97 and made.recall == pytest.approx(share, abs=0.02)
    history = asked(model)
    assert all(not set(row) & set(history.of(user)) for user, row in enumerate(found.items.tolist(), start=1))


def test_who_has_seen_nearly_everything_gets_what_is_left(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their candidates are all seen, so that they get lists of all items."""
    monkeypatch.setattr(nearby, "SEEN", (1, 2))
    monkeypatch.setattr(nearby, "MORE", 0)
    model = lt.load(many)
    made, items = model.nearby(3), model.split.items
    left = np.array([5, 77, 2000])
    history = np.setdiff1d(np.arange(1, items + 1), left)
    found = made.top(Histories(history, np.array([0, 0, len(history)])), 4)
    assert set(found.items[0, :3]) == set(left) and np.isinf(found.scores[0, 3])


def test_cells_that_find_too_little_are_left_for_all_items(
    many: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cells, "PROBES", (1,))
    monkeypatch.setattr(nearby, "MORE", 0)
    monkeypatch.setattr(nearby, "LEAST", 1.1)
    model = lt.load(many)
    made = model.nearby(5)
    assert made.recall < 1.1 and "all items are scored, slower" in caplog.text
    np.testing.assert_array_equal(made.top(asked(model), 5).items, exact(model, 5, exclude_seen=True).items)


def test_the_command_makes_the_lists_by_cells_where_it_is_asked_or_items_are_many(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearby, "USERS", 64)
    built: list[int] = []
    whole = Nearby.__init__

    def noted(self: Nearby, *given: object) -> None:
        built.append(1)
        whole(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Nearby, "__init__", noted)
    cli_serving.recommend(many, k=5, all_to=tmp_path / "auto")
    cli_serving.recommend(many, k=5, all_to=tmp_path / "exact", search="exact")
    assert not built
    cli_serving.recommend(many, k=5, all_to=tmp_path / "cells", search="cells")
    monkeypatch.setattr(nearby, "MANY", 2999)
    cli_serving.recommend(many, k=5, all_to=tmp_path / "many")
    assert len(built) == 2
    one, other, auto, large = (pl.read_parquet(tmp_path / name) for name in ("exact", "cells", "auto", "many"))
    assert one.equals(auto) and other.equals(large) and one.schema == other.schema and len(one) == len(other)
    assert len(one.join(other, on=["user", "item"], how="semi")) > 0.95 * len(one)


def test_what_has_no_cells_is_told(many: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a bundle, whose lists are exact here"):
        everybody.of(bundle, 3, search="cells")
    with pytest.raises(DataError, match="leave --search cells or --diversity out"):
        everybody.of(many, 3, 0.2, search="cells")
    with pytest.raises(DataError, match="--search is for the lists of all users"):
        cli_serving.recommend(many, users=["u001"], search="cells")
    model = lt.load(many)
    torch.manual_seed(0)
    popular = lt.Recommender("popular")
    popular.known, popular.method = model.known, model.method and torch.nn.Module()  # type: ignore[assignment]
    with pytest.raises(DataError, match="method 'popular' has no item vectors"):
        popular.nearby()
