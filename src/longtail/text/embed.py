"""From a data set to vectors of its items and users: prompts, cached encoder, a defined vector for every row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.dataset import Dataset
from longtail.data.histories import Histories
from longtail.data.ids import IdMap
from longtail.errors import DataError, EmbeddingError, some
from longtail.text.cache import BLOCK, default_cache, embed_blocks
from longtail.text.embedders.base import Embedder, Source, parse
from longtail.text.embeddings import Embeddings, Fitted, Provenance
from longtail.text.estimates import Estimate, estimate, within
from longtail.text.profiles import Writer
from longtail.text.prompt_blocks import Prompts, prompts_of_items, prompts_of_users
from longtail.text.prompts import item_prompts, read_template
from longtail.text.transform import Transform, fit_transform
from longtail.text.vector_files import Floats
from longtail.text.working import working

logger = logging.getLogger(__name__)


def embed_items(
    data: Dataset,
    model: str | Embedder = "minilm",
    template: str = "generic",
    cache: str | Path | None = None,
    transform: Sequence[str] = (),
    budget: float | None = None,
) -> Embeddings:
    """One vector an item of `data`, in its order.

    model: 'minilm', 'st:NAME', 'file:PATH', … (docs/embeddings.md) or an encoder. cache: an SQLite file; None for the
    user's own. transform: steps fitted on the vectors and applied to them, e.g. ("center", "l2"). budget: dollars that
    may be spent; an EmbeddingError before anything is, if the estimate is higher.
    Items without text get the mean of the other vectors and are named in a warning and in `without_text`.
    """
    source = encoder_for(model, data.text, template)
    if isinstance(source, Embeddings):
        return transformed(source.subset(data.items), transform)
    prompts = prompts_of_items(data.text, template)
    padded = _embed(source, prompts, cache, "items", budget)
    vectors, has_text = padded[1:], prompts.has_text
    provenance = _provenance(source, template, "item", prompts)._replace(data=data.hash)
    encoder = source if isinstance(source, Fitted) else None
    made = Embeddings(vectors, data.items.ids, provenance, has_text, padded, encoder=encoder)
    if not has_text.all():
        parts = (vectors[start : start + BLOCK] for start in range(0, len(made), BLOCK))
        total = sum(part.sum(axis=0, dtype=np.float64) for part in parts)
        vectors[~has_text] = total / has_text.sum()  # those without are zero until now
        logger.warning("items without text, which get the mean vector: %s", some(made.without_text))
    return transformed(made, transform)


def embed_further(
    stored: Embeddings,
    data: Dataset,
    model: str | Embedder,
    template: str = "generic",
    cache: str | Path | None = None,
    budget: float | None = None,
) -> Embeddings:
    """One vector an item of `data`: the `stored` one where there is one, else made in the same space.

    Only texts of items without a stored vector are embedded. Items without text get the mean of the stored vectors.
    An EmbeddingError if the encoder or the template is not the one of before.
    """
    rows = stored.rows(data.items.ids)
    news = pl.Series(rows == 0)
    vectors, has_text = np.zeros((len(rows), stored.width), np.float32), np.zeros(len(rows), np.bool_)
    vectors[rows > 0], has_text[rows > 0] = stored.vectors[rows[rows > 0] - 1], stored.has_text[rows[rows > 0] - 1]
    vectors[rows == 0] = stored.vectors.mean(axis=0, dtype=np.float64)
    if news.any():
        made, told = _further(stored, data, news, model, template, cache, budget)
        vectors[np.flatnonzero(rows == 0)[told]], has_text[rows == 0] = made, told
    date = datetime.now(UTC).isoformat(timespec="seconds")
    provenance = stored.provenance._replace(texts="", data=data.hash, date=date)
    return replace(stored, vectors=vectors, ids=data.items.ids, provenance=provenance, has_text=has_text, padded=None)


def _further(
    stored: Embeddings,
    data: Dataset,
    news: pl.Series,
    model: str | Embedder,
    template: str,
    cache: str | Path | None,
    budget: float | None,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Vectors of those of the items `news` (I,) that have text, and which of them that are."""
    source, was = parse(model) if isinstance(model, str) else model, stored.provenance
    if isinstance(source, Embeddings):
        found = source.subset(IdMap(data.items.ids.filter(news), "item"))
        made, told = found.vectors[found.has_text], found.has_text
    elif (source.identity, read_template(template, "item").hash) != (was.identity, was.template_hash):
        raise EmbeddingError(
            f"{source.model} is {source.identity!r} with template {template!r}; the vectors of before are of "
            f"{was.identity!r} with {was.template!r}: bring the same weights and template, or fit again"
        )
    else:
        prompts = prompts_of_items(data.text.filter(news), template)
        told = np.array([bool(prompt) for block in prompts for prompt in block], np.bool_)
        made = _embed(source, prompts, cache, "items", budget)[1:][told] if told.any() else stored.vectors[:0]
    return made if stored.transform is None or not told.any() else stored.transform.apply(made), told


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
    budget: float | None = None,
    profiles: Writer | None = None,
) -> Embeddings:
    """One vector a user, of the titles of the training history.

    items_text: one row an item, as Dataset.text. users: their external ids; 1..U if not given.
    data_hash: Dataset.hash, for the provenance. transform: that of the items' vectors, if they are of the same encoder.
    item_template: of the item prompts that an encoder is fitted to, if it learns from them. budget: as for items.
    profiles: whose text of a user is embedded instead of the template's.
    Users without a titled item get zeros, which the search for similar users skips, and stand in `without_text`.
    """
    ids = users or IdMap(pl.Series(range(1, train.users + 1), dtype=pl.Int64), "user")
    if len(ids) != train.users:
        raise DataError(f"{len(ids):,} user ids for {train.users:,} histories; take both from one data set")
    source = encoder_for(model, items_text, item_template)
    if isinstance(source, Embeddings):
        return source.subset(ids, "users")
    if profiles is None:
        prompts = prompts_of_users(train, items_text, template, source.max_chars)
    else:
        prompts = profiles.users(train, items_text)
    padded = _embed(source, prompts, cache, "users", budget)
    provenance, has_text = _provenance(source, template, "user", prompts)._replace(data=data_hash), prompts.has_text
    if profiles is not None:
        provenance = provenance._replace(template=profiles.name, template_hash=profiles.hash)
    if transform is not None:
        changed = transform.apply(padded[1:][has_text])
        padded = np.zeros((len(padded), changed.shape[1]), dtype=np.float32)
        padded[1:][has_text], provenance = changed, provenance._replace(transform=transform.name)
    made = Embeddings(padded[1:], ids.ids, provenance, has_text, padded, transform=transform)
    if not has_text.all():
        logger.info("users without a titled item, who get no neighbours: %s", some(made.without_text))
    return made


