"""Embeddings: vectors of texts with the ids they belong to and where they come from. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.ids import Externals, IdMap
from longtail.errors import EmbeddingError, some
from longtail.files import atomic, file_hash, read_json, read_parquet, write_json
from longtail.text.transform import FILE, Transform
from longtail.text.vector_files import AGAIN, Floats, blocks, map_safetensors, padded_before, write_vectors

FORMAT = 1
FACTS, IDS, VECTORS = "embeddings.json", "ids.parquet", "vectors.safetensors"


class Provenance(NamedTuple):
    """Where vectors come from, so that a run can name all it was made of."""

    spec: str
    """The model as the user named it, such as 'minilm' or 'st:all-MiniLM-L6-v2'."""
    identity: str
    """Kind, hash of the weights or the file, and settings."""
    template: str = ""
    template_version: int = 0
    template_hash: str = ""
    texts: str = ""
    """SHA-256 of all prompts in order."""
    data: str = ""
    """Dataset.hash, where it is known; for users of another split than leave-one-out, a space and its scheme."""
    date: str = ""
    """UTC, ISO 8601."""
    transform: str = ""
    """Transform.name of what was done to the encoder's vectors."""


@runtime_checkable
class Fitted(Protocol):
    """A text encoder that was fitted to texts, as far as its vectors care."""

    def save(self, folder: Path) -> None:
        """Write what was fitted, so that new texts get vectors of the same space."""


