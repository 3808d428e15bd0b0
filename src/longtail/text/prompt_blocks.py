"""Prompts in blocks: those of ten million rows are never held at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.histories import Histories
from longtail.text.cache import BLOCK
from longtail.text.prompts import columns_read, item_prompts, user_prompts


class Prompts:
    """The prompts of `rows` rows, made again each time they are gone through.

    make: the prompts of rows start to end, '' where there is none.
    has_text: (rows,) whether there is one, and `digest`, SHA-256 of all in order, both once all were gone through.
    """

    def __init__(self, rows: int, make: Callable[[int, int], list[str]]) -> None:
        self.rows, self._make = rows, make
        self.has_text: npt.NDArray[np.bool_] = np.zeros(rows, dtype=np.bool_)
        self.digest = ""

    def __iter__(self) -> Iterator[list[str | None]]:
        whole = hashlib.sha256()
        for start in range(0, self.rows, BLOCK):
            end = min(start + BLOCK, self.rows)
            block = self._make(start, end)
            self.has_text[start:end] = [bool(prompt) for prompt in block]
            for prompt in block:
                whole.update(f"{len(prompt)} {prompt}".encode("utf-8", "surrogatepass"))
            yield [prompt or None for prompt in block]
        self.digest = whole.hexdigest()


def prompts_of_items(text: pl.DataFrame, template: str) -> Prompts:
    """Of an item table; row k of it is row k of the prompts."""
    if text.height <= BLOCK:
        whole = item_prompts(text, template)
        return Prompts(text.height, lambda start, end: whole[start:end])
    item_prompts(text.head(1), template)  # its warnings, once
    read = columns_read(text, template)

    def make(start: int, end: int) -> list[str]:
        return item_prompts(text.select(read).slice(start, end - start), template) if read else [""] * (end - start)

    return Prompts(text.height, make)


def prompts_of_users(train: Histories, items_text: pl.DataFrame, template: str, max_chars: int | None) -> Prompts:
    """Of training histories; row k is user k + 1."""
    if train.users <= BLOCK:
        whole = user_prompts(train, items_text, template, max_chars=max_chars)
        return Prompts(train.users, lambda start, end: whole[start:end])

    def make(start: int, end: int) -> list[str]:
        return user_prompts(train.select(np.arange(start + 1, end + 1)), items_text, template, max_chars=max_chars)

    return Prompts(train.users, make)
