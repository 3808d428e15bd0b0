"""Configuration: frozen models that refuse unknown keys; defaults < TOML file < `--set key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from longtail.errors import ConfigError
from longtail.registry import nearest

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every stage's configuration; each subclass stands above the class it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def read_toml(path: Path) -> dict[str, Value]:
    """The tables of a TOML file; a ConfigError names the file and the line that does not parse."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file {str(path)!r}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path} as a config file ({error.strerror}); name a TOML file") from None


def override(values: Mapping[str, Value], settings: Iterable[str]) -> dict[str, Value]:
    """`values` with `key.sub=value` settings laid over; a value is read as TOML, else as plain text.

    >>> override({"train": {"lr": 0.001}}, ["train.lr=5e-4", "method.name=plain"])
    {'train': {'lr': 0.0005}, 'method': {'name': 'plain'}}
    """
    merged: dict[str, Value] = dict(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"setting {setting!r} is not of the form key=value, e.g. train.lr=5e-4")
        merged = merge(merged, nested(key.strip().split("."), _parse(text.strip())))
    return merged


def merge(values: Mapping[str, Value], over: Mapping[str, Value]) -> dict[str, Value]:
    """`over` laid upon `values`, table by table."""
    merged: dict[str, Value] = dict(values)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def build(model: type[C], values: Mapping[str, Value], where: str = "") -> C:
    """Validate `values` as `model`; the ConfigError names each bad key, its value and the nearest valid name."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = [
            _explain(model, detail["loc"], detail["type"], detail["msg"], detail["input"]) for detail in error.errors()
        ]
        prefix = f"{where}: " if where else ""
        raise ConfigError(prefix + "; ".join(problems)) from None


def _explain(model: type[BaseModel], loc: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    key = ".".join(str(part) for part in loc)
    if not loc and kind == "value_error":  # a table's own check, which names fields and values itself
        return message.removeprefix("Value error, ")
    if kind != "extra_forbidden":
        return f"{key} = {value!r}: {message[:1].lower()}{message[1:]}"
    fields: Iterable[str] = model.model_fields
    for part in loc[:-1]:  # walk down to the table that holds the unknown key
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        for table in (annotation, *get_args(annotation)):  # the table itself, or one that may be missing
            if isinstance(table, type) and issubclass(table, BaseModel):
                model, fields = table, table.model_fields
    return f"unknown key {key!r}{nearest(str(loc[-1]), fields)}; valid here: {', '.join(fields)}"


def flat(values: Mapping[str, Value], before: str = "") -> dict[str, Value]:
    """Nested settings by their dotted names.

    >>> flat({"seed": 1, "train": {"lr": 0.1, "ks": [5]}})
    {'seed': 1, 'train.lr': 0.1, 'train.ks': [5]}
    """
    found: dict[str, Value] = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def nested(path: list[str], value: Value) -> dict[str, Value]:
    """A value in tables of tables: `nested(["train", "lr"], 1e-3)` is {"train": {"lr": 1e-3}}."""
    return {path[0]: value if len(path) == 1 else nested(path[1:], value)}


def _parse(text: str) -> Value:
    try:
        return tomllib.loads(f"value = {text}")["value"]  # type: ignore[no-any-return]
    except tomllib.TOMLDecodeError:
        return text
