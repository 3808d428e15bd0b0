"""New items, in the space of vectors that were made before: same encoder, prompt, and fitted transform."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from longtail.data.columns import choose, id_column
from longtail.data.tables import Source, open_table
from longtail.errors import ConfigError, EmbeddingError
from longtail.text.cache import default_cache, embed_cached
from longtail.text.embedders.base import parse
from longtail.text.embedders.lexical import FILE as ENCODER
from longtail.text.embeddings import Embeddings
from longtail.text.prompts import item_prompts, read_template


def embed_new(
    items: Source, like: str | Path, item_id: str | None = None, cache: str | Path | None = None
) -> Embeddings:
    """One vector a row of the table `items`, made as those in the folder `like` were.

    Items without text get the mean of the vectors there. An EmbeddingError if the encoder or the template is not the
    one of before, so that the vectors would be of another space.
    """
    folder, table = Path(like), open_table(items, "the new items")
    stored = Embeddings.load(folder)
    was = stored.provenance
    source = parse(f"lexical:{folder}" if (folder / ENCODER).is_file() else was.spec)
    if isinstance(source, Embeddings) or not was.template:
        raise ConfigError(
            f"the vectors in {folder} were made elsewhere ({was.spec}); make those of new items there too"
        )
    if source.identity != was.identity:
        raise EmbeddingError(
            f"{was.spec} is now {source.identity!r}, the vectors in {folder} are of {was.identity!r}; embed all again, "
            "or bring the same weights and precision"
        )
    shape = read_template(was.template, "item")
    if shape.hash != was.template_hash:
        raise EmbeddingError(f"template {was.template!r} is not what it was when {folder} was made; embed all again")
    column = choose(table.columns, "item", item_id, table.name, option="item_id")
    frame = table.read(text={column})
    ids = id_column(frame[column], table.name)
    prompts = item_prompts(frame.drop(column), was.template)
    has_text = np.array([bool(prompt) for prompt in prompts], dtype=np.bool_)
    place = Path(cache) if cache else default_cache()
    vectors = np.tile(stored.vectors.mean(axis=0, dtype=np.float64).astype(np.float32), (len(prompts), 1))
    if has_text.any():
        made = embed_cached(source, [prompt for prompt in prompts if prompt], place)
        vectors[has_text] = made if stored.transform is None else stored.transform.apply(made)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    provenance = was._replace(texts="", data="", date=date)
    return Embeddings(vectors, _same(ids, stored.ids), provenance, has_text, transform=stored.transform)


def _same(ids: pl.Series, like: pl.Series) -> pl.Series:
    """Ids in the type of those of before."""
    cast = ids.cast(like.dtype, strict=False)
    if cast.null_count():
        raise EmbeddingError(
            f"the new ids are {ids.dtype}, such as {ids[0]!r}, those of before {like.dtype}: write both alike"
        )
    return cast
