"""What a bundle is made of, and its files of arrays: items, users, and the way of new items."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from longtail import pipeline
from longtail.cases import as_table
from longtail.config import build
from longtail.data.groups import GroupsConfig, groups
from longtail.lists import title_column
from longtail.methods.base import TrainedMethod
from longtail.nn.served import Graphs
from longtail.recommender import Recommender
from longtail.serve import tables
from longtail.serve.arrays import Array, Ids
from longtail.serve.matrix import Floats, quantized
from longtail.text import ridge
from longtail.text.embeddings import Embeddings


class Vectors(NamedTuple):
    """Item vectors (I + 1, D), what of them comes of LLM embeddings (I + 1, D), and their columns if it is some."""

    whole: Floats
    share: Floats
    columns: tuple[int, int] | None


class Parts(NamedTuple):
    """A run, loaded, and what is wanted of it."""

    run: Path
    name: str
    model: Recommender
    method: TrainedMethod
    vectors: Vectors
    graphs: Graphs | None
    embeddings: Embeddings | None
    int8: bool
    users: bool


def vectors_of(method: TrainedMethod) -> Vectors:
    """The item vectors of a method, and which of them are semantic."""
    with torch.no_grad():
        whole = method.item_vectors().detach().float().cpu().numpy()
        view, share = method.semantic_view(), np.zeros_like(whole)
        if view is None:
            return Vectors(whole, share, (0, 0))
        own = view[0](None).float().cpu().numpy()
    stop = view[1] + own.shape[1]
    share[:, view[1] : stop] = own
    alike = np.array_equal(share[1:, view[1] : stop], whole[1:, view[1] : stop])
    return Vectors(whole, share, (view[1], stop) if alike else None)


def write_items(path: Path, parts: Parts) -> tuple[str, ...]:
    """Ids, titles, columns, counts, vectors and edges; the names of the columns."""
    model, vectors, graphs = parts.model, parts.vectors, parts.graphs
    known = model.catalogue()
    stored = pipeline.run_settings(parts.run).get("groups", {})
    by = groups(known.split, build(GroupsConfig, as_table(stored), f"{parts.run / 'run.json'}: groups"), known.text)
    title = title_column(known.text)
    names, arrays = tables.columns(known.text, title)
    arrays |= Ids.of(known.items.ids.cast(str)).arrays("ids")
    arrays |= tables.titles(known.text, title, known.items.ids).arrays("titles")
    arrays["counts"] = known.split.train.counts(known.split.items).astype(np.int32)
    arrays["head"] = by.head_items
    matrix = quantized(vectors.whole) if parts.int8 else None
    arrays["vectors"] = vectors.whole if matrix is None else matrix.values
    if matrix is not None and matrix.scales is not None:
        arrays["scales"] = matrix.scales
    if vectors.columns is None:
        arrays["share"] = vectors.share
    for kind, graph in (("text", graphs.text), ("order", graphs.order)) if graphs else ():
        arrays[f"{kind}.ids"], arrays[f"{kind}.weights"] = graph.ids.cpu().numpy(), graph.weights.cpu().numpy()
    _save(path, arrays)
    return names


def write_users(path: Path, parts: Parts) -> None:
    """Ids, histories and vectors."""
    model, method = parts.model, parts.method
    known = model.catalogue()
    everything = known.split.everything()
    u = method.user_vectors(everything, np.arange(everything.users + 1)).float().cpu().numpy()
    arrays: dict[str, Array] = {"items": everything.items.astype(np.int32), "offsets": everything.offsets}
    _save(path, arrays | {"vectors": ridge.units(u)} | Ids.of(known.users.ids.cast(str)).arrays("ids"))


def write_semantic(path: Path, parts: Parts, embeddings: Embeddings) -> None:
    """The map from LLM embeddings to item vectors, and what edges by text need."""
    model, method, vectors, graphs = parts.model, parts.method, parts.vectors, parts.graphs
    known = model.catalogue()
    matrix = embeddings.matrix(known.items, "items")
    counts = known.split.train.counts(known.split.items)[1:]
    view = method.semantic_view()
    made = ridge.fitted(matrix[1:], vectors.whole[1:] - vectors.share[1:], counts, full_length=view is None)
    if view is not None:
        weight, bias = (one.detach().float().cpu().numpy() for one in view[0].folded())
        columns = slice(view[1], view[1] + len(bias))
        made.weight[:, columns] += weight.T
        made.bias[columns] += bias
    arrays: dict[str, Array] = {"weight": made.weight, "bias": made.bias}
    if embeddings.transform is not None:
        arrays |= {f"transform.{name}": array for name, array in embeddings.transform.arrays.items()}
    if graphs is not None:
        rows = ridge.units(matrix)
        ids, weights = graphs.text.ids.cpu().numpy(), graphs.text.weights.cpu().numpy()
        arrays |= {"embeddings": rows, "floors": ridge.floors(rows, ids, weights)}
    _save(path, arrays)


def _save(path: Path, arrays: dict[str, Array]) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read
