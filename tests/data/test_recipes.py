"""The paper's data sets: every recipe is whole, follows its filter, and tells where it differs from what is published."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from longtail.data import recipes
from longtail.data.opening import DataConfig, open_data
from longtail.data.sources.base import sources
from longtail.errors import ConfigError, DataError
from tests.data.test_sources import SAMPLES

REVIEWS = {  # user: items. b is in two, so that u1 is left with two; e stays, though of its three u5 is dropped
    "u1": "abc",
    "u2": "acde",
    "u3": "acd",
    "u4": "acdeb",
    "u5": "de",
}


def raw(folder: Path) -> Path:
    """Raw files of Yelp 2013 with those reviews."""
    folder.mkdir()
    rows = [(user, item, f"2010-01-{day:02d}") for user, items in REVIEWS.items() for day, item in enumerate(items, 1)]
    named = ("user_id", "business_id", "date")
    lines = [json.dumps(dict(zip(named, row, strict=True)) | {"type": "review", "stars": 3}) for row in rows]
    (folder / "yelp_training_set_review.json").write_text("\n".join(lines))
    businesses = [json.dumps({"business_id": item, "name": f"Place {item}", "categories": []}) for item in "abcdef"]
    (folder / "yelp_training_set_business.json").write_text("\n".join(businesses))
    return folder


def by_hand(minimum: int) -> dict[str, str]:
    """Histories after one pass, with both counts taken before it, and without users who are left with fewer."""
    counts = {item: sum(item in items for items in REVIEWS.values()) for item in "abcde"}
    once = {
        user: "".join(item for item in items if counts[item] >= minimum)
        for user, items in REVIEWS.items()
        if len(items) >= minimum
    }
    return {user: items for user, items in once.items() if len(items) >= minimum}


def test_a_recipe_filters_once_then_drops_users_and_tells_that_counts_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(interactions="recipe:yelp", raw=str(raw(tmp_path / "raw")))
    with caplog.at_level(logging.WARNING):
        data = open_data(config)
    wanted = by_hand(3)
    assert data.name == "yelp" and data.users.ids.to_list() == list(wanted) == ["u2", "u3", "u4"]
    histories = data.histories()
    for user, (name, items) in enumerate(wanted.items(), 1):
        assert data.items.external(histories.of(user)).to_list() == list(items), name
    assert data.text["title"].to_list() == [f"Place {item}" for item in "acde"]
    assert data.notes[-1] == "recipe yelp: 3 users (15,720 are published), 4 items (11,383 are published)"
    assert "did not give the data set of the paper: 3 users (15,720 are published)" in caplog.text


def test_a_recipe_that_meets_its_counts_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shutil.copytree(recipes.HERE, tmp_path / "recipes")
    text = (here / "yelp.toml").read_text().replace("15720", "3").replace("11383", "4")
    (here / "mine.toml").write_text(f"{text}interactions = 11\n")
    monkeypatch.setattr(recipes, "HERE", here)
    with caplog.at_level(logging.WARNING):
        data = open_data(DataConfig(interactions="recipe:mine", raw=str(raw(tmp_path / "raw"))))
    assert (
        data.notes[-1] == "recipe mine: 3 users (as published), 4 items (as published), 11 interactions (as published)"
    )
    assert not caplog.records


@pytest.mark.parametrize("name", ["beauty", "fashion", "yelp"])
def test_every_recipe_is_whole_and_its_source_knows_its_file(name: str, tmp_path: Path) -> None:
    assert recipes.names() == ["beauty", "fashion", "yelp"]
    recipe = recipes.read_recipe(name)
    (tmp_path / recipe.interactions).write_text("")
    (found,) = sources.get(recipe.source).find(tmp_path)
    assert found.items is not None and recipe.page.startswith("https://") and recipe.known


def test_what_a_recipe_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe 'beaty', did you mean 'beauty'"):
        open_data(DataConfig(interactions="recipe:beaty", raw="x"))
    with pytest.raises(DataError, match=r"needs the folder with reviews_Beauty\.json\.gz.*--from FOLDER"):
        open_data(DataConfig(interactions="recipe:beauty"))
    with pytest.raises(DataError, match=r"reviews_Beauty\.json\.gz, which is not there: get it from https://cseweb"):
        open_data(DataConfig(interactions="recipe:beauty", raw=str(tmp_path)))
    with pytest.raises(DataError, match="leave items, user out"):
        open_data(DataConfig(interactions="recipe:beauty", raw=str(tmp_path), user="u", items="x"))
    with pytest.raises(DataError, match="leave raw out"):
        open_data(DataConfig(interactions=f"yelp:{SAMPLES / 'yelp'}", raw="x"))


def test_paths_in_a_config_file_start_beside_it() -> None:
    from longtail.cases import beside

    def moved(**values: str) -> object:
        return beside(Path("there"), {"data": dict(values)})["data"]

    assert moved(interactions="yelp:raw", items="none") == {"interactions": "yelp:there/raw", "items": "none"}
    assert moved(interactions="recipe:beauty", raw="raw") == {"interactions": "recipe:beauty", "raw": "there/raw"}
    assert moved(interactions="log.csv", items="i.csv") == {"interactions": "there/log.csv", "items": "there/i.csv"}
    assert moved(interactions="bundled:online_retail") == {"interactions": "bundled:online_retail"}
