"""Named cases of one TOML file: tables of settings laid over each other, written out one by one or as a grid."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import NamedTuple

from longtail.config import Value, merge, nested, read_toml
from longtail.data.opening import BUNDLED, RECIPE
from longtail.data.sources.base import NO_ITEMS, split_spec
from longtail.errors import ConfigError, some

FILE = "file:"
TEMPLATE_KEYS = ("item_template", "user_template")
AXES = ("datasets", "backbones", "methods")  # laid over the rest in this order, then a setting, then the sweep
UNSAFE = re.compile(r"[/\\:*?\"<>|\[\]\x00-\x1f]|^[-.~ ]|[. ]$")  # not in the name of a folder, nor of a pattern


class Cases(NamedTuple):
    """An experiment: named variations of one config, each with every seed; and the ranges of a search."""

    base: dict[str, Value]
    cases: dict[str, dict[str, Value]]
    seeds: list[int]
    search: dict[str, Value]


class Layer(NamedTuple):
    """Settings to lay over those of the cases whose names match one of the patterns `only`, or of all without it."""

    name: str
    values: dict[str, Value]
    only: list[str] | None = None

    def meant_for(self, case: str) -> bool:
        """Whether it is laid over that case."""
        return self.only is None or any(fnmatchcase(case, pattern) for pattern in self.only)


def read_cases(path: Path) -> Cases:
    """A config file's settings, its cases and those of its grid, its `seeds` and `[search]`, whichever it has."""
    base = read_toml(path)
    seeds, search = base.pop("seeds", []), base.pop("search", {})
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"{path}: seeds = {seeds!r} is not a list of whole numbers, e.g. [42, 43, 44]")
    if not isinstance(search, dict):
        raise ConfigError(f"{path}: search = {search!r} is not a table, [search], of ranges")
    cases: dict[str, dict[str, Value]] = {}
    folders: set[str] = set()
    written = [Layer(name, table) for name, table in _tables(path, base, "cases").items()]
    for name, values, _ in [*written, *_grid(path, base)]:
        if not name or UNSAFE.search(name):
            raise ConfigError(f"{path}: {name!r} is to name a folder; use letters, digits, '.', '_', '=' and '-'")
        if name.casefold() in folders:
            raise ConfigError(f"{path}: two cases are named {name!r}; rename a table that they come from")
        folders.add(name.casefold())
        cases[name] = beside(path.parent, values)
    return Cases(beside(path.parent, base), cases, [seed for seed in seeds if isinstance(seed, int)], search)


def _grid(path: Path, base: dict[str, Value]) -> list[Layer]:
    """The cases made of [datasets], [backbones], [methods], [settings], [sweep] and `exclude`, which `base` loses."""
    axes = [(axis, _layers(path, base, axis)) for axis in AXES]
    settings, (sweep, whole) = _layers(path, base, "settings"), _sweep(path, base)
    exclude = _patterns(path, "exclude", base.pop("exclude", []))
    made = [Layer("", {})]
    for axis, layers in axes:
        made = _laid(path, axis, made, layers) if layers else made
    made = made + _laid(path, "settings", made, settings)
    swept = _laid(path, "sweep", made, sweep)
    made = swept if whole else made + swept
    if [one.name for one in made] == [""]:
        return []  # no grid is described
    made = [one if one.name else one._replace(name="base") for one in made]
    for pattern in exclude:
        if not any(fnmatchcase(one.name, pattern) for one in made):
            raise ConfigError(f"{path}: exclude has {pattern!r}, which no case matches: {_names(made)}")
    return [one for one in made if not any(fnmatchcase(one.name, pattern) for pattern in exclude)]


def _laid(path: Path, kind: str, made: list[Layer], layers: list[Layer]) -> list[Layer]:
    """Each of the cases made so far with each layer that is meant for it."""
    for layer in layers:
        if not any(layer.meant_for(one.name) for one in made):
            raise ConfigError(f"{path}: only = {layer.only} of {kind} matches none of the cases so far: {_names(made)}")
    return [
        Layer("-".join(filter(None, (one.name, layer.name))), merge(one.values, layer.values))
        for one in made
        for layer in layers
        if layer.meant_for(one.name)
    ]


