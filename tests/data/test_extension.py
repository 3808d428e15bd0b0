"""Joining what came later to a data set."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from longtail.data.dataset import Dataset
from longtail.data.extension import Columns, extend
from longtail.errors import DataError

OLD = pl.DataFrame(
    {"user_id": ["b", "b", "d", "d"], "item_id": ["x", "z", "z", "x"], "timestamp": [1, 3, 2, 4]},
)
NEW = pl.DataFrame({"user_id": ["d", "a", "b"], "item_id": ["y", "x", "w"], "timestamp": [9, 5, 3]})
TITLES = pl.DataFrame({"item_id": ["x", "z"], "title": ["the x", "the z"], "year": [1, 2]})
MORE = pl.DataFrame({"item_id": ["w", "q", "x"], "title": ["the w", "the q", "another x"], "year": ["3", "4", "5"]})


@pytest.fixture
def old() -> Dataset:
    return Dataset.read(OLD, TITLES, name="old")


def test_the_union_is_what_reading_both_at_once_gives(old: Dataset) -> None:
    joined = extend(old, NEW, MORE.filter(pl.col("item_id") == "w"))
    table = pl.DataFrame({"item_id": ["w", "x", "z"], "title": ["the w", "the x", "the z"], "year": [3, 1, 2]})
    assert joined.data.hash == Dataset.read(pl.concat([OLD, NEW]), table).hash
    assert joined.data.users.ids.to_list() == ["a", "b", "d"] and joined.users.tolist() == [0, 2, 3]
    assert joined.data.items.ids.to_list() == ["w", "x", "y", "z"] and joined.items.tolist() == [0, 2, 4]
    external = joined.data.items.external(joined.data.interactions["item"].to_numpy()[joined.fresh])
    assert external.to_list() == ["x", "w", "y"]  # of a, b, d
    assert any("'y'" in note for note in joined.data.notes)  # it has no text


def test_listed_items_join_untouched_and_known_texts_stay(old: Dataset) -> None:
    data = extend(old, NEW, MORE).data
    titles = dict(zip(data.items.ids, data.text["title"], strict=True))
    assert titles == {"q": "the q", "w": "the w", "x": "the x", "y": None, "z": "the z"}
    assert data.text["year"].dtype == pl.Int64 and not (data.interactions["item"] == 1).any()


def test_without_times_the_rows_come_last_in_their_order(old: Dataset) -> None:
    rows = pl.DataFrame({"user_id": ["b", "b"], "item_id": ["y", "x"]})
    joined = extend(old, rows)
    history = joined.data.items.external(joined.data.histories().of(1)).to_list()
    assert history == ["x", "z", "y", "x"] and joined.fresh.tolist() == [False, False, True, True, False, False]


def test_number_ids_are_found_again_as_text_and_the_other_way_they_are_refused() -> None:
    table = OLD.with_columns(item_id=pl.Series([7, 8, 8, 7]))
    numbered = Dataset.read(table)
    assert len(extend(numbered, NEW.with_columns(item_id=pl.Series(["7", "8", "10"]))).data.items) == 3
    with pytest.raises(DataError, match=r"'y'.* are no numbers"):
        extend(numbered, NEW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": [9, 5, 2]}, "1 of 3 .* older .* 'b': 2 before 3"),
        ({"user_id": ["d", "a", "b"], "item_id": ["y", "x", "z"]}, "1 of 3 .* already .*'b', item 'z'"),
    ],
)
def test_what_is_no_addition_is_refused(old: Dataset, change: dict[str, list[str | int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        extend(old, NEW.with_columns(pl.Series(name, values) for name, values in change.items()))


def test_nothing_new_and_unknown_columns_are_refused(old: Dataset) -> None:
    with pytest.raises(DataError, match=r"4 of 4 .* nothing is new"):
        extend(old, OLD)
    with pytest.raises(DataError, match="no rows"):
        extend(old, NEW.clear())
    with pytest.raises(DataError, match="'titel', did you mean 'title'"):
        extend(old, NEW, MORE.rename({"title": "titel"}))
    with pytest.raises(DataError, match="'old' is no Int64"):
        extend(old, NEW, MORE.with_columns(year=pl.Series(["old", "2", "3"])))
    with pytest.raises(DataError, match="no column 'who'"):
        extend(old, NEW, columns=Columns(user="who"))


def test_old_rows_are_found_where_the_map_says(old: Dataset) -> None:
    joined = extend(old, NEW, MORE)
    assert (joined.data.items.ids.gather(joined.items[1:] - 1) == old.items.ids).all()
    assert np.count_nonzero(joined.fresh) == 3
