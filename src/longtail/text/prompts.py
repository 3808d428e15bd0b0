"""Prompts: what the text encoder reads of each item, and of each user's training history."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import reduce
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field as Setting
from pydantic import PositiveInt

from longtail.config import Config, build, read_toml
from longtail.data.histories import Histories
from longtail.data.leaks import counts_the_future
from longtail.errors import ConfigError, DataError, some
from longtail.registry import nearest

TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
OTHERS = "others"  # the placeholder for all columns that no field declares
SEPARATOR = "; "
logger = logging.getLogger(__name__)


class Field(Config):
    """One placeholder of a template, and where its text comes from."""

    columns: tuple[str, ...] = ()
    """Columns of the item table that may hold it; the first that is there is used. Case does not matter."""
    chars: PositiveInt = 2048
    """Longer values are cut to so many characters (docs/method.md, sec. 2); for `others`, each column's value is."""
    lead: str | None = None
    """Written before the value; a missing value then leaves nothing at all."""


class Template(Config):
    """A prompt with `{placeholders}`; its hash enters the provenance of every vector made with it."""

    name: str
    version: PositiveInt
    kind: Literal["item", "user"]
    """Whether it describes an item or a user's history."""
    text: str
    """The prompt. Of an item template, `{others}` stands for all undeclared columns."""
    missing: str = ""
    """What is written for a missing value."""
    fields: dict[str, Field] = Setting(min_length=1)

    @property
    def hash(self) -> str:
        """SHA-256 of all that shapes the prompt."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def read_template(name: str, kind: Literal["item", "user"]) -> Template:
    """A template that comes with the package, or a file of one's own if `name` ends in .toml."""
    template = open_template(name)
    if template.kind != kind:
        raise ConfigError(f"template {name!r} describes a {template.kind}, not a {kind}; choose another")
    if found := mistakes(template):
        raise ConfigError(f"template {name!r} {found[0]}")
    return template


def template_names() -> list[str]:
    """The templates that come with the package."""
    return sorted(path.stem for path in TEMPLATES.glob("*.toml"))


