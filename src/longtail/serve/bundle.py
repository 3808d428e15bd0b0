"""A bundle on disk as arrays in memory maps, checked before anything is answered from it. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longtail.errors import BundleError
from longtail.serve.arrays import Array, Ids, Strings, in_range, map_arrays, take
from longtail.serve.manifest import ENCODER, ITEMS, SEMANTIC, USERS, Manifest, check_files, read
from longtail.serve.matrix import Floats, Matrix
from longtail.text.transform import Transform

IntArray = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


class Edges(NamedTuple):
    """M edges an item: ids (I + 1, M), 0 where there are fewer, and weights with gamma (I + 1, M)."""

    ids: Ints
    weights: Floats


class Column(NamedTuple):
    """A column of the item table: the value of item i is values[codes[i] - 1]; code 0: none. codes (I + 1,)."""

    codes: Ints
    values: Strings


class Items(NamedTuple):
    """I items; row 0 of arrays is [MASK]'s, or unused."""

    ids: Ids
    titles: Strings
    vectors: Matrix
    share: Floats | None
    """(I + 1, D) what of the vectors comes of LLM embeddings, where no range of columns says it."""
    counts: Ints
    head: npt.NDArray[np.bool_]
    text: Edges | None
    order: Edges | None
    columns: dict[str, Column]


class Users(NamedTuple):
    """U users: ids, histories items[offsets[u]:offsets[u + 1]], and unit user vectors (U + 1, D) in float16."""

    ids: Ids
    items: Ints
    offsets: IntArray
    vectors: npt.NDArray[np.float16]

    def history(self, user: int) -> IntArray:
        """The items of a user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]].astype(np.int64)


class Semantic(NamedTuple):
    """From LLM vectors (E,) to item vectors: weight (E, D), bias (D,); transform: what is done to them before.

    embeddings (I + 1, E), unit rows, and floors (I + 1,), for edges by text; None without a graph.
    """

    weight: Floats
    bias: Floats
    transform: Transform | None
    embeddings: npt.NDArray[np.float16] | None
    floors: Floats | None


class Bundle(NamedTuple):
    """What a folder holds. key: a hash of its manifest, different for every export."""

    folder: Path
    key: str
    manifest: Manifest
    encoder: bytes
    items: Items
    users: Users | None
    semantic: Semantic | None


def open_bundle(folder: str | Path) -> Bundle:
    """Check and map a bundle; a BundleError says what cannot be used, and why."""
    folder = Path(folder).resolve()
    manifest = read(folder)
    check_files(folder, manifest)
    key = "".join(facts.sha256[:8] for _, facts in sorted(manifest.files.items()))
    items = _items(map_arrays(folder / ITEMS), manifest)
    users = _users(map_arrays(folder / USERS), manifest) if manifest.users else None
    semantic = _semantic(map_arrays(folder / SEMANTIC), manifest) if manifest.text else None
    return Bundle(folder, key, manifest, (folder / ENCODER).read_bytes(), items, users, semantic)


def _items(arrays: dict[str, Array], manifest: Manifest) -> Items:
    rows, D = manifest.items + 1, manifest.D
    if manifest.int8:
        values, scales = take(arrays, "vectors", np.int8, (rows, D)), take(arrays, "scales", np.float32, (rows,))
        vectors = Matrix(values, scales)
    else:
        vectors = Matrix(take(arrays, "vectors", np.float32, (rows, D)))
    if manifest.semantic is not None and not 0 <= manifest.semantic[0] <= manifest.semantic[1] <= D:
        raise BundleError(f"the bundle's semantic columns {manifest.semantic} are not of its {D}; export the run again")
    edges = [_edges(arrays, name, rows) if manifest.graphs else None for name in ("text", "order")]
    return Items(
        Ids.stored(arrays, "ids", rows - 1),
        Strings.stored(arrays, "titles", rows - 1),
        vectors,
        take(arrays, "share", np.float32, (rows, D)) if "share" in arrays else None,
        take(arrays, "counts", np.int32, (rows,)),
        take(arrays, "head", np.bool_, (rows,)),
        edges[0],
        edges[1],
        {name: _column(arrays, place, rows) for place, name in enumerate(manifest.columns)},
    )


def _edges(arrays: dict[str, Array], name: str, rows: int) -> Edges:
    ids = take(arrays, f"{name}.ids", np.int32, (rows, None))
    in_range(ids, 0, rows - 1, f"{name}.ids")
    return Edges(ids, take(arrays, f"{name}.weights", np.float32, ids.shape))


def _column(arrays: dict[str, Array], place: int, rows: int) -> Column:
    values = Strings.stored(arrays, f"column.{place}", None)
    codes = take(arrays, f"column.{place}.codes", np.int32, (rows,))
    in_range(codes, 0, len(values), f"column.{place}.codes")
    return Column(codes, values)


def _users(arrays: dict[str, Array], manifest: Manifest) -> Users:
    U = manifest.users
    offsets, items = take(arrays, "offsets", np.int64, (U + 2,)), take(arrays, "items", np.int32, (None,))
    in_range(items, 1, manifest.items, "items")
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise BundleError("the histories of the bundle do not fit together; export the run again")
    vectors = take(arrays, "vectors", np.float16, (U + 1, manifest.D))
    return Users(Ids.stored(arrays, "ids", U), items, offsets, vectors)


def _semantic(arrays: dict[str, Array], manifest: Manifest) -> Semantic:
    assert manifest.text is not None
    E, rows = manifest.text.width, manifest.items + 1
    fitted = {
        name.removeprefix("transform."): np.asarray(array, np.float32)
        for name, array in arrays.items()
        if name.startswith("transform.")
    }
    steps = manifest.text.transform
    return Semantic(
        take(arrays, "weight", np.float32, (E, manifest.D)),
        take(arrays, "bias", np.float32, (manifest.D,)),
        Transform(steps, fitted) if steps else None,
        take(arrays, "embeddings", np.float16, (rows, E)) if manifest.graphs else None,
        take(arrays, "floors", np.float32, (rows,)) if manifest.graphs else None,
    )
