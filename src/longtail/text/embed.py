"""From a data set to vectors of its items and users: prompts, cached encoder, a defined vector for every row."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longtail.data.dataset import Dataset
from longtail.data.histories import Histories
from longtail.data.ids import IdMap
from longtail.errors import DataError, EmbeddingError, some
from longtail.text.cache import Progress as Report
from longtail.text.cache import default_cache, embed_cached
from longtail.text.embedders.base import Embedder, Source, parse
from longtail.text.embeddings import Embeddings, Fitted, Provenance
from longtail.text.prompts import item_prompts, read_template, user_prompts
from longtail.text.transform import Transform, fit_transform
from longtail.text.vector_files import Floats

SILENT = 2.0  # seconds before a bar is shown
logger = logging.getLogger(__name__)


def embed_items(
    data: Dataset,
    model: str | Embedder = "minilm",
    template: str = "generic",
    cache: str | Path | None = None,
    transform: Sequence[str] = (),
) -> Embeddings:
    """One vector an item of `data`, in its order.

    model: 'minilm', 'st:NAME', 'file:PATH', … (docs/embeddings.md) or an encoder. cache: an SQLite file; None for the
    user's own. transform: steps fitted on the vectors and applied to them, e.g. ("center", "l2").
    Items without text get the mean of the other vectors and are named in a warning and in `without_text`.
    """
    source = encoder_for(model, data.text, template)
    if isinstance(source, Embeddings):
        return transformed(source.subset(data.items), transform)
    prompts = item_prompts(data.text, template)
    vectors, has_text = _embed(source, prompts, cache, "items")
    provenance = _provenance(source, template, "item", prompts)._replace(data=data.hash)
    encoder = source if isinstance(source, Fitted) else None
    made = Embeddings(vectors, data.items.ids, provenance, has_text, encoder=encoder)
    if not has_text.all():
        vectors[~has_text] = vectors[has_text].mean(axis=0, dtype=np.float64)
        logger.warning("items without text, which get the mean vector: %s", some(made.without_text))
    return transformed(made, transform)


def encoder_for(model: str | Source, items_text: pl.DataFrame, template: str) -> Source:
    """The encoder of that name, fitted to the items' prompts if it is one that learns from them."""
    source = parse(model) if isinstance(model, str) else model
    return source if isinstance(source, Embeddings) else source.fitted(lambda: item_prompts(items_text, template))


def transformed(made: Embeddings, steps: Sequence[str]) -> Embeddings:
    """With these steps fitted on the vectors of items that have text, and applied; the others get the mean again."""
    if not steps:
        return made
    fitted, changed = fit_transform(steps, made.vectors[made.has_text])
    vectors = np.zeros((len(made), changed.shape[1]), dtype=np.float32)
    vectors[made.has_text] = changed
    vectors[~made.has_text] = changed.mean(axis=0, dtype=np.float64)
    whole = fitted if made.transform is None else made.transform.then(fitted)
    provenance = made.provenance._replace(transform=whole.name)
    return replace(made, vectors=vectors, padded=None, transform=whole, provenance=provenance)


def embed_users(
    train: Histories,
    items_text: pl.DataFrame,
    users: IdMap | None = None,
    model: str | Embedder = "minilm",
    template: str = "user",
    cache: str | Path | None = None,
    data_hash: str = "",
    transform: Transform | None = None,
    item_template: str = "generic",
) -> Embeddings:
    """One vector a user, of the titles of the training history.

    items_text: one row an item, as Dataset.text. users: their external ids; 1..U if not given.
    data_hash: Dataset.hash, for the provenance. transform: that of the items' vectors, if they are of the same encoder.
    item_template: of the item prompts that an encoder is fitted to, if it learns from them.
    Users without a titled item get zeros, which the search for similar users skips, and stand in `without_text`.
    """
    ids = users or IdMap(pl.Series(range(1, train.users + 1), dtype=pl.Int64), "user")
    if len(ids) != train.users:
        raise DataError(f"{len(ids):,} user ids for {train.users:,} histories; take both from one data set")
    source = encoder_for(model, items_text, item_template)
    if isinstance(source, Embeddings):
        return source.subset(ids, "users")
    prompts = user_prompts(train, items_text, template, max_chars=source.max_chars)
    vectors, has_text = _embed(source, prompts, cache, "users")
    provenance = _provenance(source, template, "user", prompts)._replace(data=data_hash)
    if transform is not None:
        changed = transform.apply(vectors[has_text])
        vectors = np.zeros((len(vectors), changed.shape[1]), dtype=np.float32)
        vectors[has_text], provenance = changed, provenance._replace(transform=transform.name)
    made = Embeddings(vectors, ids.ids, provenance, has_text, transform=transform)
    if not has_text.all():
        logger.info("users without a titled item, who get no neighbours: %s", some(made.without_text))
    return made


def made_so(
    stored: Embeddings, data_hash: str, model: str | Source, template: str, kind: Literal["item", "user"]
) -> bool:
    """Whether `stored` is what embedding the data with that hash by this model and template would give.

    What was done to the vectors afterwards does not count here.
    """
    source, was = parse(model) if isinstance(model, str) else model, stored.provenance
    if isinstance(source, Embeddings):
        return was.identity == source.provenance.identity
    shape = read_template(template, kind)
    return (was.data, was.identity, was.template_hash) == (data_hash, source.identity, shape.hash)


def _embed(
    embedder: Embedder, prompts: list[str], cache: str | Path | None, what: str
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """(n, E) vectors, zero where there is no prompt, and (n,) whether there is one."""
    has_text = np.array([bool(prompt) for prompt in prompts], dtype=np.bool_)
    if not has_text.any():
        raise EmbeddingError(
            f"none of the {len(prompts):,} {what} has text; give an item table with titles, or fit a method without "
            "text, e.g. --method plain"
        )
    with _bar(f"embedding {what} with {embedder.model}") as report:
        made = embed_cached(
            embedder, [prompt for prompt in prompts if prompt], Path(cache) if cache else default_cache(), report
        )
    vectors = np.zeros((len(prompts), made.shape[1]), dtype=np.float32)
    vectors[has_text] = made
    return vectors, has_text


def _provenance(embedder: Embedder, template: str, kind: Literal["item", "user"], prompts: list[str]) -> Provenance:
    shape = read_template(template, kind)
    texts = hashlib.sha256()
    for prompt in prompts:
        texts.update(f"{len(prompt)} {prompt}".encode("utf-8", "surrogatepass"))
    return Provenance(
        spec=embedder.model,
        identity=embedder.identity,
        template=shape.name,
        template_version=shape.version,
        template_hash=shape.hash,
        texts=texts.hexdigest(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@contextmanager
def _bar(title: str) -> Iterator[Report]:
    """A progress bar on stderr, shown once the work has taken two seconds."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title)
    begin = time.monotonic()

    def report(done: int, total: int) -> None:
        if time.monotonic() - begin > SILENT and done < total:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()
