"""External ids (a shop's own, text or numbers) to internal ids 1..n and back; 0 is padding and has no external id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.histories import IntArray
from longtail.errors import DataError, some

Externals: TypeAlias = "Sequence[str | int] | pl.Series | npt.NDArray[np.generic]"


@dataclass(frozen=True, eq=False)
class IdMap:
    """`ids[k]` is the external id of internal id `k + 1`.

    ids: (n,) String or Int64, unique, no nulls. noun: 'user' or 'item', for messages.
    """

    ids: pl.Series
    noun: str = "id"

    def __post_init__(self) -> None:
        assert self.ids.dtype in {pl.String, pl.Int64}, self.ids.dtype
        assert self.ids.null_count() == 0 and self.ids.n_unique() == len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def external(self, internal: IntArray) -> pl.Series:
        """The external ids of `internal` (any of 1..n), in their order."""
        assert len(internal) == 0 or (np.min(internal) > 0 and np.max(internal) <= len(self))
        return self.ids.gather(pl.Series(np.asarray(internal, dtype=np.int64) - 1))

    def find(self, externals: Externals) -> IntArray:
        """The internal ids of `externals`, 0 where unknown. 123 and '123' are the same id."""
        column = self._column(externals)
        if not len(self) or not len(column):
            return np.zeros(len(column), dtype=np.int64)
        ordered, places = self._index
        at = ordered.search_sorted(column).clip(upper_bound=len(self) - 1)
        known = (ordered.gather(at) == column).fill_null(False).to_numpy()
        return np.where(known, places[at.to_numpy()], 0)

    def internal(self, externals: Externals) -> IntArray:
        """The internal ids of `externals`; a DataError names the unknown ones."""
        found = self.find(externals)
        if not found.all():
            column = externals if isinstance(externals, pl.Series) else pl.Series(list(externals), strict=False)
            unknown = column.filter(pl.Series(found == 0)).unique(maintain_order=True).to_list()
            raise DataError(
                f"unknown {self.noun} {some(unknown)}; the data set has {len(self):,} {self.noun}s, "
                f"such as {some(self.ids.head(3))}: check the spelling, or leave the unknown ones out"
            )
        return found

    def contains(self, externals: Externals) -> npt.NDArray[np.bool_]:
        """Which of `externals` are known."""
        return self.find(externals) > 0

    @cached_property
    def _index(self) -> tuple[pl.Series, IntArray]:
        """The ids in ascending order, and the internal id of each: a binary search needs no table of hashes."""
        if self.ids.is_sorted():
            return self.ids, np.arange(1, len(self) + 1)
        order = self.ids.arg_sort()
        return self.ids.gather(order), order.to_numpy().astype(np.int64) + 1

    def _column(self, externals: Externals) -> pl.Series:
        if isinstance(externals, (str, int)):
            raise DataError(f"{self.noun} ids come as a list: [{externals!r}], not {externals!r}")
        if isinstance(externals, (pl.Series, np.ndarray)):
            column = pl.Series(externals)
        elif all(isinstance(external, str) for external in externals):
            column = pl.Series(externals, dtype=pl.String)
        else:
            column = pl.Series([str(external) for external in externals], dtype=pl.String)
        return cast_ids(column, self.ids.dtype)


def cast_ids(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """`column` as ids of `dtype` (String or Int64); null where the value would change.

    >>> cast_ids(pl.Series(["12", "012", "x"]), pl.Int64()).to_list()
    [12, None, None]
    """
    if column.dtype.is_float():  # 12.0 is the id 12; 12.5 is none
        column = column.set(column != column.floor(), None).cast(pl.Int64, strict=False)
    cast = column.cast(dtype, strict=False)
    if column.dtype != pl.String or dtype == pl.String:
        return cast
    return cast.set((cast.cast(pl.String) != column).fill_null(True), None)


def encode(column: pl.Series, noun: str) -> tuple[IdMap, pl.Series]:
    """A column of external ids as an IdMap in ascending order and the (n,) UInt32 internal ids.

    Ascending order, because then the internal ids do not depend on the order of the rows.
    """
    ids = column.unique().sort().rename("id")
    known = pl.DataFrame({"id": ids, "internal": pl.arange(1, len(ids) + 1, dtype=pl.UInt32, eager=True)})
    codes = column.rename("id").to_frame().join(known, on="id", how="left", maintain_order="left")
    return IdMap(ids, noun), codes["internal"]
