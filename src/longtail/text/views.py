"""Several views of items as one semantic input: a text's vectors, an image's, a sound's, side by side."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from longtail.data.histories import BoolArray
from longtail.errors import EmbeddingError, some
from longtail.text.embeddings import Embeddings, Views
from longtail.text.vector_files import Floats


def join_views(first: Embeddings, *further: Embeddings) -> Embeddings:
    """(n, E_1 + E_2 + …) vectors of the ids of `first`, each view's of length 1, and marks of what an item lacks.

    Items that `further` embeddings have no vector for, or only one without text, lack that view. Its mean over the
    items that have it stands in, so that cosines and principal components see nothing odd there; what maps the vectors
    learns what to make of its absence (`nn.items.SemanticView`). An EmbeddingError if nobody has a view.
    """
    if not further:
        return first
    blocks, lacking = zip(*(_aligned(view, first) for view in (first, *further)), strict=True)
    marks: BoolArray = np.stack(lacking, axis=1)  # (n, V)
    described: BoolArray = np.logical_not(marks.all(axis=1))
    texts = hashlib.sha256("".join(view.provenance.texts for view in (first, *further)).encode())
    texts.update(np.packbits(marks).tobytes())
    provenance = first.provenance._replace(
        spec=" + ".join(view.provenance.spec for view in (first, *further)),
        identity=" + ".join(view.provenance.identity for view in (first, *further)),
        texts=texts.hexdigest(),
    )
    widths = tuple(view.width for view in (first, *further))
    vectors = np.concatenate(blocks, axis=1)
    views = Views(widths, marks.astype(np.float32))
    return replace(first, vectors=vectors, provenance=provenance, has_text=described, padded=None, views=views)


def _aligned(view: Embeddings, like: Embeddings) -> tuple[Floats, BoolArray]:
    """(n, E) unit vectors in the order of the ids of `like`, the mean where there is none, and (n,) where that is."""
    rows = view.rows(like.ids)  # 0 where unknown
    known = rows > 0
    known[known] = view.has_text[rows[known] - 1]
    if not known.any():
        raise EmbeddingError(
            f"{view.model} has a vector for none of the {len(like):,} items (such as "
            f"{some(like.ids.head(3).to_list())}); check that its ids are those of the items"
        )
    vectors = np.zeros((len(like), view.width), dtype=np.float32)
    found = view.vectors[rows[known] - 1]
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    vectors[known] = found / np.where(norms > 0, norms, 1)
    vectors[~known] = vectors[known].mean(axis=0, dtype=np.float64)
    return vectors, ~known
