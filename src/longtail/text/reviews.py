"""What users wrote of an item, as one more column of its text: from interactions that train, and from no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
from pydantic import NonNegativeInt, PositiveInt

from longtail.config import Config
from longtail.data.dataset import Dataset
from longtail.data.split import Split
from longtail.errors import ConfigError, DataError
from longtail.text.prompts import columns_read

COLUMN = "review_texts"
BETWEEN = " | "  # a review may hold any other mark of a sentence's end


class ReviewsConfig(Config):
    """What of the users' own words the prompts of items quote."""

    k: NonNegativeInt = 0
    """Training reviews of each item that its prompt quotes; 0: none. They need data.review."""
    order: Literal["newest", "longest"] = "newest"
    """Which of an item's reviews come first."""
    chars: PositiveInt = 200
    """Longer reviews are cut to so many characters, between words."""


def with_reviews(data: Dataset, split: Split, config: ReviewsConfig, template: str = "generic") -> Dataset:
    """`data` with a column `review_texts` in its text: `config.k` distinct reviews of each item, null without any.

    Only interactions that `split` trains on are read: a review of a validation or test interaction tells that it took
    place. The data set is another one then, with a hash of its own, because its text belongs to one split. template:
    the prompt of items, a ConfigError if it would not read the column.
    """
    if not config.k:
        return data
    if COLUMN in data.text.columns:
        raise DataError(f"the item table has a column {COLUMN!r} of its own; rename it, or set text.reviews.k = 0")
    text = data.text.with_columns(review_texts(data, split, config))
    if COLUMN not in columns_read(text, template):
        raise ConfigError(f"template {template!r} has no field for text.reviews; add one with columns = [{COLUMN!r}]")
    return replace(data, text=text)


def review_texts(data: Dataset, split: Split, config: ReviewsConfig) -> pl.Series:
    """(I,) up to `config.k` training reviews of each item, cut, in one line; null without any.

    Reviews of an item that differ only in case are one, the first of them in the order asked for.
    """
    rows = _training(data, split)
    first = {"newest": ("timestamp", "place"), "longest": ("length", "timestamp", "place")}[config.order]
    length = rows["review"].str.len_chars().alias("length")
    rows = rows.with_columns(length, cut(rows["review"], config.chars).alias("cut")).sort(first, descending=True)
    rows = rows.unique(["item", pl.col("cut").str.to_lowercase()], keep="first", maintain_order=True)
    told = rows.group_by("item", maintain_order=True).agg(pl.col("cut").head(config.k).str.join(BETWEEN).alias(COLUMN))
    items = pl.DataFrame({"item": pl.arange(1, len(data.items) + 1, dtype=pl.UInt32, eager=True)})
    return items.join(told, on="item", how="left", maintain_order="left")[COLUMN]


def cut(texts: pl.Series, chars: int) -> pl.Series:
    """`texts` with no more than `chars` characters, cut between words, an ellipsis in place of what is gone.

    >>> cut(pl.Series(["good tea, would buy again", "unsplittable"]), 10).to_list()
    ['good tea,…', 'unsplitta…']
    """
    start = texts.str.slice(0, chars)  # the last one makes room for the ellipsis
    whole = start.str.extract(r"^(.*\S)\s", 1).str.slice(0, chars - 1).fill_null(start.str.slice(0, chars - 1))
    return (whole + "…").zip_with(texts.str.len_chars() > chars, texts)


def _training(data: Dataset, split: Split) -> pl.DataFrame:
    """item, timestamp, place, review of each training interaction that has a review."""
    if "review" not in data.interactions.columns:
        raise ConfigError(
            "text.reviews.k asks for reviews, but the interactions were read without any: name their column, "
            "data.review = '…' (of prepared tables: run 'longtail prepare' again with --review)"
        )
    trains = split.trains
    if trains is None or len(trains) != data.interactions.height:
        raise DataError(
            "this split does not tell which interactions of the data set train, so no review can be trusted; make it "
            "with Dataset.leave_one_out() or Dataset.split() of this very data set"
        )
    place = pl.Series("place", np.arange(len(trains)))
    rows = data.interactions.select("item", "timestamp", "review").with_columns(place).filter(pl.Series(trains))
    if not np.array_equal(rows["item"].to_numpy(), split.train.items):
        raise DataError("this split is of other interactions than the data set has; make it with data.split()")
    return rows.filter(pl.col("review").is_not_null())
