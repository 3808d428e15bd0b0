"""`longtail audit`, from a folder or file of vectors to findings and to the nearest neighbors of some items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from longtail.data.dataset import Dataset
from longtail.data.findings import Finding
from longtail.errors import EmbeddingError, some
from longtail.lists import title_column
from longtail.pipeline import EMBEDDINGS
from longtail.text.audit import Vectors, audit, nearest, samples
from longtail.text.embedders.file import read_vectors
from longtail.text.embeddings import FACTS, Embeddings
from longtail.text.prompts import item_prompts, read_template


class Examined(NamedTuple):
    """Findings by kind, "items" and "users"; nearest: columns item, title, cosine, neighbor, its title."""

    findings: dict[str, list[Finding]]
    nearest: pl.DataFrame


def examine(where: Path, data: Dataset | None, like: Sequence[str] = (), k: int = 5) -> Examined:
    """What an audit finds.

    where: a prepared folder with vectors of items and users, a folder of vectors, or a file as of 'file:PATH'. data:
    whose items they are; a prepared folder is its own. like: items whose k nearest are shown, some drawn if not given.
    A file that cannot be read as vectors is a finding too.
    """
    inside = where / EMBEDDINGS
    if inside.is_dir():
        data = data or Dataset.load(where)
        places = {kind: inside / kind for kind in ("items", "users") if (inside / kind / FACTS).is_file()}
    else:
        places = {"items": where}
    findings, near = {}, pl.DataFrame()
    for kind, place in places.items():
        try:
            given = _given(place, data, kind)
        except EmbeddingError as error:
            findings[kind] = [Finding("error", "file", str(error))]
            continue
        findings[kind] = audit(given)
        if kind == "items":
            near = _nearest(given, data, like, k)
    return Examined(findings, near)


def _given(place: Path, data: Dataset | None, kind: str) -> Vectors:
    if place.is_dir():
        stored = Embeddings.load(place)
        vectors, ids, has_text, template = stored.vectors, stored.ids, stored.has_text, stored.provenance.template
    else:
        (vectors, ids), has_text, template = read_vectors(place.expanduser()), None, ""
    if data is None:
        return Vectors(vectors, ids, has_text, noun=kind)
    if kind == "users":
        return Vectors(vectors, ids, has_text, data.users.ids, noun=kind)
    counts = data.leave_one_out().train.counts(len(data.items))[1:]
    texts = item_prompts(data.text, read_template(template, "item").name if template else "generic")
    return Vectors(vectors, ids, has_text, data.items.ids, counts, texts)


def _nearest(given: Vectors, data: Dataset | None, like: Sequence[str], k: int) -> pl.DataFrame:
    if not len(given.sound):
        return pl.DataFrame()
    names = given.ids.cast(pl.String)
    if unknown := [one for one in like if one not in names]:
        raise EmbeddingError(f"no vector has the id {some(unknown)}; name ids such as {some(names.head(3).to_list())}")
    wanted = names.is_in(list(like)).arg_true().to_list() if like else samples(given)
    sound = set(given.sound.tolist())
    titles = _titles(given, data)
    rows = [
        {"item": names[one.row], "title": titles[one.row], "cosine": float(cosine), "neighbor": names[int(other)],
         "its title": titles[int(other)]}
        for one in nearest(given, [row for row in wanted if row in sound], k)
        for other, cosine in zip(one.nearest, one.cosines, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def _titles(given: Vectors, data: Dataset | None) -> list[str]:
    """Of each vector, '' where there is none."""
    column = None if data is None else title_column(data.text)
    if data is None or column is None:
        return [""] * len(given.ids)
    known = [*data.text[column].cast(pl.String).fill_null("").to_list(), ""]
    return [known[place][:60] for place in given.places]
