"""The doctor: each planted defect is found with its number, and a clean table is found clean."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.dataset import Dataset
from longtail.data.doctor import CHECKS, examine
from longtail.data.findings import Finding, Prompts
from tests.conftest import catalogue, walks

DAY, START = 86_400, 1_600_000_000  # of 2020
NOW = START + 400 * DAY
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def clean(users: int = 90) -> pl.DataFrame:
    """The planted walks, a day a step."""
    return walks(users).with_columns(pl.col("timestamp") * DAY + START)


def read(interactions: pl.DataFrame, items: pl.DataFrame | None = None) -> Dataset:
    return Dataset.read(interactions, catalogue() if items is None else items)


def found(data: Dataset, topic: str, **options: object) -> list[Finding]:
    return [one for one in examine(data, now=NOW, **options) if one.topic == topic]  # type: ignore[arg-type]


def only(data: Dataset, topic: str, **options: object) -> Finding:
    (one,) = found(data, topic, **options)
    return one


def test_a_clean_table_gives_no_warning_and_every_check_speaks() -> None:
    findings = examine(read(clean()), now=NOW)
    assert [one for one in findings if one.level in {"warning", "error", "note"}] == []
    assert len(findings) == len(CHECKS) - 1  # no training was named whose cost could be told
    assert json.loads(json.dumps([asdict(one) for one in findings]))[0]["level"] == "ok"


def test_the_worst_comes_first_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    log = pl.concat([clean(), clean().head(1)])
    levels = [one.level for one in examine(read(log), now=NOW, watch=lambda done, of: told.append((done, of)))]
    assert levels[0] == "warning" and levels == sorted(levels, key=["error", "warning", "note", "ok"].index)
    assert told == [(done, len(CHECKS)) for done in range(1, len(CHECKS) + 1)]


def test_duplicates_are_counted_and_one_is_named() -> None:
    log = clean()
    one = only(read(pl.concat([log, log[:2], log[:1]])), "duplicates")
    assert one.level == "warning" and one.facts["rows"] == 3
    assert repr(log["user_id"][0]) in one.text and f"3 of {log.height + 3}" in one.text


def test_ties_are_counted_and_so_are_the_users_whose_last_two_are_tied() -> None:
    log = clean()
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    first_five = pl.col("user_id").is_in([f"u{user:03d}" for user in range(5)])
    early = (pl.col("user_id") == "u010") & (pl.col("timestamp") == START + DAY)
    back = pl.when(first_five & last | early).then(pl.col("timestamp") - DAY).otherwise("timestamp")
    one = only(read(log.with_columns(back.alias("timestamp"))), "ties")
    assert one.level == "warning"
    assert one.facts == {
        "users": 6,
        "pairs": 6,
        "users_evaluated": 90,
        "users_last_two": 5,
        "users_valid_and_before": 0,
    }
    assert "'u000'" in one.text
    few = read(log.with_columns(pl.when(early).then(pl.col("timestamp") - DAY).otherwise("timestamp")))
    assert only(few, "ties").level == "note" and only(few, "ties").facts["users_last_two"] == 0


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3)), min_size=3, max_size=40)


@given(ROWS)
def test_the_numbers_are_those_of_a_slow_count(rows: list[tuple[int, int, int]]) -> None:
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    data = Dataset.read(log)
    ordered = sorted(rows, key=lambda row: (row[0], row[2]))
    histories = {user: [row for row in ordered if row[0] == user] for user in {row[0] for row in rows}}
    neighbors = [pair for one in histories.values() for pair in pairwise(one)]
    tied = [(a, b) for a, b in neighbors if a[2] == b[2] and a[1] != b[1]]
    long = [one for one in histories.values() if len(one) >= 3]
    facts = {one.topic: one.facts for one in reversed(examine(data, now=NOW))}
    assert facts["duplicates"]["rows"] == len(rows) - len(set(rows))
    assert (facts["ties"]["pairs"], facts["ties"]["users"]) == (len(tied), len({a[0] for a, _ in tied}))
    assert facts["ties"]["users_last_two"] == sum(one[-2:] in [list(pair) for pair in tied] for one in long)
    assert facts["repeats"]["interactions"] == len(set(rows)) - len({row[:2] for row in rows})
    assert facts["repeats"]["targets_seen"] == sum(one[-1][1] in [row[1] for row in one[:-1]] for one in long)
    assert facts["short histories"]["users"] == len(histories) - len(long)


def test_repeats_are_counted_and_the_targets_among_them() -> None:
    log = clean()
    firsts = log.filter(pl.col("timestamp") == START)[:20].with_columns(
        timestamp=pl.lit(START + 100 * DAY, dtype=pl.Int64)
    )
    one = only(read(pl.concat([log, firsts])), "repeats")
    assert one.level == "warning" and one.facts["interactions"] == 20 and one.facts["targets_seen"] == 20
    assert one.facts["share"] == 20 / (log.height + 20) and "exclude_seen" in one.text
    assert only(read(pl.concat([log, firsts[:2]])), "repeats").level == "note"


@pytest.mark.parametrize(
    ("change", "level", "fact", "words"),
    [
        (pl.lit(START), "error", "first", "same time"),
        (pl.when(pl.int_range(pl.len()) < 7).then(0).otherwise("timestamp"), "warning", "early", "1973"),
        (pl.when(pl.int_range(pl.len()) < 7).then(NOW + 3 * DAY).otherwise("timestamp"), "warning", "future", "future"),
        (
            pl.when(pl.int_range(pl.len()) < 7).then(pl.col("timestamp") * 1000).otherwise("timestamp"),
            "warning",
            "mixed_units",
            "milliseconds",
        ),
        ((pl.col("timestamp") - START) // DAY, "note", "first", "each user's history"),
        (pl.int_range(pl.len()), "note", "first", "places in the file"),
        (pl.int_range(pl.len()) * 3 + 5, "note", "first", "no usual unit"),
        (20_200_101 + (pl.col("timestamp") - START) // DAY, "note", "first", "YYYYMMDD"),
        (pl.col("timestamp") * 1000, "ok", "first", "milliseconds since 1970, from 2020-09-13"),
    ],
)
def test_wrong_times_are_told(change: pl.Expr, level: str, fact: str, words: str) -> None:
    one = only(read(clean().with_columns(timestamp=change)), "times")
    assert one.level == level and words in one.text
    assert one.facts[fact] == 7 or fact == "first"


def test_a_random_order_is_told_from_a_walk() -> None:
    walk = only(read(clean()), "structure")
    assert walk.level == "ok" and walk.text.startswith("the order matters:")
    for log in (clean(), clean(900)):
        times = pl.Series(START + np.random.default_rng(0).permutation(log.height) * 1000)
        mixed = only(read(log.with_columns(timestamp=times)), "structure")
        assert mixed.level == "warning" and mixed.text.startswith("the order looks random"), mixed
    never = pl.DataFrame({"user_id": np.arange(60) // 3, "item_id": np.arange(60), "timestamp": START + np.arange(60)})
    assert only(Dataset.read(never), "structure").text.startswith("too few")


def test_an_order_that_the_file_has_inside_ties_is_told() -> None:
    log = clean(900).with_columns(timestamp=pl.lit(START, dtype=pl.Int64))
    log = pl.concat([log, log.head(1).with_columns(timestamp=pl.lit(START + DAY, dtype=pl.Int64))])
    one = only(read(log), "structure")
    assert one.level == "warning" and "inside ties the file has an order" in one.text
    assert one.facts["pairs_as_read"] == 20 and float(one.facts["pairs_found"]) < 5


def test_a_filter_is_told_with_what_it_removes_in_one_pass_and_at_the_fixed_point() -> None:
    """b and item Y fall first (one interaction each); then a has two, and falls too, and X with it; c and d stay."""
    rows = [("a", "X", 1), ("a", "Y", 2), ("a", "Z", 3), ("b", "Z", 1), ("b", "X", 2)]
    rows += [(user, item, time) for user in "cd" for time, item in enumerate("PQZ")]
    data = Dataset.read(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    one = only(data, "filter", min_user=3, min_item=2)
    assert {key: one.facts[key] for key in one.facts if key.startswith("one_pass")} == {
        "one_pass_users": 1,
        "one_pass_items": 1,
        "one_pass_interactions": 3,
        "one_pass_tail_users": 1,
        "one_pass_tail_items": 1,
        "one_pass_users_below": 1,
        "one_pass_items_below": 1,
    }
    fixed = {key: one.facts[f"fixed_point_{key}"] for key in ("users", "items", "interactions")}
    assert fixed == {"users": 2, "items": 2, "interactions": 5}
    assert one.facts["fixed_point_tail_users"] == 1  # b; a has as many as the 80th percentile and is head
    assert only(data, "filter", min_user=99).level == "error"
    assert only(data, "filter").level == "ok"
    assert only(data, "short histories", min_user=3, min_item=2).facts["users"] == 0
    assert only(data, "short histories").facts["users"] == 1


def test_nobody_to_evaluate_is_an_error() -> None:
    data = read(clean().filter(pl.col("timestamp") < START + 2 * DAY))
    assert only(data, "short histories").level == "error" and only(data, "short histories").facts["users"] == 90


def test_targets_that_training_never_saw_are_counted() -> None:
    new = pl.DataFrame(
        {
            "user_id": [f"u{user:03d}" for user in range(9)],
            "item_id": ["new0"] * 4 + ["new1"] * 5,
            "timestamp": [NOW - DAY] * 9,
        }
    )
    data = read(
        pl.concat([clean(), new]),
        pl.concat([catalogue(), pl.DataFrame({"item_id": ["new0", "new1"], "title": ["a", "b"]})]),
    )
    one = only(data, "cold items")
    assert one.level == "warning" and one.facts == {"targets": 90, "cold": 9, "items": 2}
    assert "'new0'" in one.text


def test_uneven_popularity_is_measured() -> None:
    """Gini of 1, 1, 1, 97: mean absolute difference over all 16 pairs 2 * 3 * 96 / 16 = 36, over twice the mean 25."""
    items = ["A"] * 97 + ["B", "C", "D"]
    log = pl.DataFrame({"user_id": range(100), "item_id": items, "timestamp": range(100)})
    one = only(Dataset.read(log), "popularity")
    assert one.facts["gini"] == pytest.approx(0.72) and one.facts["share_of_head"] == pytest.approx(0.97)
    assert one.level == "ok"
    wide = pl.DataFrame(
        {"user_id": range(100), "item_id": ["A"] * 90 + [f"B{i}" for i in range(10)], "timestamp": range(100)}
    )
    assert only(Dataset.read(wide), "popularity").level == "note"


def test_items_without_metadata_or_interactions_are_counted() -> None:
    items = pl.concat([catalogue()[3:], pl.DataFrame({"item_id": ["x", "y"], "title": ["Ex", "Why"]})])
    missing, unused = found(read(clean(), items), "metadata")
    rows = clean().filter(pl.col("item_id").is_in(["i00", "i01", "i02"])).height
    assert (missing.level, missing.facts) == ("warning", {"items": 3, "interactions": rows})
    assert (unused.level, unused.facts) == ("note", {"unused": 2}) and "'x', 'y'" in unused.text
    assert only(Dataset.read(clean()), "metadata").level == "warning"


def test_items_without_text_and_with_the_same_text_are_counted() -> None:
    titles = ["", "  ", None, *["Twin"] * 3, *[f"Thing {item}" for item in range(14)]]
    data = read(clean(), catalogue().with_columns(title=pl.Series(titles)))
    prompts = Prompts([(title or "").strip() for title in titles], ["title"])
    empty, same = only(data, "texts", prompts=prompts), only(data, "same texts", prompts=prompts)
    assert empty.level == "warning" and empty.facts["items"] == 3 and "'i00'" in empty.text
    assert same.level == "warning" and same.facts == {"items": 3, "groups": 1, "largest": 3}
    assert "'Twin' (such as 'i03')" in same.text


def test_leaking_columns_are_named_by_name_and_by_content() -> None:
    log = clean(400)
    counts = log["item_id"].value_counts().sort("item_id")["count"]
    noise = pl.Series(np.random.default_rng(0).random(20))
    items = catalogue().with_columns(review_count=counts, weight=counts * 2, price=noise)
    data = read(log, items)
    named, weight = (
        next(one for one in found(data, "leaks") if ("columns" in one.facts) == by_name) for by_name in (True, False)
    )
    assert named.level == "note" and named.facts["columns"] == "review_count"
    assert weight.facts["column"] == "weight" and weight.facts["spearman"] == pytest.approx(1.0)
    assert len(found(data, "leaks")) == 2  # the price is not among them
    beside = found(data, "leaks", prompts=Prompts(["text"] * 20, ["title"]))
    assert {one.level for one in beside} == {"note"} and "no prompt reads it" in beside[1].text


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("amazon_beauty_2014", {"structure": "ok", "ties": "ok", "cold items": "note", "times": "note"}),
        ("yelp_2019", {"structure": "warning", "repeats": "note", "same texts": "warning", "cold items": "note"}),
        ("movielens_latest_small", {"structure": "ok", "ties": "warning", "metadata": "note", "times": "ok"}),
        ("online_retail", {"structure": "ok", "ties": "warning", "same texts": "note", "times": "ok"}),
    ],
)
def test_the_shared_data_sets_get_their_verdicts(name: str, levels: dict[str, str]) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} beside the project")
    findings = examine(Dataset.read(SHARED / name / "interactions.parquet", items=SHARED / name / "items.parquet"))
    worst = {one.topic: one.level for one in reversed(findings)}
    assert {topic: worst[topic] for topic in levels} == levels
    assert "error" not in worst.values()