def estimate_items(
    data: Dataset, model: str | Source, template: str = "generic", cache: str | Path | None = None
) -> Estimate | None:
    """What `embed_items` would ask a server for, and what that would cost; None where no server is asked."""
    source = parse(model) if isinstance(model, str) else model
    if isinstance(source, Embeddings) or not source.remote:
        return None
    return estimate(source, prompts_of_items(data.text, template), _place(cache), "items")


def estimate_users(
    train: Histories,
    items_text: pl.DataFrame,
    model: str | Source,
    template: str = "user",
    cache: str | Path | None = None,
) -> Estimate | None:
    """The same for `embed_users`."""
    source = parse(model) if isinstance(model, str) else model
    if isinstance(source, Embeddings) or not source.remote:
        return None
    return estimate(source, prompts_of_users(train, items_text, template, source.max_chars), _place(cache), "users")


def estimate_replies(model: str | Source, texts: int, tokens: int) -> Estimate | None:
    """The same for that many profiles, of that many tokens at most, that are still to be written."""
    source = parse(model) if isinstance(model, str) else model
    if isinstance(source, Embeddings) or not source.remote:
        return None
    dollars, requests = source.price * texts * tokens / 1e6, source.requests_for(texts, 0)
    return Estimate("users' profiles", source.model, texts, texts * tokens, requests, dollars)


def made_so(
    stored: Embeddings,
    data_hash: str,
    model: str | Source,
    template: str,
    kind: Literal["item", "user"],
    profiles: Writer | None = None,
) -> bool:
    """Whether `stored` is what embedding the data with that hash by this model and template would give.

    What was done to the vectors afterwards does not count here.
    """
    source, was = parse(model) if isinstance(model, str) else model, stored.provenance
    if isinstance(source, Embeddings):
        return was.identity == source.provenance.identity
    shape = read_template(template, kind).hash if profiles is None else profiles.hash
    return (was.data, was.identity, was.template_hash) == (data_hash, source.identity, shape)


def _embed(
    embedder: Embedder, prompts: Prompts, cache: str | Path | None, what: str, budget: float | None = None
) -> Floats:
    """(n + 1, E): zero in row 0 and where there is no prompt."""
    place = _place(cache)
    if budget is not None and embedder.price:
        within(budget, [estimate(embedder, prompts, place, what)])
    with working(f"embedding {what} with {embedder.model}", lambda: embedder.spent, budget) as report:
        made = embed_blocks(embedder, prompts, prompts.rows, place, report)
    if not prompts.has_text.any():
        raise EmbeddingError(
            f"none of the {prompts.rows:,} {what} has text; give an item table with titles, or fit a method without "
            "text, e.g. --method plain"
        )
    return made


def _place(cache: str | Path | None) -> Path:
    return Path(cache) if cache else default_cache()


def _provenance(embedder: Embedder, template: str, kind: Literal["item", "user"], prompts: Prompts) -> Provenance:
    shape = read_template(template, kind)
    return Provenance(
        spec=embedder.model,
        identity=embedder.identity,
        template=shape.name,
        template_version=shape.version,
        template_hash=shape.hash,
        texts=prompts.digest,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
