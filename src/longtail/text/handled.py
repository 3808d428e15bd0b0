"""The folder `handled/` of LLM-ESR's authors: who did what in `inter.txt`, and pickled vectors of items and users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from longtail.data.dataset import Dataset
from longtail.data.histories import IntArray
from longtail.data.pickled import read_array
from longtail.data.sources.base import read_source
from longtail.data.sources.llmesr import INTERACTIONS
from longtail.errors import EmbeddingError, some
from longtail.files import file_hash
from longtail.text.embeddings import Embeddings, Provenance, check_finite
from longtail.text.vector_files import Floats

SOURCE = "llmesr"  # of which the interactions are read
ITEMS, USERS = "itm_emb_np.pkl", "usr_emb_np.pkl"


def is_handled(folder: Path) -> bool:
    """Whether it is such a folder."""
    return (folder / INTERACTIONS).is_file()


def read_interactions(folder: Path) -> Dataset:
    """The data set of `inter.txt`, in which ids stay the authors'; a DataError names the line it cannot read."""
    return read_source(SOURCE, folder)


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
