"""Amazon reviews of 2014, 2018 and 2023, as J. McAuley's group publishes them: a file of reviews and one of products.

What counts the future is left out: sales ranks, average ratings, what was bought or viewed together, helpful votes.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from longtail.data.lines import Reader
from longtail.data.records import Record, identity, json_record, literal_record, number, phrases, plain, whole, words
from longtail.data.sources.base import Files, Seen, Source, beside, sources

PRICE = re.compile(r"\$?\s*\d[\d,]*(\.\d+)?(\s*-\s*\$?\s*\d[\d,]*(\.\d+)?)?")  # else it is a style sheet
SCRIPT = "getTime"  # in titles of 2018 that are scripts of the page, as its authors warn


class Product(NamedTuple):
    """What is known of a product."""

    item_id: str
    title: str | None
    brand: str | None
    price: str | None
    categories: list[str] | None
    features: list[str] | None
    description: list[str] | None


SCHEMA = {
    **dict.fromkeys(("item_id", "title", "brand", "price"), pl.String()),
    **dict.fromkeys(("categories", "features", "description"), pl.List(pl.String())),
}


class _Amazon(Source):
    """What the three have in common. time: the type of their times."""

    time: ClassVar[pl.DataType] = pl.Int64()

    def interactions(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        for rows in reader.rows(path, lambda line: self.review(json_record(line))):
            yield self.frame(rows, self.time)

    def items(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        for rows in reader.rows(path, self.product):
            yield pl.DataFrame(rows, schema=SCHEMA, orient="row")

    def review(self, record: Record) -> Seen:
        """The interaction of a review."""
        rating = number(record, "overall") if "rating" in self.keep else None
        text = words(record, "reviewText", "summary") if "text" in self.keep else None
        when = whole(record, "unixReviewTime")
        return Seen(identity(record, "reviewerID"), identity(record, "asin"), when, rating, text)

    @abstractmethod
    def product(self, line: str) -> Product:
        """What a line tells of a product."""


@sources.register("amazon2014")
class Amazon2014(_Amazon):
    """reviews_NAME.json.gz (or reviews_NAME_5.json.gz) and meta_NAME.json.gz, whose lines are Python literals."""

    page: ClassVar[str] = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        return beside(place, r"reviews_(.+?)(_5)?\.json", lambda found: (found[1], f"meta_{found[1]}.json"))

    def product(self, line: str) -> Product:
        """What a line tells of a product."""
        record = literal_record(line)
        cost = number(record, "price")
        return Product(
            identity(record, "asin"),
            words(record, "title"),
            words(record, "brand"),
            None if cost is None else f"{cost:.2f}",
            phrases(record, "categories"),
            None,
            phrases(record, "description"),
        )


@sources.register("amazon2018")
class Amazon2018(_Amazon):
    """NAME.json.gz (or NAME_5.json.gz) and meta_NAME.json.gz."""

    page: ClassVar[str] = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/"

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        return beside(place, r"(?!meta_|reviews_)(.+?)(_5)?\.json", lambda found: (found[1], f"meta_{found[1]}.json"))

    def product(self, line: str) -> Product:
        """What a line tells of a product; its fields may hold pieces of the page."""
        record = json_record(line)
        title, brand = words(record, "title"), words(record, "brand")
        cost = words(record, "price")
        named = record.get("category")
        clean = [one for one in named if isinstance(one, str) and "<" not in one] if isinstance(named, list) else named
        return Product(
            identity(record, "asin"),
            None if title is None or SCRIPT in title else title,
            None if brand is None else brand.removeprefix("by ").strip() or None,
            cost if cost is not None and PRICE.fullmatch(cost) else None,
            phrases({"category": clean}, "category"),
            phrases(record, "feature"),
            phrases(record, "description"),
        )


@sources.register("amazon2023")
class Amazon2023(_Amazon):
    """NAME.jsonl.gz and meta_NAME.jsonl.gz. An item is a parent_asin: variants of a product are one."""

    page: ClassVar[str] = "https://amazon-reviews-2023.github.io/"
    time: ClassVar[pl.DataType] = pl.Datetime("ms")

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        return beside(place, r"(?!meta_)(.+)\.jsonl", lambda found: (found[1], f"meta_{found[1]}.jsonl"))

    def review(self, record: Record) -> Seen:
        """The interaction of a review."""
        rating = number(record, "rating") if "rating" in self.keep else None
        text = words(record, "text", "title") if "text" in self.keep else None
        when = whole(record, "timestamp")
        return Seen(identity(record, "user_id"), identity(record, "parent_asin", "asin"), when, rating, text)

    def product(self, line: str) -> Product:
        """What a line tells of a product."""
        record = json_record(line)
        cost = record.get("price")
        shown = f"{cost:.2f}" if isinstance(cost, float) else plain(str(cost)) if cost is not None else ""
        return Product(
            identity(record, "parent_asin"),
            words(record, "title"),
            words(record, "store"),
            shown if PRICE.fullmatch(shown) else None,
            phrases(record, "categories") or phrases(record, "main_category"),
            phrases(record, "features"),
            phrases(record, "description"),
        )