def _sweep(path: Path, base: dict[str, Value]) -> tuple[list[Layer], bool]:
    """A layer a point of [sweep], one key at a time, or all their combinations; and whether it is the latter."""
    sweep = base.pop("sweep", {})
    if not isinstance(sweep, dict):
        raise ConfigError(f"{path}: sweep = {sweep!r} is not a table, [sweep], of keys with lists of values")
    ranges = dict(sweep)
    whole, only = ranges.pop("product", False), ranges.pop("only", None)
    if not isinstance(whole, bool):
        raise ConfigError(f"{path}: sweep.product = {whole!r} is neither true nor false")
    points = []
    for key, values in ranges.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f'{path}: sweep has {key} = {values!r}; write "{key}" = [...] with the values to try')
        points.append([Layer(f"{key}={_text(value)}", nested(key.split("."), value)) for value in values])
    patterns = None if only is None else _patterns(path, "sweep.only", only)
    if not whole:
        return [point._replace(only=patterns) for key in points for point in key], False
    combined = []
    for combination in product(*points) if points else ():
        together: dict[str, Value] = {}
        for point in combination:
            together = merge(together, point.values)
        combined.append(Layer("-".join(point.name for point in combination), together, patterns))
    return combined, bool(points)


def _layers(path: Path, base: dict[str, Value], kind: str) -> list[Layer]:
    """The tables [kind.NAME] as layers, with their `only`."""
    made = []
    for name, table in _tables(path, base, kind).items():
        values = dict(table)
        only = values.pop("only", None)
        made.append(Layer(name, values, None if only is None else _patterns(path, f"{kind}.{name}.only", only)))
    return made


def _tables(path: Path, base: dict[str, Value], kind: str) -> dict[str, dict[str, Value]]:
    """The tables [kind.NAME], which `base` loses."""
    tables = base.pop(kind, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{path}: {kind} are tables, [{kind}.NAME], of settings to lay over the rest")
    return {name: as_table(table) for name, table in tables.items()}


def _patterns(path: Path, key: str, value: Value) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
        raise ConfigError(f'{path}: {key} = {value!r} is not a list of names or patterns, e.g. ["*-llmesr"]')
    return [str(pattern) for pattern in value]


def _names(made: list[Layer]) -> str:
    return some(one.name for one in made)


def _text(value: Value) -> str:
    """A value as part of a folder's name."""
    return UNSAFE.sub("_", value if isinstance(value, str) else json.dumps(value))


def as_table(value: Value) -> dict[str, Value]:
    """The value if it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def beside(folder: Path, values: dict[str, Value]) -> dict[str, Value]:
    """Settings with the relative paths in them, which start from `folder`, made to start from where we are."""

    def place(key: str, value: Value) -> Value:
        if not isinstance(value, str) or value.startswith((BUNDLED, RECIPE)) or (key, value) == ("items", NO_ITEMS):
            return value
        if key == "interactions":
            source, path = split_spec(value)
            return f"{source}:{folder / path}" if source else str(folder / path)
        if key in {"items", "raw", "candidates_file", "folder"}:
            return str(folder / value)
        if key in TEMPLATE_KEYS:
            return str(folder / value) if value.endswith(".toml") else value
        return f"{FILE}{folder / value.removeprefix(FILE)}" if value.startswith(FILE) else value

    moved = dict(values)
    for table, keys in (
        ("data", ("interactions", "items", "raw")),
        ("text", ("model", "user_model", *TEMPLATE_KEYS)),
        ("protocol", ("candidates_file",)),
    ):
        if table in moved:
            moved[table] = {k: place(k, v) if k in keys else v for k, v in as_table(moved[table]).items()}
    text = as_table(moved.get("text", {}))
    if isinstance(views := text.get("views"), list):
        kept = [{k: place(k, v) if k in {"model", "folder"} else v for k, v in as_table(one).items()} for one in views]
        moved["text"] = {**text, "views": [*kept]}
    return moved
