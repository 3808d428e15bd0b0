"""The folder `handled/` of LLM-ESR's authors: who did what in `inter.txt`, and pickled vectors of items and users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from longtail.data.dataset import Dataset
from longtail.data.histories import IntArray
from longtail.data.pickled import read_array
from longtail.errors import DataError, EmbeddingError, some
from longtail.files import file_hash
from longtail.text.embeddings import Embeddings, Floats, Provenance, check_finite

INTERACTIONS, ITEMS, USERS = "inter.txt", "itm_emb_np.pkl", "usr_emb_np.pkl"
LINE = r"^\s*([0-9]+)\s+([0-9]+)\s*$"


def is_handled(folder: Path) -> bool:
    """Whether it is such a folder."""
    return (folder / INTERACTIONS).is_file()


def read_interactions(folder: Path) -> Dataset:
    """The data set of `inter.txt`: a line "user item" an interaction, both numbers from 1, each user's in time order.

    Ids stay the authors'. There are no texts: the vectors are finished. A DataError names the line it cannot read.
    """
    path = folder / INTERACTIONS
    try:
        lines = pl.Series("line", path.read_text(encoding="utf-8").splitlines(), dtype=pl.String)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); it must be the authors' text file") from None
    table = lines.to_frame().with_row_index("number", offset=1).filter(pl.col("line").str.strip_chars() != "")
    ids = {"user_id": 1, "item_id": 2}
    table = table.with_columns(
        pl.col("line").str.extract(LINE, group).cast(pl.Int64, strict=False).alias(name) for name, group in ids.items()
    )
    bad = table.filter(~(pl.min_horizontal(*ids) > 0).fill_null(False) | pl.any_horizontal(pl.col(*ids).is_null()))
    if len(bad) or not len(table):
        found = f"line {bad['number'][0]} is {bad['line'][0]!r}" if len(bad) else "it is empty"
        raise DataError(f'{path}: {found}; every line must be "user item", two whole numbers from 1')
    name = folder.resolve().parent.name if folder.name == "handled" else folder.name
    return Dataset.read(table.select(*ids), name=name)


def read_vectors(folder: Path, data: Dataset) -> tuple[Embeddings, Embeddings]:
    """Vectors of the items and of the users of `data`, which must be all that `read_interactions` gives.

    Row k of the items' file is item k + 1; that of an id without interactions is left out. Rows of the users' file
    are in the order in which `inter.txt` first names them. `pca64_itm_emb_np.pkl` and `sim_user_100.pkl` are not
    read: both follow from these two. An EmbeddingError says which file does not fit, and how.
    """
    items, users = _matrix(folder / ITEMS), _matrix(folder / USERS)
    rows = data.items.ids.to_numpy() - 1
    if rows.max() >= len(items):
        beyond = data.items.ids.filter(data.items.ids > len(items)).to_list()
        raise EmbeddingError(
            f"{folder / ITEMS} has {len(items):,} rows, and row k is item k + 1: none for {some(beyond)} of "
            f"{INTERACTIONS}; take both files from one folder"
        )
    if len(users) != len(data.users):
        raise EmbeddingError(
            f"{folder / USERS} has {len(users):,} rows and {INTERACTIONS} {len(data.users):,} users; it needs one row "
            "a user, so take both files from one folder"
        )
    return (
        _embeddings(folder / ITEMS, items[rows], data.items.ids),
        _embeddings(folder / USERS, users[_appearance(data)], data.users.ids),
    )


def _matrix(path: Path) -> Floats:
    """(n, E) float32 of a pickled array."""
    found = read_array(path)
    if found.ndim != 2 or not found.size or not np.issubdtype(found.dtype, np.floating):
        raise EmbeddingError(
            f"{path} holds {found.dtype} of shape {found.shape}; it must be floating-point numbers, one row a vector"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, which check_finite tells
        return found.astype(np.float32)


def _appearance(data: Dataset) -> IntArray:
    """(U,) each user's place in the order of first interactions; times are places in the file."""
    first = data.interactions.group_by("user").agg(pl.col("timestamp").min()).sort("user")
    place: IntArray = first["timestamp"].rank("ordinal").to_numpy().astype(np.int64) - 1
    return place


def _embeddings(path: Path, vectors: Floats, ids: pl.Series) -> Embeddings:
    check_finite(vectors, ids)
    provenance = Provenance(spec=f"file:{path}", identity=f"file {file_hash(path)}")
    return Embeddings(vectors, ids, provenance, np.ones(len(ids), dtype=np.bool_))
