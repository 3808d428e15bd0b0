"""The Yelp Open Dataset, in today's files, in those of the RecSys Challenge of 2013, and in one file of all records.

Stars and review counts of a business count the future, and whether it is still open knows it: they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import polars as pl

from longtail.data.lines import Reader
from longtail.data.records import Record, identity, json_record, moment, number, phrases, words
from longtail.data.sources.base import Files, Seen, Source, beside, sources

REVIEWS = r"((?:yelp_academic_dataset_|yelp_training_set_)?)review\.json"
MIXED = r"(yelp_academic_dataset|all)\.json"


class Business(NamedTuple):
    """What is known of a business."""

    item_id: str
    title: str | None
    categories: list[str] | None
    city: str | None
    state: str | None
    neighborhoods: list[str] | None


SCHEMA = {
    **dict.fromkeys(("item_id", "title", "city", "state"), pl.String()),
    **dict.fromkeys(("categories", "neighborhoods"), pl.List(pl.String())),
}


@sources.register("yelp")
class Yelp(Source):
    """yelp_academic_dataset_review.json and yelp_academic_dataset_business.json, the same with yelp_training_set_ or
    without a prefix, or all records in one yelp_academic_dataset.json.
    """

    page: ClassVar[str] = "https://business.yelp.com/data/resources/open-dataset/"

    @classmethod
    def find(cls, place: Path) -> list[Files]:
        """See Source."""
        found = beside(place, REVIEWS, lambda found: ("yelp", f"{found[1]}business.json"))
        return found or beside(place, MIXED, lambda found: ("yelp", f"{found[1]}.json"))

    def interactions(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        for rows in reader.rows(path, self._review):
            yield self.frame(rows)

    def items(self, path: Path, reader: Reader) -> Iterator[pl.DataFrame]:
        """See Source."""
        for rows in reader.rows(path, _business):
            yield pl.DataFrame(rows, schema={name: SCHEMA[name] for name in Business._fields}, orient="row")

    def _review(self, line: str) -> Seen | None:
        record = json_record(line)
        if not _is(record, "review"):
            return None
        rating = number(record, "stars") if "rating" in self.keep else None
        text = words(record, "text") if "text" in self.keep else None
        return Seen(identity(record, "user_id"), identity(record, "business_id"), moment(record, "date"), rating, text)


def _is(record: Record, kind: str) -> bool:
    """Whether a record is of that kind; today's files have one kind each and do not say it."""
    return record.get("type", kind) == kind


def _business(line: str) -> Business | None:
    record = json_record(line)
    if not _is(record, "business"):
        return None
    named = record.get("categories")
    listed = named.split(",") if isinstance(named, str) else named  # a list before 2018
    return Business(
        identity(record, "business_id"),
        words(record, "name"),
        phrases({"categories": listed}, "categories"),
        words(record, "city"),
        words(record, "state"),
        phrases(record, "neighborhoods"),
    )
