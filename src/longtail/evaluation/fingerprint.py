"""What figures depend on besides the model, readable and as a short hash; only where that is equal they compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from longtail.data.groups import Groups, GroupsConfig
from longtail.data.split import Split
from longtail.errors import RunError
from longtail.evaluation.protocol import ProtocolConfig

Fact = str | int | float
Terms: TypeAlias = "Mapping[str, Fact]"


class Judged(Protocol):
    """Figures that know how they came to be, such as a Report."""

    @property
    def fingerprint(self) -> str:
        """The hash of the terms."""

    @property
    def terms(self) -> Terms:
        """The protocol, field by field."""


def terms_of(
    data: str,
    split: Split,
    name: str,
    config: ProtocolConfig,
    by: GroupsConfig,
    found: Groups,
    hashes: Mapping[str, str],
) -> dict[str, Fact]:
    """Field to value: data, split, seen items, repeats, candidates, cut-offs and groups. The seed of training is none.

    data: the hash of the data set. hashes: of the candidates of each kind. split.hash: of the targets and of how much
    each user trains with, which tells splits of one scheme apart.
    """
    held_out = hashlib.sha256()
    for part in (split.targets(name), split.train.lengths):
        held_out.update(part.astype("<i8").tobytes())
    by_default = {"counted"} if by.counted == "train" else set()  # figures of before there was a choice still compare
    table = by.model_dump(mode="json", exclude=by_default)
    groups = {f"groups.{key}": _plain(value) for key, value in table.items() if value is not None}
    return {
        "data": data[:12],
        "split.name": name,
        "split.scheme": split.scheme,
        "split.hash": held_out.hexdigest()[:12],
        "seen": config.seen,
        "repeats": config.repeats,
        "ks": _plain(sorted(config.ks)),
        **{f"candidates.{kind}": value for kind, value in hashes.items()},
        **groups,
        "groups.user_threshold": found.user_threshold,
        "groups.item_threshold": found.item_threshold,
    }


def fingerprint(terms: Terms) -> str:
    """Twelve hexadecimal digits; '' for figures of a version that kept no terms."""
    text = json.dumps(dict(sorted(terms.items())), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if terms else ""


def same_protocol(judged: Sequence[Judged | Mapping[str, object]], labels: Sequence[str] | None = None) -> None:
    """A RunError naming, field by field, where the protocols of reports or of rows of results differ.

    Rows, as `Report.rows` gives them, are compared with those of the same split; they may carry the fields as 'terms'.
    """
    first: dict[str, _Known] = {}
    for at, one in enumerate(judged):
        known = _known(one, labels[at] if labels else None)
        other = first.setdefault(known.split, known)
        if other.fingerprint != known.fingerprint:
            raise RunError(
                f"{other.label} and {known.label} were not evaluated under the same protocol: "
                f"{_differences(other, known)}; evaluate both the same way, or show them apart"
            )


def stored_rows(name: str, metrics: Mapping[str, object]) -> list[dict[str, object]]:
    """A metrics.json, of the run `name`, for `same_protocol`: one of its rows a split, with the terms."""
    figures, protocols = metrics.get("figures"), metrics.get("protocols", {})
    assert isinstance(figures, list) and isinstance(protocols, dict)
    of = {row["split"]: row for row in figures}
    return [{**row, "case": name, "terms": protocols.get(split, {}).get("terms", {})} for split, row in of.items()]


class _Known(NamedTuple):
    label: str
    split: str
    fingerprint: str
    terms: Terms


def _known(one: Judged | Mapping[str, object], label: str | None) -> _Known:
    if not isinstance(one, Mapping):
        return _Known(label or f"report {one.fingerprint}", "", one.fingerprint, one.terms)
    terms = one.get("terms")
    name = next((str(one[key]) for key in ("case", "method") if key in one), "a row")
    split, mark = str(one.get("split", "")), str(one.get("fingerprint") or "")
    return _Known(label or name, split, mark, terms if isinstance(terms, Mapping) else {})


def _differences(one: _Known, other: _Known) -> str:
    if not one.terms or not other.terms:
        return f"{one.fingerprint or 'none kept'} against {other.fingerprint or 'none kept'}"
    fields = [*one.terms, *(key for key in other.terms if key not in one.terms)]
    return "; ".join(
        f"{key}: {one.terms.get(key, 'none')} against {other.terms.get(key, 'none')}"
        for key in fields
        if one.terms.get(key) != other.terms.get(key)
    )


def _plain(value: object) -> Fact:
    """A list as one text, so that every field is one word to compare."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    assert isinstance(value, (str, int, float)), value
    return value
