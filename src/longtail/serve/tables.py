"""What a bundle keeps of the item table: titles, and columns that requests can filter by."""

from __future__ import annotations

import numpy as np
import polars as pl

from longtail.serve.arrays import Array, Strings

SEPARATOR = ", "  # between the values of a cell that has several
LONG = 200  # characters that a column's values have in the mean at most, to be one


def titles(text: pl.DataFrame, column: str | None, ids: pl.Series) -> Strings:
    """What people call each item: its title, or its id."""
    named = ids.cast(pl.String)
    if column is None:
        return Strings.of(named)
    given = text[column].cast(pl.String).str.strip_chars()
    return Strings.of(pl.select(pl.when(given.str.len_chars() > 0).then(given).otherwise(named)).to_series())


def columns(text: pl.DataFrame, title: str | None) -> tuple[tuple[str, ...], dict[str, Array]]:
    """The names of the columns that items can be chosen by, and their values: short ones that recur."""
    names, arrays = list[str](), dict[str, Array]()
    for series in text:
        plain = _plain(series)
        if series.name == title or plain is None:
            continue
        values = plain.drop_nulls().unique().sort()
        lengths = values.str.len_chars().mean()
        if not len(values) or len(values) > max(len(text) // 2, 20) or float(lengths or 0) > LONG:  # type: ignore[arg-type]
            continue
        codes = plain.replace_strict(values, pl.int_range(1, len(values) + 1, eager=True), default=0)
        arrays |= Strings.of(values).arrays(f"column.{len(names)}")
        arrays[f"column.{len(names)}.codes"] = np.append(0, codes.fill_null(0).to_numpy()).astype(np.int32)
        names.append(series.name)
    return tuple(names), arrays


def _plain(series: pl.Series) -> pl.Series | None:
    """A column as text, lists with commas between; None for what is neither."""
    if isinstance(series.dtype, pl.List):
        inner = series.dtype.inner
        if isinstance(inner, (pl.List, pl.Struct)):
            return None
        return series.cast(pl.List(pl.String)).list.join(SEPARATOR, ignore_nulls=True)
    if series.dtype.is_nested() or series.dtype.is_float() or series.dtype == pl.Binary:
        return None
    return series.cast(pl.String, strict=False)
