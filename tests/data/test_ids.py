"""External ids to internal ids and back."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.ids import IdMap, cast_ids, encode
from longtail.errors import DataError

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=20)
NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


def column(values: list[str] | list[int]) -> pl.Series:
    return pl.Series(values, dtype=pl.String if isinstance(values[0], str) else pl.Int64)


@given(st.one_of(TEXTS, NUMBERS))
def test_encoding_agrees_with_a_plain_dictionary(values: list[str] | list[int]) -> None:
    ids, codes = encode(column(values), "item")
    order = sorted(set(values), key=lambda value: value.encode() if isinstance(value, str) else value)  # type: ignore
    numbers = {value: k + 1 for k, value in enumerate(order)}
    assert ids.ids.to_list() == order
    assert codes.to_list() == [numbers[value] for value in values]


@given(st.one_of(TEXTS, NUMBERS), st.randoms())
def test_external_and_internal_are_inverse_in_any_order_of_ids(values: list[str] | list[int], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(dict.fromkeys(values))
    random.shuffle(shuffled)
    ids = IdMap(column(shuffled), "item")
    internal = ids.internal(values)
    assert ids.external(internal).to_list() == values
    assert internal.tolist() == [shuffled.index(value) + 1 for value in values]  # type: ignore[arg-type]
    assert ids.contains(values).all()


@given(st.lists(st.integers(-50, 50), min_size=1, unique=True), st.lists(st.integers(-50, 50)))
def test_numbers_and_their_digits_are_the_same_id(known: list[int], asked: list[int]) -> None:
    as_numbers = IdMap(pl.Series(known, dtype=pl.Int64))
    as_text = IdMap(pl.Series([str(k) for k in known], dtype=pl.String))
    expected = [known.index(k) + 1 if k in known else 0 for k in asked]
    mixed: list[str | int] = [str(k) if n % 2 else k for n, k in enumerate(asked)]
    for ids in (as_numbers, as_text):
        for form in (asked, [str(k) for k in asked], mixed, pl.Series(asked, dtype=pl.Int64), np.array(asked, int)):
            assert ids.find(form).tolist() == expected


def test_leading_zeros_make_another_id() -> None:
    assert IdMap(pl.Series([123])).find(["00123", "123", "+123", " 123"]).tolist() == [0, 1, 0, 0]
    assert cast_ids(pl.Series(["1", "01", None]), pl.Int64()).to_list() == [1, None, None]


def test_unknown_ids_are_named_with_known_ones_beside_them() -> None:
    ids = IdMap(pl.Series(["a", "b"]), "user")
    with pytest.raises(DataError, match=r"unknown user 'x', 'y'; the data set has 2 users, such as 'a', 'b'"):
        ids.internal(["x", "a", "y", "x"])
    with pytest.raises(DataError, match=r"unknown user 7"):
        ids.internal([7])


def test_a_single_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(DataError, match=r"\['ab'\]"):
        IdMap(pl.Series(["a", "b"]), "user").internal("ab")


def test_no_ids_give_no_ids() -> None:
    ids = IdMap(pl.Series(["a", "b"]))
    assert ids.internal([]).tolist() == []
    assert len(ids.external(np.array([], dtype=np.int64))) == 0


def test_padding_has_no_external_id() -> None:
    with pytest.raises(AssertionError):
        IdMap(pl.Series(["a"])).external(np.array([0]))
