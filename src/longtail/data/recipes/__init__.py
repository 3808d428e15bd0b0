"""The paper's data sets: what to get, how it is filtered, and what must come out; a TOML file each."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from longtail.config import Config, build, read_toml
from longtail.data.dataset import Dataset
from longtail.data.lines import Reader
from longtail.data.sources.base import read_source
from longtail.errors import ConfigError, DataError
from longtail.registry import nearest

HERE = Path(__file__).parent
logger = logging.getLogger(__name__)


class Expected(Config):
    """What is published of the data set."""

    users: PositiveInt
    """Users."""
    items: PositiveInt
    """Items."""
    interactions: PositiveInt | None = None
    """Interactions, where it is known."""


class Recipe(Config):
    """How raw files become a data set of the paper."""

    source: str
    """The source that reads the files."""
    interactions: str
    """The file of interactions, as it is named where it comes from."""
    page: str
    """Where the files come from."""
    min_user: NonNegativeInt
    """Interactions a user needs, and an item below, both counted before anything is dropped."""
    min_item: NonNegativeInt
    """Interactions an item needs."""
    then_min_user: NonNegativeInt = 0
    """Interactions a user needs afterwards."""
    expected: Expected
    """What is published of it."""
    known: str
    """What is known of how the authors made it."""


def names() -> list[str]:
    """The recipes, sorted."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """One recipe; a ConfigError lists those there are."""
    if name not in names():
        raise ConfigError(f"no recipe {name!r}{nearest(name, names())}; recipes: {', '.join(names())}")
    path = HERE / f"{name}.toml"
    return build(Recipe, read_toml(path), str(path))


def follow(
    name: str, folder: Path, reader: Reader | None = None, keep: tuple[str, ...] = (), review: str | None = None
) -> Dataset:
    """The data set of a recipe from raw files in `folder`; its last note compares what came out with what is published.

    Where they differ, a warning says so. A DataError names a file that is missing, and where to get it.
    """
    recipe = read_recipe(name)
    stem = recipe.interactions.removesuffix(".gz")
    place = next((one for end in ("", ".gz", ".zst") if (one := folder / f"{stem}{end}").is_file()), None)
    if place is None:
        raise DataError(
            f"recipe {name} needs {folder / recipe.interactions}, which is not there: get it from {recipe.page}"
        )
    data = read_source(recipe.source, place, reader=reader, keep=keep, review=review)
    data = data.filter(min_user=recipe.min_user, min_item=recipe.min_item, repeat=False)
    data = data.filter(min_user=recipe.then_min_user, repeat=False)
    found = _counts(data)
    wanted = {key: value for key, value in recipe.expected.model_dump().items() if value is not None}
    told = [
        f"{found[key]:,} {key} ({'as' if found[key] == value else f'{value:,} are'} published)"
        for key, value in wanted.items()
    ]
    if any(found[key] != value for key, value in wanted.items()):
        logger.warning(
            "recipe %s did not give the data set of the paper: %s. Check that the raw files are those of %s, whole and "
            "unfiltered. %s", name, ", ".join(told), recipe.page, recipe.known,
        )  # fmt: skip
    return replace(data, name=name, notes=(*data.notes, f"recipe {name}: {', '.join(told)}"))


def _counts(data: Dataset) -> dict[str, int]:
    return {"users": len(data.users), "items": len(data.items), "interactions": data.interactions.height}
