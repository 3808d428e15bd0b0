"""What users wrote reaches the prompts from training interactions only, under every split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.data.dataset import Dataset
from longtail.data.split import Scheme, SplitConfig
from longtail.errors import ConfigError, DataError
from longtail.text.prompts import item_prompts
from longtail.text.reviews import ReviewsConfig, cut, with_reviews

SCHEMA = ["user_id", "item_id", "timestamp", "text"]


def reviewed(rows: list[tuple[str, str, int, str | None]], titles: str = "abcdefghij") -> Dataset:
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    items = pl.DataFrame({"item_id": list(titles), "title": [f"thing {one}" for one in titles]})
    return Dataset.read(table, items, review="text")


def prompts(data: Dataset, config: ReviewsConfig, split: SplitConfig | None = None) -> list[str]:
    return item_prompts(with_reviews(data, data.split(split), config).text)


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[str, str, int, str | None]]:
    """Interactions whose reviews are marked one by one: #0#, #1#, …"""
    users = draw(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=3, max_size=7), min_size=4, max_size=12))
    pairs = [(f"u{user:02d}", item) for user, items in enumerate(users) for item in items]
    times = draw(st.lists(st.integers(0, 40), min_size=len(pairs), max_size=len(pairs)))
    return [(*pair, time, f"#{row}# said") for row, (pair, time) in enumerate(zip(pairs, times, strict=True))]


def held_out(rows: list[tuple[str, str, int, str | None]], config: SplitConfig, data: Dataset) -> set[int]:
    """Rows that do not train, by the slow and obvious way."""
    order = sorted(range(len(rows)), key=lambda row: (rows[row][0], rows[row][2], row))
    split = data.split(config)
    if config.scheme == "leave_one_out":
        users = {user: [row for row in order if rows[row][0] == user] for user, *_ in rows}
        return {row for mine in users.values() for row in mine[-2:]}
    if config.scheme == "users":
        silent = {str(user) for user, n in zip(data.users.ids, split.train.lengths[1:], strict=True) if not n}
        return {row for row in order if rows[row][0] in silent}
    if config.scheme == "items":
        counts = split.train.counts(split.items)[1:]
        gone = {str(item) for item, n in zip(data.items.ids, counts, strict=True) if not n}
        return {row for row in order if rows[row][1] in gone}
    times = sorted(time for _, _, time, _ in rows)
    first = times[-max(round((config.valid + config.test) * len(rows)), 1)]
    return {row for row in order if rows[row][2] >= first}


@pytest.mark.parametrize("scheme", get_args(Scheme))
@given(rows=logs(), order=st.sampled_from(["newest", "longest"]), k=st.integers(1, 30))
@settings(max_examples=20)
def test_no_held_out_review_enters_a_prompt_and_every_other_one_can(
    scheme: Scheme, rows: list[tuple[str, str, int, str | None]], order: str, k: int
) -> None:
    data = reviewed(rows)
    config = (
        SplitConfig(scheme=scheme) if scheme == "leave_one_out" else SplitConfig(scheme=scheme, valid=0.2, test=0.2)
    )
    try:
        out = held_out(rows, config, data)
    except DataError:  # too little is left to split so
        return
    made = prompts(data, ReviewsConfig(k=k, order=order), config)  # type: ignore[arg-type]
    seen = {int(mark) for prompt in made for mark in re.findall(r"#(\d+)#", prompt)}
    assert not seen & out
    trained = [
        [row for row, one in enumerate(rows) if row not in out and one[1] == str(item)] for item in data.items.ids
    ]
    for mine, prompt in zip(trained, made, strict=True):
        marks = {int(mark) for mark in re.findall(r"#(\d+)#", prompt)}
        assert marks <= set(mine) and len(marks) == min(k, len(mine))


