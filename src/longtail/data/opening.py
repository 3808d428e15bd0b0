"""What a config calls its data, opened: tables, prepared folders, raw files, bundled data, data sets of the paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import NonNegativeInt

from longtail.config import Config
from longtail.data import recipes
from longtail.data.dataset import Dataset
from longtail.data.lines import OnBad, Reader
from longtail.data.sources.base import read_source, recognised, sources, split_spec
from longtail.data.tables import is_table
from longtail.errors import DataError
from longtail.terminal import reading

BUNDLED, RECIPE = "bundled:", "recipe:"


class DataConfig(Config):
    """Where the tables are and what is kept of them."""

    interactions: str
    """A table of interactions, a prepared folder or raw files, beside the config file; SOURCE:PATH for the raw files of
    a source, such as amazon2014:raw; bundled:NAME; or recipe:NAME for a data set of the paper."""
    items: str | None = None
    """A table of items with their texts; 'none' to read raw files without theirs."""
    raw: str | None = None
    """For recipe:NAME, the folder with its raw files."""
    keep: tuple[str, ...] = ()
    """Columns of the interactions to keep beside user, item and time; of raw files, 'rating' and 'text'."""
    bad_lines: OnBad = "error"
    """Whether a line of raw files that cannot be read is an error, or is skipped and counted in the notes."""
    user: str | None = None
    """Column of the user id; recognised by its usual names when not given, as the next three are."""
    item: str | None = None
    """Column of the item id."""
    timestamp: str | None = None
    """Column of the time."""
    item_id: str | None = None
    """Column of the item id in the table of items."""
    review: str | None = None
    """Column of the interactions with what users wrote, kept for text.reviews; of raw files, 'text'."""
    min_user: NonNegativeInt = 0
    """Interactions a user needs to be kept."""
    min_item: NonNegativeInt = 0
    """Interactions an item needs to be kept."""
    repeat: bool = True
    """Filter again until every user and item that is left has enough; false is a single pass."""


class Place(NamedTuple):
    """Where data is read from. source: of raw files, else None. guessed: whether it was recognised, not named."""

    path: Path
    source: str | None = None
    guessed: bool = False


def open_data(config: DataConfig) -> Dataset:
    """Read and filter the data a config names."""
    return filtered(read(config), config)


def filtered(data: Dataset, config: DataConfig) -> Dataset:
    """What a config keeps."""
    return data.filter(min_user=config.min_user, min_item=config.min_item, repeat=config.repeat)


def place(config: DataConfig) -> Place:
    """Where the interactions are; a DataError if a folder is neither prepared nor of a source that is known."""
    source, path = split_spec(config.interactions)
    at = Path(path)
    if source is not None or is_table(at) or (at / "dataset.json").exists():
        return Place(at, source)
    found = recognised(at)
    if len(found) > 1:
        raise DataError(f"{path} could be {' or '.join(found)}; say which, as in {found[0]}:{path}")
    if not found and at.is_dir():
        raise DataError(
            f"{path} is neither a folder that 'longtail prepare' wrote (it has no dataset.json) nor complete raw data "
            f"of a source that is known ({', '.join(sources.names())}); name a table, or the source as in "
            f"{sources.names()[0]}:{path}, to be told what is missing"
        )
    return Place(at, found[0] if found else None, guessed=bool(found))


def is_file(at: Place) -> bool:
    """Whether it is a table in a file, which can be read a part at a time."""
    return at.source is None and is_table(at.path)


def refuse_bad_lines(config: DataConfig) -> None:
    """A DataError if lines of a table are to be skipped."""
    if config.bad_lines != "error":
        raise DataError(f"{config.interactions} is a table, which is read whole or not at all; leave bad_lines out")


def read(config: DataConfig) -> Dataset:
    """The data a config names, not filtered yet."""
    columns = {"user": config.user, "item": config.item, "timestamp": config.timestamp, "item_id": config.item_id}
    if config.interactions.startswith(BUNDLED):
        return Dataset.bundled(config.interactions.removeprefix(BUNDLED))
    if config.interactions.startswith(RECIPE):
        return _follow(config, {"items": config.items, **columns})
    at = place(config)
    if at.source is None:
        refuse_bad_lines(config)
        return Dataset.read(at.path, config.items, **columns, keep=config.keep, review=config.review)
    _refuse(config.interactions, {**columns, "raw": config.raw})
    with _reader(config) as reader:
        data = read_source(
            at.source, at.path, items=config.items, keep=config.keep, review=config.review, reader=reader
        )
    if at.guessed:
        data = replace(data, notes=(f"{at.path} is recognised: read as {at.source}:{at.path}", *data.notes))
    return data


def _follow(config: DataConfig, given: dict[str, str | None]) -> Dataset:
    _refuse(config.interactions, given)
    name = config.interactions.removeprefix(RECIPE)
    recipe = recipes.read_recipe(name)
    if config.raw is None:
        raise DataError(
            f"{config.interactions} needs the folder with {recipe.interactions} and its companion: --from FOLDER "
            f"(data.raw in a config file); get them from {recipe.page}"
        )
    with _reader(config) as reader:
        return recipes.follow(name, Path(config.raw), reader, config.keep, config.review)


def _refuse(interactions: str, given: dict[str, str | None]) -> None:
    if names := sorted(name for name, value in given.items() if value is not None):
        raise DataError(f"{interactions} knows its own files and columns; leave {', '.join(names)} out")


@contextmanager
def _reader(config: DataConfig) -> Iterator[Reader]:
    with reading() as watch:
        yield Reader(config.bad_lines, watch)
