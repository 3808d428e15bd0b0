"""What a bundle says of itself, and whether its files are what it says: manifest.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, StringConstraints, ValidationError

from longtail.config import Config
from longtail.errors import BundleError
from longtail.files import file_hash

FORMAT = 1
MANIFEST = "manifest.json"
ENCODER, ITEMS, USERS, SEMANTIC = "encoder.onnx", "items.safetensors", "users.safetensors", "semantic.safetensors"
INDEX = "index.usearch"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
LARGEST = 64 << 20  # bytes of a manifest
AGAIN = "export the run again"

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class FileFacts(Config):
    """A file of the bundle."""

    sha256: Sha256
    bytes: NonNegativeInt


class GraphFacts(Config):
    """The edges of items: `longtail.nn.served.Graphs` without the edges."""

    text: float
    order: float
    decay: float = Field(gt=0, le=1)
    recent: PositiveInt


class TextFacts(Config):
    """How texts of items became vectors, so that new ones become vectors of the same space."""

    spec: str
    identity: str
    template: str
    template_hash: str
    width: PositiveInt
    transform: tuple[str, ...] = ()
    title: str = "title"
    """The column of the item table that has the titles."""
    columns: tuple[str, ...] = ()
    """All columns of the item table, in the order in which prompts name them."""


class Parity(Config):
    """How the bundle's answers compare with the model's, for the same users."""

    users: NonNegativeInt
    k: PositiveInt
    same: float
    """Share of users whose k items are the same, in the same order."""
    overlap: float
    """Share of the model's k items that are among the bundle's."""
    largest: float
    """Largest difference of a score."""


class IndexFacts(Config):
    """An index of the item vectors, and how its lists compare with exact ones."""

    candidates: PositiveInt
    """How many it gives for a list of ten; in proportion for longer ones."""
    users: NonNegativeInt
    k: PositiveInt
    recall: float
    """Share of the exact first k items that are among those by the index."""


class Manifest(Config):
    """All that stands in manifest.json."""

    format: int
    name: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    created: str
    versions: dict[str, str]
    data: dict[str, str]
    method: str
    backbone: str
    items: PositiveInt
    users: NonNegativeInt
    D: PositiveInt
    max_len: PositiveInt
    cloze: bool
    int8: bool
    semantic: tuple[NonNegativeInt, NonNegativeInt] | None
    """Columns of the vectors that come of LLM embeddings, first and one past the last; None if they share columns."""
    graphs: GraphFacts | None
    dial: float | None
    text: TextFacts | None
    columns: tuple[str, ...]
    """Columns of the item table that requests can filter by."""
    config: dict[str, JsonValue]
    metrics: dict[str, float]
    parity: Parity | None
    index: IndexFacts | None = None
    files: dict[str, FileFacts]


def read(folder: Path) -> Manifest:
    """The manifest of a bundle; a BundleError if it is missing, not one, or of a newer format."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        facts = json.loads(path.read_text(encoding="utf-8"))
        made_by = facts["format"]
    except FileNotFoundError:
        raise BundleError(f"{folder} has no {MANIFEST}: it is no bundle; make one with 'longtail export RUN'") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is corrupt ({error!r}); {AGAIN}") from None
    if made_by != FORMAT:
        raise BundleError(
            f"{folder} has format {made_by!r}, this longtail reads {FORMAT}; upgrade longtail, or {AGAIN}"
        )
    try:
        manifest = Manifest.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {where}: {first['msg']} (of {error.error_count()} problems); {AGAIN}") from None
    _check_names(folder, manifest)
    return manifest


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{folder / MANIFEST} names the file {name!r}, which is no plain name; {AGAIN}")
    optional = {USERS: manifest.users, SEMANTIC: manifest.text, INDEX: manifest.index}
    needed = [ENCODER, ITEMS, *(name for name, facts in optional.items() if facts)]
    for name in needed:
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST} does not list {name}; {AGAIN}")


def check_files(folder: Path, manifest: Manifest) -> None:
    """A BundleError if a file is missing, a link, truncated, or not the one that the manifest was written for."""
    for name, facts in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is missing, or no plain file; {AGAIN}")
        if (size := path.stat().st_size) != facts.bytes:
            raise BundleError(f"{path} has {size:,} bytes, not {facts.bytes:,}: it is truncated or replaced; {AGAIN}")
        if (found := file_hash(path)) != facts.sha256:
            raise BundleError(f"{path} has SHA-256 {found[:12]}…, not {facts.sha256[:12]}…: it was changed; {AGAIN}")


def facts_of(path: Path) -> FileFacts:
    """Of a file as it is."""
    return FileFacts(sha256=file_hash(path), bytes=path.stat().st_size)