def test_the_newest_or_the_longest_distinct_reviews_are_quoted_in_that_order() -> None:
    rows = [(user, "a", time, said) for user, time, said in [
        ("u1", 1, "Fine tea, as it was last year and the year before"), ("u2", 5, "fine"), ("u3", 3, " FINE "),
        ("u4", 4, None), ("u5", 2, "good\n tea")]]  # fmt: skip
    rows += [(f"u{user}", item, 10, "later") for user in range(1, 6) for item in "bc"]
    data = reviewed(rows, "abc")
    assert prompts(data, ReviewsConfig(k=9))[0] == (
        "thing a; review texts: fine | good tea | Fine tea, as it was last year and the year before"
    )
    assert (
        prompts(data, ReviewsConfig(k=2, order="longest", chars=12))[0]
        == "thing a; review texts: Fine tea,… | good tea"
    )
    assert prompts(data, ReviewsConfig()) == ["thing a", "thing b", "thing c"]
    assert prompts(data, ReviewsConfig(k=1))[1:] == ["thing b", "thing c"]  # all of theirs are held out


@given(st.text(alphabet="ab é\t", max_size=30), st.integers(1, 12))
def test_a_cut_review_is_a_beginning_of_it_and_no_longer_than_asked(text: str, chars: int) -> None:
    (short,) = cut(pl.Series([text]), chars).to_list()
    assert len(short) <= chars
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_filters_and_folders_keep_each_review_with_its_interaction(tmp_path: Path) -> None:
    rows = [(f"u{user}", item, time, f"{user}{item}{time}") for user in range(5) for time, item in enumerate("abcda")]
    data = reviewed([*rows, ("lone", "e", 1, "gone")]).filter(min_user=3)
    data.save(tmp_path / "kept")
    again = Dataset.load(tmp_path / "kept")
    assert again.hash == data.hash
    for user, item, time, review in again.interactions.select("user", "item", "timestamp", "review").iter_rows():
        assert review == f"{again.users.ids[user - 1][1:]}{again.items.ids[item - 1]}{time}"


def test_data_sets_without_reviews_and_foreign_splits_are_refused() -> None:
    rows = [(f"u{user}", item, time, "x") for user in range(5) for time, item in enumerate("abcda")]
    data = reviewed(rows)
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    plain = Dataset.read(table.drop("text"), pl.DataFrame({"item_id": ["a"], "title": ["tea"]}))
    with pytest.raises(ConfigError, match=r"data.review = '…'"):
        with_reviews(plain, plain.leave_one_out(), ReviewsConfig(k=1))
    with pytest.raises(DataError, match="no review can be trusted"):
        with_reviews(data, data.leave_one_out()._replace(trains=None), ReviewsConfig(k=1))
    other = reviewed([*rows[:-1], ("u4", "b", 4, "x")])
    swapped = other.leave_one_out()._replace(
        train=data.leave_one_out().train._replace(items=data.leave_one_out().train.items[::-1])
    )
    with pytest.raises(DataError, match="of other interactions"):
        with_reviews(other, swapped, ReviewsConfig(k=1))
    with pytest.raises(DataError, match="'timestamp' is Int64, not what users wrote"):
        Dataset.read(table, review="timestamp")
    with pytest.raises(DataError, match="no column 'txt', did you mean 'text'"):
        Dataset.read(table, review="txt")


def test_a_template_that_would_not_read_the_reviews_is_refused(tmp_path: Path) -> None:
    rows = [(f"u{user}", item, time, "warm words") for user in range(5) for time, item in enumerate("abcda")]
    data = reviewed(rows)
    mine = tmp_path / "mine.toml"
    mine.write_text('version = 1\nkind = "item"\ntext = "A {what}!"\n[fields.what]\ncolumns = ["title"]\n')
    split, config = data.leave_one_out(), ReviewsConfig(k=1)
    with pytest.raises(ConfigError, match=r"no field for text.reviews; add one with columns = \['review_texts'\]"):
        with_reviews(data, split, config, str(mine))
    made = with_reviews(data, split, config, "beauty")
    first, *_, last = item_prompts(made.text, "beauty")
    assert first.endswith("described as follows: unknown. Users write: warm words") and made.hash != data.hash
    assert last == item_prompts(data.text, "beauty")[-1]  # of d all interactions are held out
