"""`file:PATH`: finished vectors and their ids, from whatever made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.errors import ConfigError, EmbeddingError, some
from longtail.files import file_hash, read_parquet
from longtail.text.embedders.base import sources
from longtail.text.embeddings import FACTS, Embeddings, Provenance, check_finite
from longtail.text.vector_files import Floats, map_safetensors

ID_NAMES = ("id", "item_id", "user_id", "item", "user", "asin", "parent_asin", "business_id")
ID_FILES = (".ids.parquet", ".ids.csv", ".ids.txt")


@sources.register("file")
def load_vectors(path: str) -> Embeddings:
    """Vectors and ids from one of

    - a folder that `Embeddings.save` wrote;
    - a Parquet table with a column of ids and either one column of lists or E columns of numbers;
    - a matrix in .npy or .safetensors, with the ids beside it in NAME.ids.txt (one a line), .ids.csv or .ids.parquet.

    An EmbeddingError says what is wrong and names ids whose vector has another width, NaN or infinity.
    """
    if not path:
        raise ConfigError("'file:' needs a path, such as 'file:vectors.parquet'")
    place = Path(path).expanduser()
    if place.is_dir():
        if not (place / FACTS).is_file():
            raise EmbeddingError(f"{place} is a folder without {FACTS}; name the file of vectors itself")
        return Embeddings.load(place)
    vectors, ids = read_vectors(place)
    check_finite(vectors, ids)
    provenance = Provenance(spec=f"file:{path}", identity=f"file {file_hash(place)}")
    return Embeddings(vectors, ids, provenance, np.ones(len(ids), dtype=np.bool_))


def read_vectors(path: Path) -> tuple[Floats, pl.Series]:
    """Vectors (n, E) and ids (n,) of a file as they stand there: NaN, infinity and ids that repeat are not refused."""
    if not path.is_file():
        raise EmbeddingError(f"no file {path}; check the path")
    readers = {".parquet": _parquet, ".npy": _matrix, ".safetensors": _matrix}
    if path.suffix not in readers:
        raise EmbeddingError(f"{path}: cannot read vectors from {path.suffix!r}; known: {', '.join(readers)}")
    return readers[path.suffix](path)


def _parquet(path: Path) -> tuple[Floats, pl.Series]:
    table = read_parquet(path, EmbeddingError)
    names = [name for name in table.columns if name.lower() in ID_NAMES] or table.columns[:1]
    if not names:
        raise EmbeddingError(f"{path} has no columns; it needs one of ids and one of vectors")
    ids, rest = _ids(table[names[0]], path), table.drop(names[0])
    lists = [column for column in rest if isinstance(column.dtype, (pl.List, pl.Array))]
    if len(lists) > 1:
        raise EmbeddingError(f"{path} has {len(lists)} columns of lists; keep the one that holds the vectors")
    if lists:
        return _stack(lists[0], ids, path), ids
    numbers = [column.name for column in rest if column.dtype.is_numeric()]
    if not numbers or len(numbers) < rest.width:
        raise EmbeddingError(
            f"{path} has no column of vectors: beside the ids {names[0]!r} it has {some(rest.columns)}; "
            "give one column of lists, or columns of numbers only"
        )
    empty = rest.select(pl.any_horizontal(pl.all().is_null())).to_series()
    _refuse(ids.filter(empty), path, "vectors with missing numbers")
    return rest.to_numpy().astype(np.float32), ids


def _stack(column: pl.Series, ids: pl.Series, path: Path) -> Floats:
    """A column of lists as (n, E)."""
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    lengths = lists.list.len().fill_null(0)
    width = str(lengths.mode().max())
    _refuse(ids.filter(lengths.cast(pl.String) != width), path, f"vectors that are not {width} wide, as most are")
    flat = lists.explode(empty_as_null=False) if len(lists) else lists
    _refuse(ids.filter(lists.list.eval(pl.element().is_null()).list.any()), path, "vectors with missing numbers")
    return flat.cast(pl.Float32).to_numpy().reshape(len(ids), -1)


def _matrix(path: Path) -> tuple[Floats, pl.Series]:
    vectors = _array(path)
    ids = _ids(_read_ids(path), path)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise EmbeddingError(f"{path} has shape {vectors.shape}, its file of ids {len(ids):,} rows; they must agree")
    return np.asarray(vectors, dtype=np.float32) if vectors.dtype != np.float32 else vectors, ids


def _array(path: Path) -> npt.NDArray[np.floating]:
    if path.suffix == ".safetensors":
        arrays, _ = map_safetensors(path)
        if len(arrays) != 1:
            raise EmbeddingError(f"{path} holds the float arrays {some(arrays)}; it must hold one")
        return next(iter(arrays.values()))
    try:
        array: npt.NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise EmbeddingError(f"{path} is corrupt or not a plain array ({error}); write it with numpy.save") from None
    if not np.issubdtype(array.dtype, np.number):
        raise EmbeddingError(f"{path} holds {array.dtype}, not numbers; save the vectors as float32")
    return array


def _read_ids(path: Path) -> pl.Series:
    """The ids beside a matrix, in its order."""
    beside = [path.with_suffix(ending) for ending in ID_FILES]
    found = next((place for place in beside if place.is_file()), None)
    if found is None:
        raise EmbeddingError(f"{path} has no ids beside it; write them to {beside[-1].name}, one a line, in its order")
    if found.suffix == ".txt":
        return pl.Series("id", found.read_text(encoding="utf-8").splitlines(), dtype=pl.String)
    if found.suffix == ".parquet":
        return read_parquet(found, EmbeddingError).to_series(0)
    return pl.read_csv(found, infer_schema=False).to_series(0)


def _ids(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype in {pl.String, pl.Categorical, pl.Enum}:
        return column.cast(pl.String)
    raise EmbeddingError(f"{path}: the ids {column.name!r} are {column.dtype}; write them as text or whole numbers")


def _refuse(ids: pl.Series, path: Path, problem: str) -> None:
    if len(ids):
        raise EmbeddingError(f"{path} has {problem}: {some(ids.to_list())}; mend these rows or leave them out")
