"""Reading, filtering, saving and loading data sets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.dataset import Dataset
from longtail.errors import DataError, LongtailError

Row = tuple[str, str, int]
ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("ABCDEF"), st.integers(0, 5)), min_size=1, max_size=40
)
ITEMS = pl.DataFrame({"item_id": ["B", "A", "Z"], "title": ["bee", "ay", "zed"], "price": [2.0, None, 1.0]})


def table(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}, orient="row")


def external(data: Dataset) -> dict[str, list[str]]:
    """Histories by external ids."""
    histories = data.histories()
    return {
        str(name): data.items.external(histories.of(user)).to_list()
        for user, name in enumerate(data.users.ids.to_list(), start=1)
    }


def slow_histories(rows: list[Row]) -> dict[str, list[str]]:
    users = sorted({user for user, _, _ in rows})
    ordered = sorted(rows, key=lambda row: row[2])  # Python's sort keeps the order of ties
    return {user: [item for owner, item, _ in ordered if owner == user] for user in users}


@given(ROWS)
def test_histories_are_in_time_and_ties_keep_the_order_of_the_table(rows: list[Row]) -> None:
    data = Dataset.read(table(rows))
    assert external(data) == slow_histories(rows)
    assert data.items.ids.to_list() == sorted({item for _, item, _ in rows})
    stamps = data.interactions["timestamp"].to_list()
    assert stamps == [stamp for user in data.users.ids for stamp in sorted(t for u, _, t in rows if u == user)]
    assert data.text.shape == (len(data.items), 0)
    assert data.interactions.schema == {"user": pl.UInt32, "item": pl.UInt32, "timestamp": pl.Int64}


@given(ROWS)
def test_without_a_time_column_the_order_of_rows_is_time(rows: list[Row]) -> None:
    data = Dataset.read(table(rows).drop("timestamp"))
    assert external(data) == slow_histories([(user, item, 0) for user, item, _ in rows])
    assert "no time column" in data.notes[0]


@given(ROWS)
def test_ties_and_repeats_are_counted(rows: list[Row]) -> None:
    notes = " ".join(Dataset.read(table(rows)).notes)
    moments = [(user, stamp) for user, _, stamp in rows]
    tied = sum(moments.count(moment) > 1 for moment in moments)
    repeats = len(rows) - len(set(rows))
    assert (f"{tied} of {len(rows)} interactions share user and time" in notes) == (tied > 0)
    assert (f"{repeats} interactions repeat another" in notes) == (repeats > 0)


@given(ROWS, st.permutations("abcde"), st.permutations("ABCDEF"))
def test_renaming_ids_renames_histories_and_changes_nothing_else(
    rows: list[Row], users: list[str], items: list[str]
) -> None:
    user_name, item_name = dict(zip("abcde", users, strict=True)), dict(zip("ABCDEF", items, strict=True))
    renamed = Dataset.read(table([(user_name[user], item_name[item], stamp) for user, item, stamp in rows]))
    expected = {
        user_name[user]: [item_name[item] for item in history] for user, history in slow_histories(rows).items()
    }
    assert external(renamed) == expected


@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_matter_where_times_differ(rows: list[Row], random) -> None:  # type: ignore[no-untyped-def]
    distinct = [(user, item, stamp) for stamp, (user, item, _) in enumerate(rows)]
    shuffled = list(distinct)
    random.shuffle(shuffled)
    assert Dataset.read(table(distinct)).hash == Dataset.read(table(shuffled)).hash


@given(ROWS, st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_filtering_agrees_with_plain_counting(rows: list[Row], min_user: int, min_item: int, repeat: bool) -> None:
    left = rows
    while True:
        users, items = [row[0] for row in left], [row[1] for row in left]
        kept = [row for row in left if users.count(row[0]) >= min_user and items.count(row[1]) >= min_item]
        done = kept == left or not repeat
        left = kept
        if done:
            break
    ids = sorted({item for _, item, _ in rows})
    data = Dataset.read(table(rows), pl.DataFrame({"item_id": ids, "title": [f"title of {i}" for i in ids]}))
    if not left:
        with pytest.raises(
            DataError, match=rf"no interaction is left with min_user={min_user} and min_item={min_item}"
        ):
            data.filter(min_user=min_user, min_item=min_item, repeat=repeat)
        return
    found = data.filter(min_user=min_user, min_item=min_item, repeat=repeat)
    assert external(found) == slow_histories(left)
    assert found.text["title"].to_list() == [f"title of {item}" for item in found.items.ids]
    assert found.interactions.schema == data.interactions.schema
    assert (len(left) < len(rows)) == any(note.startswith("filter(") for note in found.notes)


def test_filtering_follows_a_chain_of_drops_to_its_end() -> None:
    # b drops C, which leaves c one item, which leaves D one buyer, ...: one link a round
    chain = [("b", "C", 0), ("c", "C", 1), ("c", "D", 2), ("d", "D", 3), ("d", "E", 4), ("e", "E", 5), ("e", "F", 6)]
    block = [(user, item, 9) for user in "xy" for item in "AB"]
    data = Dataset.read(table(chain + block))
    assert external(data.filter(min_user=2, min_item=2)) == {"x": ["A", "B"], "y": ["A", "B"]}
    once = data.filter(min_user=2, min_item=2, repeat=False)
    assert set(external(once)) == {"c", "d", "e", "x", "y"}


def test_filtering_a_data_set_without_text_keeps_its_height() -> None:
    data = Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("b", "A", 3)])).filter(min_item=2)
    assert data.text.shape == (1, 0)


def test_text_is_joined_by_id_and_differences_are_noted() -> None:
    data = Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("b", "C", 3)]), ITEMS)
    assert data.text.to_dict(as_series=False) == {"title": ["ay", "bee", None], "price": [None, 2.0, None]}
    assert data.notes == (
        "1 items of the items occur in no interaction; they are left out",
        "1 of 3 items have no row in the items: 'C'",
    )


def test_several_rows_for_an_item_are_refused() -> None:
    with pytest.raises(DataError, match=r"several rows for item 'A'; keep one row an item"):
        Dataset.read(table([("a", "A", 1)]), pl.concat([ITEMS, ITEMS.filter(pl.col("item_id") == "A")]))


def test_the_same_tables_give_the_same_data_set_from_every_kind_of_source(tmp_path: Path) -> None:
    rows = table([("10", "7", 5), ("10", "8", 1), ("9", "7", 3)])
    items = pl.DataFrame({"item_id": ["7", "8"], "price": [1, 2]})
    for suffix, write in (("csv", pl.DataFrame.write_csv), ("parquet", pl.DataFrame.write_parquet)):
        write(rows, tmp_path / f"interactions.{suffix}")
        write(items, tmp_path / f"items.{suffix}")
    sources = [(tmp_path / f"interactions.{s}", tmp_path / f"items.{s}") for s in ("csv", "parquet")]
    sources += [
        (rows, items),
        (rows.lazy(), items.lazy()),
        (rows.to_pandas(), items.to_pandas()),
        (rows.to_arrow(), items.to_arrow()),
    ]  # type: ignore[list-item]
    datasets = [Dataset.read(*source) for source in sources]
    assert len({data.hash for data in datasets}) == 1
    assert datasets[0].name == tmp_path.name


def test_columns_can_be_named() -> None:
    frame = pl.DataFrame({"buyer": ["a"], "thing": ["A"], "when": ["2024-01-01"], "user": ["no"]})
    items = pl.DataFrame({"thing": ["A"], "item_id": ["no"], "code": ["A"]})
    data = Dataset.read(frame, items, user="buyer", item="thing", timestamp="when", name="mine")
    assert external(data) == {"a": ["A"]}
    assert data.text.columns == ["item_id", "code"]  # the column named as in the interactions is the id
    assert data.name == "mine"
    named = Dataset.read(frame, items, user="buyer", item="thing", timestamp="when", item_id="code")
    assert named.text.columns == ["thing", "item_id"]
    with pytest.raises(DataError, match="must be different columns"):
        Dataset.read(frame, user="buyer", item="buyer", timestamp="when")


@pytest.mark.parametrize(
    ("bought", "listed"), [([1, 2], ["1", "2"]), (["1", "2"], [1, 2]), ([1, 2], [1.0, 2.0]), ([1.0, 2.0], ["1", "2"])]
)
def test_numbers_and_text_are_joined_when_no_id_changes(bought: list[object], listed: list[object]) -> None:
    frame = pl.DataFrame({"user": ["a", "a"], "item": bought})
    data = Dataset.read(frame, pl.DataFrame({"id": listed, "title": ["one", "two"]}))
    assert data.text["title"].to_list() == ["one", "two"]
    mixed = isinstance(bought[0], str) != isinstance(listed[0], str)
    assert any("item ids are" in note for note in data.notes) == mixed
    assert data.items.contains([1, "2"]).all()


def test_numbers_and_text_that_do_not_fit_are_refused_with_an_example_of_each() -> None:
    numbers = pl.DataFrame({"user": ["a"], "item": [123]})
    padded = pl.DataFrame({"id": ["00123"], "title": ["x"]})
    with pytest.raises(
        DataError, match=r"item ids are text in the items \(such as '00123'\) and numbers .*\(such as 123\)"
    ):
        Dataset.read(numbers, padded)
    texts = pl.DataFrame({"user": ["a"], "item": ["00123"]})
    with pytest.raises(DataError, match=r"\(such as 123\) and text .*'00123'\), and no id is in both"):
        Dataset.read(texts, pl.DataFrame({"id": [123], "title": ["x"]}))
    with pytest.raises(DataError, match="no id is in both; check that item_id names the right column"):
        Dataset.read(texts, pl.DataFrame({"id": ["q"], "title": ["x"]}))


def test_csv_files_keep_leading_zeros_of_ids(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("user,item,time\n01,007,2\n1,7,1\n")
    assert external(Dataset.read(tmp_path / "i.csv")) == {"01": ["007"], "1": ["7"]}


def test_leave_one_out_needs_somebody_with_three_interactions() -> None:
    data = Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("b", "A", 3)]))
    with pytest.raises(DataError, match=r"none of the 2 users has 3 interactions \(the longest history has 2\)"):
        data.leave_one_out()
    more = Dataset.read(table([("a", "A", 1), ("a", "B", 2), ("a", "C", 5), ("b", "A", 3)]))
    split = more.leave_one_out()
    assert split.items == 3
    assert split.test.tolist() == [0, 3, 0]
    assert split.train.of(2).tolist() == [1]


def test_description_counts_what_there_is() -> None:
    rows = [("a", "A", 1), ("a", "A", 2), ("a", "C", 5), ("b", "B", 3)]
    facts = Dataset.read(table(rows), ITEMS).describe()
    assert facts["users"] == 2 and facts["items"] == 3 and facts["interactions"] == 4
    assert facts["mean_history"] == 2.0 and facts["min_history"] == 1 and facts["max_history"] == 3
    assert facts["users_that_only_train"] == 1
    assert facts["share_repeats"] == 0.25
    assert facts["share_items_with_text"] == pytest.approx(2 / 3)
    assert Dataset.read(table(rows)).describe()["share_items_with_text"] == 0


def test_the_bundled_data_set_is_online_retail() -> None:
    data = Dataset.bundled()
    assert (len(data.users), len(data.items), data.interactions.height) == (4_334, 3_659, 266_221)
    assert data.name == "online_retail"
    assert data.text.columns == ["title", "price"] and data.text.null_count().sum_horizontal().item() == 0
    assert data.text["title"][int(data.items.internal(["85123A"])[0]) - 1] == "WHITE HANGING HEART T-LIGHT HOLDER"
    assert "264,789 of 266,221 interactions share user and time" in data.notes[0]
    lengths = data.histories().lengths[1:]
    assert (lengths.min(), np.median(lengths), lengths.max()) == (1, 35, 1785)
    with pytest.raises(DataError, match=r"no bundled data set 'online', .*bundled: online_retail"):
        Dataset.bundled("online")


def test_no_torch_is_imported_by_the_data_layer() -> None:
    script = "import sys, longtail.data.dataset, longtail.data.groups; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_missing_interactions_file_is_a_longtail_error(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match="does not exist"):
        Dataset.read(tmp_path / "nowhere.csv")
