"""User vectors without a prompt: means of the vectors of the items of each training history."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from longtail.data.histories import Histories
from longtail.data.ids import IdMap
from longtail.errors import DataError
from longtail.text.embeddings import Embeddings
from longtail.text.vector_files import Floats


def pool_users(
    train: Histories, items: Embeddings, catalogue: IdMap, users: IdMap, decay: float = 1.0, data_hash: str = ""
) -> Embeddings:
    """p_u = sum over the items j of u's training history of decay^age(j) e_j / |e_j|, over the sum of the weights.

    items: embeddings that cover the `catalogue`, the items 1..I of `train`; users: their external ids. decay: weight
    of an item for each one that came after it, from 0 (not included) to 1, the plain mean. Items without text say
    nothing. Users without any other item get zeros, which the search for similar users skips, and stand in
    `without_text`. data_hash: Dataset.hash, for the provenance. A DataError if `users` are not those of `train`.
    """
    if len(users) != train.users:
        raise DataError(f"{len(users):,} user ids for {train.users:,} histories; take both from one data set")
    vectors = items.matrix(catalogue)
    told = np.append(False, items.has_text[items.rows(catalogue.ids) - 1])  # (I + 1,)
    weights = (decay ** train.ages() * told[train.items]).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    scaled = weights / np.where(norms > 0, norms, 1.0)[train.items]
    shape = (len(train.lengths), len(vectors))
    totals = np.bincount(train.owners(), weights, minlength=shape[0])
    sums: Floats = csr_array((scaled, train.items, train.offsets), shape=shape) @ vectors  # (U + 1, E)
    means = (sums / np.where(totals > 0, totals, 1.0)[:, None]).astype(np.float32)
    source = items.provenance
    provenance = source._replace(identity=f"pooled decay={decay:g} of {source.identity}", data=data_hash)
    return Embeddings(means[1:], users.ids, provenance, totals[1:] > 0)
