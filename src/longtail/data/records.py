"""Records of raw files: a line of JSON or a Python literal to fields of the types that they must have."""

from __future__ import annotations

import ast
import html
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeAlias

from longtail.data.lines import LineError

Record: TypeAlias = Mapping[str, object]
LITERAL = 1 << 20  # characters of a Python literal; its syntax tree takes some hundred times as much memory
MARKUP = re.compile(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->|</?[a-z][^<>]*>")


def json_record(line: str) -> Record:
    """The object that a line of JSON holds; a LineError tells why there is none."""
    try:
        found: object = json.loads(line)
    except RecursionError:
        raise LineError("its brackets are nested too deeply") from None
    except ValueError as error:
        raise LineError(f"no JSON ({error})") from None
    return _record(found)


def literal_record(line: str) -> Record:
    """The dict that a line writes as Python does, or as JSON does. Nothing of it is run: names and calls are refused.

    A LineError tells why there is none.
    """
    if line.startswith('{"'):
        return json_record(line)
    if len(line) > LITERAL:
        raise LineError(f"{len(line):,} characters are too many for a Python literal")
    try:
        found: object = ast.literal_eval(line)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        reason = str(error).partition(": <")[0] or "too much in it"
        raise LineError(f"no Python literal ({reason}); nothing of it was run") from None
    return _record(found)


def _record(found: object) -> Record:
    if not isinstance(found, dict):
        raise LineError(f"a {type(found).__name__}, not an object with fields")
    return found


def identity(record: Record, *names: str) -> str:
    """The id in the first of these fields that has one."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    raise LineError(f"no id in {' or '.join(map(repr, names))} ({record.get(names[0])!r})")


def whole(record: Record, name: str) -> int:
    """A whole number."""
    value = record.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise LineError(f"{name!r} is {value!r}, not a whole number")
    return value


def number(record: Record, name: str) -> float | None:
    """A number, None where the field is missing."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise LineError(f"{name!r} is {value!r}, not a number")
    return float(value)


def moment(record: Record, name: str) -> int:
    """Seconds since 1970, UTC, of a date as ISO writes it, with or without a time of day."""
    value = record.get(name)
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        raise LineError(f"{name!r} is {value!r}, not a date such as 2019-05-31 13:45:00")
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def words(record: Record, *names: str) -> str | None:
    """The first of these fields that holds text, without markup; None if none does."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and (found := plain(value)):
            return found
    return None


def phrases(record: Record, name: str) -> list[str] | None:
    """The texts in a field, which may be one text, a list of them, or a list of lists; each once, without markup."""
    found = dict.fromkeys(text for value in _flat(record.get(name)) if (text := plain(value)))
    return list(found) or None


def _flat(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for one in value for text in _flat(one)] if isinstance(value, (list, tuple)) else []


def plain(text: str) -> str:
    """Text without tags, with the characters that entities stand for, and single spaces.

    >>> plain("Soap &amp; <b>Water</b>")
    'Soap & Water'
    """
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = MARKUP.sub(" ", text)
    return " ".join(text.split())
