"""Columns are recognised by name; ids and times mean the same however they are stored."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.columns import choose, id_column, times
from longtail.errors import DataError


def stamps(column: pl.Series) -> list[int]:
    order, unit = times(column, "t.csv")
    return (order // unit).to_list()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["user_id", "item_id", "timestamp", "rating"], ["user_id", "item_id", "timestamp"]),
        (["reviewerID", "asin", "overall", "unixReviewTime", "reviewTime"], ["reviewerID", "asin", "unixReviewTime"]),
        (["review_id", "user_id", "business_id", "date"], ["user_id", "business_id", "date"]),
        (["userId", "movieId", "rating", "timestamp"], ["userId", "movieId", "timestamp"]),
        (["USER", "Item", "Time"], ["USER", "Item", "Time"]),
        (["user_id:token", "item_id:token", "timestamp:float"], ["user_id:token", "item_id:token", "timestamp:float"]),
        (["Customer ID", "sku", "ts"], ["Customer ID", "sku", "ts"]),
        (["user_id", "item_id", "asin", "date", "timestamp"], ["user_id", "item_id", "timestamp"]),
    ],
)
def test_usual_names_are_recognised(columns: list[str], expected: list[str]) -> None:
    assert [choose(columns, role, None, "t.csv") for role in ("user", "item", "timestamp")] == expected


def test_a_column_that_is_named_wins() -> None:
    assert choose(["user_id", "buyer"], "user", "buyer", "t.csv") == "buyer"


def test_an_id_is_the_item_only_in_a_table_of_items() -> None:
    assert choose(["id", "title"], "item", None, "t.csv", option="item_id") == "id"
    with pytest.raises(DataError, match="no column that looks like the item"):
        choose(["id", "title"], "item", None, "t.csv")


def test_unknown_and_ambiguous_columns_are_told_with_what_there_is() -> None:
    with pytest.raises(DataError, match=r"t\.csv has no column 'buyers', did you mean 'buyer'\?; it has 'buyer', 'b'"):
        choose(["buyer", "b"], "user", "buyers", "t.csv")
    with pytest.raises(DataError, match=r"it has 'usr_id', 'b', of which 'usr_id' is nearest; name the column: user="):
        choose(["usr_id", "b"], "user", None, "t.csv")
    with pytest.raises(
        DataError, match=r"'asin', 'parent_asin' could each be the item column; name one, such as item="
    ):
        choose(["asin", "parent_asin"], "item", None, "t.csv")


def test_ids_keep_their_kind_and_whole_floats_become_integers() -> None:
    assert id_column(pl.Series(["01", "a"]), "t").to_list() == ["01", "a"]
    assert id_column(pl.Series(["b", "a"], dtype=pl.Categorical), "t").dtype == pl.String
    for dtype in (pl.Int8, pl.UInt64, pl.Float32, pl.Float64, pl.Int64):
        found = id_column(pl.Series([3, 1], dtype=dtype), "t")
        assert (found.dtype, found.to_list()) == (pl.Int64, [3, 1])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pl.Series("u", ["a", None, "b", ""]),
            r"t\.csv, column 'u': 2 of 4 rows have no id \(rows 2, 4, counted from 1",
        ),
        (pl.Series("u", [1.0, float("nan")]), r"1 of 2 rows have no id \(rows 2,"),
        (pl.Series("u", [1.0, 2.5]), r"no exact integer \(rows 2, .*the first is 2\.5"),
        (pl.Series("u", [2.0**60]), r"no exact integer"),
        (pl.Series("u", [2**64 - 1], dtype=pl.UInt64), r"no exact integer"),
        (pl.Series("u", [[1]]), r"ids of type List\(Int64\) cannot be used"),
        (pl.Series("u", [None] * 9, dtype=pl.Int64), r"9 of 9 rows have no id \(rows 1, 2, 3, 4, 5, …,"),
    ],
)
def test_missing_and_impossible_ids_are_counted_and_placed(column: pl.Series, message: str) -> None:
    with pytest.raises(DataError, match=message):
        id_column(column, "t.csv")


MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))


@given(st.lists(MOMENTS, min_size=1), st.integers(-14 * 60, 14 * 60))
def test_a_moment_is_the_same_in_every_spelling(moments: list[datetime], minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    seconds = [
        (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) for moment in moments
    ]
    local = [moment.replace(tzinfo=UTC).astimezone(zone) for moment in moments]
    for column in (
        pl.Series(seconds),
        pl.Series([float(second) for second in seconds]),
        pl.Series([str(second) for second in seconds]),
        pl.Series(moments, dtype=pl.Datetime("us")),
        pl.Series(moments, dtype=pl.Datetime("ns")),
        pl.Series(moments, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.Series([moment.isoformat() for moment in moments]),
        pl.Series([moment.isoformat(" ") + "Z" for moment in moments]),
        pl.Series([moment.isoformat() for moment in local]),
    ):
        assert stamps(column) == seconds


def test_dates_count_from_midnight() -> None:
    assert stamps(pl.Series([date(1970, 1, 2)])) == stamps(pl.Series(["1970-01-02"])) == [86_400]
    assert stamps(pl.Series(["1970-01-01", "1970-01-01 00:01", "1970-01-01T00:01:02"])) == [0, 60, 62]


def test_parts_of_a_second_still_order_interactions() -> None:
    order, unit = times(pl.Series([1.75, 1.25]), "t")
    assert order[0] > order[1]
    assert (order // unit).to_list() == [1, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series("t", [1, None]), r"1 of 2 rows have no time \(rows 2"),
        (pl.Series("t", ["1", ""]), r"1 of 2 rows have no time \(rows 2"),
        (pl.Series("t", ["2024-01-01", "12/1/2010 8:26"]), r"neither a number nor ISO .*rows 2, .*'12/1/2010 8:26'"),
        (pl.Series("t", ["2024-13-01"]), r"neither a number nor ISO"),
        (pl.Series("t", [float("inf")]), r"impossible time"),
        (pl.Series("t", [True]), r"times of type Boolean"),
    ],
)
def test_missing_and_impossible_times_are_counted_and_placed(column: pl.Series, message: str) -> None:
    with pytest.raises(DataError, match=message):
        times(column, "t.csv")