class Views(NamedTuple):
    """Of which parts joined vectors are made, such as a text's and an image's, and which of them an item has.

    widths: of the V parts, side by side, E in sum. lacking: (n, V), 1 where an item lacks a view, else 0; its vector is
    then the mean of that view's.
    """

    widths: tuple[int, ...]
    lacking: Floats


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One vector a text.

    vectors: (n, E) float32, memory-mapped when loaded. ids: (n,) external ids, String or Int64, unique.
    has_text: (n,) False where there was no text: such items got the mean of the others, such users zeros.
    An EmbeddingError if the three do not fit together.
    """

    vectors: Floats
    ids: pl.Series
    provenance: Provenance
    has_text: npt.NDArray[np.bool_]
    padded: Floats | None = field(default=None, repr=False)
    """(n + 1, E): a row of zeros and then the very same `vectors`, where memory or a file has them so."""
    views: Views | None = field(default=None, repr=False)
    """What the vectors are joined of, if that is more than one view (`text.views.join_views`)."""
    transform: Transform | None = field(default=None, repr=False)
    """What was done to the encoder's vectors, to be done to those of new texts; it is saved beside these."""
    encoder: Fitted | None = field(default=None, repr=False)
    """What made them, if it was fitted to texts: it is saved beside them, and read by `embed_new`."""

    def __post_init__(self) -> None:
        shape, n = self.vectors.shape, len(self.ids)
        if len(shape) != 2 or shape[0] != n or not shape[1]:
            raise EmbeddingError(f"{n:,} ids and vectors of shape {shape}; there must be one vector an id")
        if len(self.has_text) != n:
            raise EmbeddingError(f"{n:,} ids and {len(self.has_text):,} marks in has_text; give one an id")
        if self.views and (sum(self.views.widths), self.views.lacking.shape) != (shape[1], (n, len(self.views.widths))):
            raise EmbeddingError(
                f"views {self.views.widths} wide do not make up vectors of shape {shape}; join them again"
            )
        if self.vectors.dtype != np.float32:
            raise EmbeddingError(f"vectors are {self.vectors.dtype}; convert them to float32")
        if self.ids.dtype not in {pl.String, pl.Int64}:
            raise EmbeddingError(f"ids are {self.ids.dtype}; cast them to String or Int64")
        if self.ids.null_count():
            raise EmbeddingError(f"{self.ids.null_count():,} of {n:,} ids are missing; give every vector its id")
        if repeated := self.ids.filter(self.ids.is_duplicated()).unique(maintain_order=True).to_list():
            raise EmbeddingError(f"ids with more than one vector: {some(repeated)}; keep one vector an id")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """E."""
        return int(self.vectors.shape[1])

    @property
    def model(self) -> str:
        """The model as the user named it."""
        return self.provenance.spec

    @property
    def without_text(self) -> list[str | int]:
        """External ids that had no text."""
        return self.ids.filter(~pl.Series(self.has_text)).to_list()

    @cached_property
    def _map(self) -> IdMap:
        return IdMap(self.ids)

    def matrix(self, ids: IdMap | Externals, what: str = "items") -> Floats:
        """(n + 1, E): row k + 1 is the vector of `ids[k]`, row 0 is zero.

        If `ids` are all of these ids in the same order, it is what `load` mapped and takes no memory, and nothing may
        be written to it; otherwise it is a copy. An EmbeddingError names ids without a vector (`what` says of what),
        and vectors with NaN or infinity.
        """
        wanted = ids.ids if isinstance(ids, IdMap) else pl.Series(ids, strict=False)
        rows = self._map.find(wanted)
        if not rows.all():
            missing = wanted.filter(pl.Series(rows == 0)).to_list()
            raise EmbeddingError(
                f"embeddings cover {np.count_nonzero(rows):,} of {len(rows):,} {what} "
                f"(missing {some(missing)}); {AGAIN} on this dataset"
            )
        joined = self.padded
        if joined is None or not np.array_equal(rows, np.arange(1, len(joined))):
            joined = np.zeros((len(rows) + 1, self.width), dtype=np.float32)
            np.take(self.vectors, rows - 1, axis=0, out=joined[1:])
        check_finite(joined[1:], wanted)
        return joined

    def rows(self, ids: pl.Series) -> npt.NDArray[np.int64]:
        """(m,) the place of each of `ids` here, from 1; 0 where there is no vector of that id."""
        return self._map.find(ids)

    def views_of(self, ids: IdMap) -> Views | None:
        """The views with `lacking` (n + 1, V) in the order of `ids`, row 0 as if it lacked none; None of one view."""
        if self.views is None:
            return None
        found = self.views.lacking[self._map.find(ids.ids) - 1]
        return self.views._replace(lacking=np.concatenate([np.zeros_like(found[:1]), found]))

    def subset(self, ids: IdMap, what: str = "items") -> Embeddings:
        """The vectors of `ids` in their order; an EmbeddingError as for `matrix`."""
        padded, rows = self.matrix(ids, what), self._map.find(ids.ids) - 1
        views = self.views and self.views._replace(lacking=self.views.lacking[rows])
        return replace(self, vectors=padded[1:], ids=ids.ids, has_text=self.has_text[rows], padded=padded, views=views)

    def save(self, folder: str | Path) -> None:
        """Write three files, and what was fitted, if anything; all three are complete before the first replaces one."""
        folder = Path(folder)
        check_finite(self.vectors, self.ids)
        if self.encoder is not None:
            self.encoder.save(folder)
        if self.transform is not None:
            self.transform.save(folder / FILE)
        table = pl.DataFrame({"id": self.ids, "has_text": pl.Series(self.has_text)})
        widths = self.views.widths if self.views else ()
        if self.views:
            table = table.hstack([pl.Series(f"lacks_{v}", self.views.lacking[:, v]) for v in range(len(widths))])
        with (
            atomic(folder / FACTS) as facts,  # leaves last
            atomic(folder / IDS) as ids,
            atomic(folder / VECTORS) as vectors,
        ):
            table.write_parquet(ids)
            mark = file_hash(ids)  # in all three, so that files of two runs are never taken together
            write_vectors(vectors, self.vectors, {"ids": mark})
            shape = {"rows": len(self), "width": self.width, **({"views": widths} if widths else {})}
            write_json(facts, {"format": FORMAT, **shape, "ids": mark, "provenance": self.provenance._asdict()})

    @classmethod
    def load(cls, folder: str | Path) -> Embeddings:
        """What `save` wrote, the vectors memory-mapped. An EmbeddingError tells a missing, corrupt or newer file."""
        folder = Path(folder)
        facts = read_json(folder / FACTS, EmbeddingError)
        if not isinstance(facts, dict) or "format" not in facts:
            raise EmbeddingError(f"{folder / FACTS} does not describe embeddings; {AGAIN}")
        if facts["format"] != FORMAT:
            raise EmbeddingError(
                f"{folder} has format {facts['format']!r}, this longtail reads {FORMAT}; upgrade longtail, or {AGAIN}"
            )
        table = read_parquet(folder / IDS, EmbeddingError)
        arrays, marks = map_safetensors(folder / VECTORS)
        mark = file_hash(folder / IDS)
        if not mark == facts.get("ids") == marks.get("ids"):
            raise EmbeddingError(f"the files in {folder} do not belong together; {AGAIN}")
        try:
            provenance = Provenance(**facts["provenance"])
            vectors = arrays["vectors"].view(np.float32)
            padded = padded_before(folder / VECTORS, vectors)
            vectors = vectors if padded is None else padded[1:]
            widths = tuple(facts.get("views", ()))
            lacking = table.select(f"lacks_{v}" for v in range(len(widths))).to_numpy() if widths else None
            views = None if lacking is None else Views(widths, np.ascontiguousarray(lacking, dtype=np.float32))
            transform = _transform(folder / FILE, provenance.transform)
            return cls(vectors, table["id"], provenance, table["has_text"].to_numpy(), padded, views, transform)
        except (KeyError, TypeError, pl.exceptions.ColumnNotFoundError) as error:
            raise EmbeddingError(f"{folder} is not what this longtail wrote ({error!r}); {AGAIN}") from None


def _transform(path: Path, name: str) -> Transform | None:
    """The transform of that name; an EmbeddingError if another one lies there."""
    if not name:
        return None
    found = Transform.load(path)
    if found.name != name:
        raise EmbeddingError(f"{path} is {found.name!r}, but the vectors beside it had {name!r}; {AGAIN}")
    return found


def check_finite(vectors: npt.NDArray[np.floating], ids: pl.Series) -> None:
    """An EmbeddingError names the ids (n,) whose vectors (n, E) hold NaN or infinity."""
    bad = [
        start + np.flatnonzero(~np.isfinite(block.sum(axis=1, dtype=np.float64))) for start, block in blocks(vectors)
    ]
    rows = np.concatenate(bad) if bad else np.empty(0, dtype=np.int64)
    if len(rows):
        raise EmbeddingError(
            f"vectors with NaN or infinity: {some(ids.gather(pl.Series(rows)).to_list())}; "
            "embed these texts again, or mend the file they come from"
        )