def open_template(name: str) -> Template:
    """A template as it stands, with whatever is wrong with it."""
    known = template_names()
    path = Path(name) if name.endswith(".toml") else TEMPLATES / f"{name}.toml"
    if not name.endswith(".toml") and name not in known:
        raise ConfigError(f"unknown template {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return build(Template, {"name": path.stem, **read_toml(path)}, where=f"template {name!r}")


def mistakes(template: Template) -> list[str]:
    """Why a template is refused, each to be read after its name."""
    found = []
    used = set(PLACEHOLDER.findall(template.text))
    if unknown := used - {OTHERS, *template.fields}:
        found.append(f"uses {some(sorted(unknown))} without a [fields.…] table for it")
    columns = [column for field in template.fields.values() for column in field.columns]
    if future := [column for column in columns if counts_the_future(column)]:
        found.append(f"reads {some(future)}, which counts the future; remove it")
    if empty := [name for name, field in template.fields.items() if name != OTHERS and not field.columns]:
        found.append(f"has no columns for {some(empty)}; name those of the item table that may hold it")
    if template.kind == "user" and (len(template.fields) > 1 or OTHERS in used):
        found.append(f"has {len(template.fields)} fields, or {{{OTHERS}}}; a user template has one field, the titles")
    return found


def item_prompts(text: pl.DataFrame, template: str = "generic") -> list[str]:
    """One prompt an item: row k of `text` is item k + 1. An item with no text in any field gives ''."""
    shape = read_template(template, "item")
    plain = _plain(text)
    if not plain.width:
        return [""] * text.height
    fields = {name: _field(plain, field) for name, field in shape.fields.items() if name != OTHERS}
    declared = {column.lower() for field in shape.fields.values() for column in field.columns}
    values = {name: _said(value, shape.fields[name], shape.missing) for name, value in fields.items()}
    present = list(fields.values())
    if f"{{{OTHERS}}}" in shape.text:
        others = [column for column in plain.columns if column.lower() not in declared]
        chars = shape.fields.get(OTHERS, Field()).chars
        named = [
            pl.lit(f"{SEPARATOR}{column.replace('_', ' ')}: ") + pl.col(column).str.slice(0, chars) for column in others
        ]
        present += named
        values[OTHERS] = pl.concat_str(named, ignore_nulls=True) if named else pl.lit("")
    whole = _fill(shape.text, values).str.strip_prefix(SEPARATOR)
    some_text = pl.any_horizontal([value.is_not_null() for value in present])
    return _column(plain, pl.when(some_text).then(whole).otherwise(pl.lit("")))


def columns_read(text: pl.DataFrame, template: str = "generic") -> list[str]:
    """The columns of an item table that its prompts are made of."""
    shape = read_template(template, "item")
    usable = {name: dtype for name, dtype in text.schema.items() if not counts_the_future(name)}
    by_name = {name.lower(): name for name in reversed(usable) if not _is_nested(usable[name])}
    declared = [[by_name[column] for column in field.columns if column in by_name] for field in shape.fields.values()]
    read = {columns[0] for columns in declared if columns}
    if f"{{{OTHERS}}}" in shape.text:
        known = {column for field in shape.fields.values() for column in field.columns}
        read |= {name for name in usable if not _is_nested(usable[name]) and name.lower() not in known}
    return [name for name in text.columns if name in read]


def user_prompts(
    train: Histories,
    text: pl.DataFrame,
    template: str = "user",
    last_chars: int = 8000,
    max_chars: int | None = None,
) -> list[str]:
    """One prompt a user, of the titles of the training history, oldest first; '' for users with no titled item.

    Row k is user k + 1. Of long histories the newest titles within `last_chars` characters are kept, or fewer
    where the whole prompt would pass `max_chars`: an encoder with a short window then reads the recent ones.
    """
    shape = read_template(template, "user")
    ((name, field),) = shape.fields.items()
    if max_chars is not None:
        last_chars = max(1, min(last_chars, max_chars - len(PLACEHOLDER.sub("", shape.text))))
    titles = pl.concat([pl.Series([""]), _titles(text, field)])  # row i is item i
    bought = pl.DataFrame({"user": train.owners(), "title": titles.gather(train.items)})
    bought = bought.filter(pl.col("title") != "").with_columns(pl.col("title").str.slice(0, last_chars))
    size = pl.col("title").str.len_chars().cast(pl.Int64) + len(SEPARATOR)
    to_the_end = size.cum_sum(reverse=True).over("user") - len(SEPARATOR)
    recent = bought.filter(to_the_end <= last_chars)
    lines = recent.group_by("user", maintain_order=True).agg(pl.col("title").str.join(SEPARATOR))
    users = pl.DataFrame({"user": pl.arange(1, train.users + 1, dtype=pl.Int64, eager=True)})
    prompts = users.join(lines, on="user", how="left", maintain_order="left")
    return _column(prompts, _fill(shape.text, {name: pl.col("title")}).fill_null(""))


def _titles(text: pl.DataFrame, field: Field) -> pl.Series:
    """(I,) the title of each item, '' where it has none."""
    plain = _plain(text)
    if not any(column.lower() in field.columns for column in plain.columns):
        raise DataError(
            f"no column {' or '.join(repr(column) for column in field.columns)} in the item table "
            f"(it has {some(text.columns)}); rename the column that holds the titles"
        )
    return plain.select(_field(plain, field).fill_null("").alias("title"))["title"]


def _field(plain: pl.DataFrame, field: Field) -> pl.Expr:
    """The first of a field's columns that the table has, cut; null where missing."""
    columns = {column.lower(): column for column in reversed(plain.columns)}
    for column in field.columns:
        if column.lower() in columns:
            return pl.col(columns[column.lower()]).str.slice(0, field.chars)
    return pl.lit(None, dtype=pl.String)


def _said(value: pl.Expr, field: Field, missing: str) -> pl.Expr:
    """What stands in the prompt for a value."""
    return value.fill_null(missing) if field.lead is None else (pl.lit(field.lead) + value).fill_null("")


def _plain(text: pl.DataFrame) -> pl.DataFrame:
    """Every usable column as trimmed text, null where there is none; says in the log which are left out."""
    future = [column for column in text.columns if counts_the_future(column)]
    if future:
        logger.warning("left out of the prompts, because they count the future: %s", some(future))
    kept = text.drop(future)
    nested = [column.name for column in kept if _is_nested(column.dtype)]
    if nested:
        logger.warning("left out of the prompts, because they are tables in themselves: %s", some(nested))
    return kept.drop(nested).select(_as_text(name, dtype) for name, dtype in kept.drop(nested).schema.items())


def _is_nested(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else dtype
    return isinstance(inner, (pl.List, pl.Array, pl.Struct, pl.Object)) or inner == pl.Binary


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(dtype, (pl.List, pl.Array)):
        column = column.list.eval(pl.element().cast(pl.String).drop_nulls()).list.join(", ")
    elif dtype.is_float():
        column = column.fill_nan(None).cast(pl.String)
    else:
        column = column.cast(pl.String)
    trimmed = column.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(trimmed != "").then(trimmed).alias(name)


def _fill(text: str, values: dict[str, pl.Expr]) -> pl.Expr:
    """`text` with its placeholders filled; null where one of them is. Braces in a value stay what they are."""
    parts = PLACEHOLDER.split(text)  # literal, placeholder, literal, …
    pieces = [values[part] if place % 2 else pl.lit(part) for place, part in enumerate(parts)]
    return reduce(lambda left, right: left + right, pieces)


def _column(frame: pl.DataFrame, expression: pl.Expr) -> list[str]:
    """The strings of `expression`, one a row, also where it is the same constant for all of them."""
    strings: list[str] = frame.with_columns(expression.alias("prompt"))["prompt"].to_list()
    return strings
