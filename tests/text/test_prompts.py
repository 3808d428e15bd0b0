"""Prompts hold what they should, and of a user's history the training items only."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.histories import from_lists
from longtail.data.split import leave_one_out
from longtail.errors import ConfigError, DataError
from longtail.text.prompts import TEMPLATES, item_prompts, read_template, user_prompts

TITLES = pl.DataFrame({"title": ["tea", None, "{braces} & \n  spaces ", "cup"]})


def test_the_generic_prompt_is_the_title_and_every_other_column_by_name() -> None:
    items = pl.DataFrame(
        {
            "price": [0.85, None, float("nan"), 2.0],
            "Title": [" Tea ", None, "Cup", ""],
            "kinds_of_use": [["hot", None, "green"], [], None, ["x"]],
            "in_stock": [True, None, None, None],
        }
    )
    assert item_prompts(items) == [
        "Tea; price: 0.85; kinds of use: hot, green; in stock: true",
        "",
        "Cup",
        "price: 2.0; kinds of use: x",
    ]


def test_the_amazon_prompt_says_unknown_for_what_is_missing_and_cuts_long_texts() -> None:
    items = pl.DataFrame(
        {
            "title": ["Tea", None],
            "categories": ["Hot, Green", None],
            "description": ["d" * 3000, None],
            "price": [3, None],
        }
    )
    assert item_prompts(items, "amazon") == [
        "The item has the following attributes: name is Tea; brand is unknown; price is 3. It has the following "
        f"features: Hot, Green. It is described as follows: {'d' * 2048}.",
        "",
    ]


def test_the_yelp_prompt_has_name_category_and_city() -> None:
    items = pl.DataFrame({"name": ["Sal's"], "categories": ["Pizza"], "city": ["Reno"], "stars": [4.5]})
    assert item_prompts(items, "yelp") == [
        "The point of interest has the following attributes: name is Sal's; category is Pizza; city is Reno."
    ]


@pytest.mark.parametrize(
    "column",
    ["vote_average", "bought_in_past_month", "review_rating", "purchases", "units_sold", "download_count", "popularity_score", "imdb_rating", "review_count", "stars", "average_rating", "rating_number", "Rating", "salesRank", "n_reviews", "also_bought",
     "num_ratings", "checkin_count", "popularity", "bought_together"],
)  # fmt: skip
def test_columns_that_count_the_future_are_left_out_and_named(column: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert item_prompts(pl.DataFrame({"title": ["Tea"], column: [5]})) == ["Tea"]
    assert "count the future" in caplog.text and repr(column) in caplog.text


@pytest.mark.parametrize(
    "column", ["title", "price", "starring", "country", "account", "discount", "description", "year"]
)
def test_other_columns_stay(column: str) -> None:
    assert "x9" in item_prompts(pl.DataFrame({column: ["x9"]}))[0]


def test_columns_that_are_tables_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert item_prompts(pl.DataFrame({"title": ["Tea"], "details": [{"a": 1}]})) == ["Tea"]
    assert "'details'" in caplog.text


def test_a_table_without_any_usable_column_gives_no_text() -> None:
    assert item_prompts(pl.DataFrame({"stars": [1, 2]})) == ["", ""]
    assert item_prompts(pl.DataFrame({"id": [1, 2]}).drop("id")) == ["", ""]
    assert item_prompts(pl.DataFrame({"stars": [1, 2]}), "amazon") == ["", ""]


def test_a_users_prompt_lists_the_titles_oldest_first() -> None:
    train = from_lists([[4, 1, 2, 3], [2], []])
    assert user_prompts(train, TITLES) == [
        "The user has bought: cup; tea; {braces} & spaces. Summarise the user's preference.",
        "",
        "",
    ]
    assert user_prompts(train, TITLES, "visited")[0].startswith("The user has visited: cup; tea")


@given(
    st.lists(st.lists(st.integers(1, 6), max_size=12), min_size=1, max_size=5),
    st.lists(st.sampled_from(["", "a", "bb", "ccc ccc", "äö", "longer title"]), min_size=6, max_size=6),
    st.integers(1, 40),
)
def test_of_a_long_history_the_newest_whole_titles_that_fit_are_kept(
    lists: list[list[int]], titles: list[str], last_chars: int
) -> None:
    prompts = user_prompts(from_lists(lists), pl.DataFrame({"title": titles}), last_chars=last_chars)
    for history, prompt in zip(lists, prompts, strict=True):
        kept: list[str] = []
        for item in reversed(history):  # one at a time, newest first
            title = titles[item - 1][:last_chars]
            if title and len("; ".join([title, *kept])) > last_chars:
                break
            kept = [title, *kept] if title else kept
        expected = f"The user has bought: {'; '.join(kept)}. Summarise the user's preference." if kept else ""
        assert prompt == expected


def test_a_whole_prompt_fits_an_encoders_window() -> None:
    train = from_lists([[1, 4] * 300])
    (prompt,) = user_prompts(train, TITLES, max_chars=120)
    assert 110 < len(prompt) <= 120 and prompt.endswith("cup. Summarise the user's preference.")
    assert len(user_prompts(train, TITLES, last_chars=100, max_chars=10_000)[0]) < 160


@given(st.data())
def test_held_out_items_change_no_users_prompt(data: st.DataObject) -> None:
    lists = data.draw(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=8), min_size=1, max_size=6))
    other = [[*one[:-2], *data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=2))] for one in lists]
    text = pl.DataFrame({"title": [f"title{item}" for item in range(1, 10)]})
    prompts = user_prompts(leave_one_out(from_lists(lists), 9).train, text)
    assert prompts == user_prompts(leave_one_out(from_lists(other), 9).train, text)
    for one, prompt in zip(lists, prompts, strict=True):
        assert [int(word[5:].rstrip(".;")) for word in prompt.split() if word.startswith("title")] == one[:-2]


def test_a_table_without_titles_is_refused() -> None:
    with pytest.raises(DataError, match=r"no column 'title' or 'name' .*it has 'label'"):
        user_prompts(from_lists([[1]]), pl.DataFrame({"label": ["tea"]}))


def test_the_packages_templates_are_sound() -> None:
    names = sorted(path.stem for path in TEMPLATES.glob("*.toml"))
    assert len(names) >= 5
    hashes = set()
    for name in names:
        kind = "user" if name in {"user", "visited", "user-profile"} else "item"
        hashes.add(read_template(name, kind).hash)  # type: ignore[arg-type]
    assert len(hashes) == len(names)


def test_an_unknown_template_and_one_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown template 'amazone', did you mean 'amazon'"):
        item_prompts(TITLES, "amazone")
    with pytest.raises(ConfigError, match="describes a user, not a item"):
        item_prompts(TITLES, "user")


def test_ones_own_template_is_read_and_a_counter_of_the_future_in_it_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('version = 2\nkind = "item"\ntext = "A {what}!"\n[fields.what]\ncolumns = ["title"]\nchars = 2\n')
    assert item_prompts(TITLES, str(path)) == ["A te!", "", "A {b!", "A cu!"]
    path.write_text('version = 2\nkind = "item"\ntext = "A {n}!"\n[fields.n]\ncolumns = ["review_count"]\n')
    with pytest.raises(ConfigError, match="'review_count', which counts the future"):
        item_prompts(TITLES, str(path))
    path.write_text('version = 2\nkind = "item"\ntext = "A {n} {m}!"\n[fields.n]\ncolumns = ["title"]\n')
    with pytest.raises(ConfigError, match="uses 'm' without"):
        item_prompts(TITLES, str(path))


def test_a_template_is_known_by_its_content(tmp_path: Path) -> None:
    text = (TEMPLATES / "yelp.toml").read_text(encoding="utf-8")
    (tmp_path / "yelp.toml").write_text(text, encoding="utf-8")
    known = read_template("yelp", "item").hash
    assert read_template(str(tmp_path / "yelp.toml"), "item").hash == known
    (tmp_path / "yelp.toml").write_text(text.replace("attributes", "traits"), encoding="utf-8")
    assert read_template(str(tmp_path / "yelp.toml"), "item").hash != known


def test_prompts_do_not_depend_on_other_users() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 5, size=rng.integers(0, 9)).tolist() for _ in range(30)]
    together = user_prompts(from_lists(lists), TITLES, last_chars=9)
    alone = [user_prompts(from_lists([one]), TITLES, last_chars=9)[0] for one in lists]
    assert together == alone
