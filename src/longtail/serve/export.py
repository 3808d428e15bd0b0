"""From a run folder to a bundle: what an answer needs, and nothing that trains."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnxruntime
import torch
from pydantic import JsonValue
from safetensors.numpy import save_file

from longtail import __version__, pipeline
from longtail.cases import as_table
from longtail.config import build
from longtail.data.groups import GroupsConfig, groups
from longtail.errors import BundleError, LongtailError
from longtail.evaluation.stored import read_facts
from longtail.files import file_hash, read_json, write_json
from longtail.methods.base import TrainedMethod
from longtail.nn.served import Graphs
from longtail.recommender import Recommender, load, title_column
from longtail.serve import fold, tables
from longtail.serve.arrays import Array, Ids
from longtail.serve.bundle import open_bundle
from longtail.serve.manifest import (
    ENCODER,
    FORMAT,
    ITEMS,
    MANIFEST,
    NAME,
    SEMANTIC,
    USERS,
    GraphFacts,
    Manifest,
    TextFacts,
    facts_of,
)
from longtail.serve.matrix import Floats, quantized
from longtail.serve.padded import to_onnx
from longtail.serve.parity import parity
from longtail.serve.runtime import Runtime
from longtail.text.embeddings import Embeddings

log = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of a score, between bundle and model, relative to the largest score
LEAST = {False: 0.999, True: 0.9}  # overlap of the first ten, float32 and int8, below which nothing is written
SHOWN = ("hr@10", "ndcg@10")
GROUPS = ("all", "tail_items", "head_items", "tail_users", "head_users")


class Vectors(NamedTuple):
    """Item vectors (I + 1, D), what of them comes of LLM embeddings (I + 1, D), and their columns if it is some."""

    whole: Floats
    share: Floats
    columns: tuple[int, int] | None


def export(
    run: Path,
    out: Path,
    *,
    items: Embeddings | None = None,
    int8: bool = False,
    users: bool = True,
    name: str | None = None,
    replace: bool = False,
) -> Manifest:
    """Write the bundle of a run folder, compare it with the model, and only then give it its name.

    items: embeddings of the items' texts, for new items; those that the run was trained with if not given. int8: item
    vectors in a quarter of the memory. users: known histories too. replace: an older bundle may stand there.
    """
    name = name or (run.resolve().name if NAME.fullmatch(run.resolve().name) else "bundle")
    if not NAME.fullmatch(name):
        raise BundleError(f"a bundle cannot be called {name!r}; use letters, digits, '.', '_' and '-'")
    if out.exists() and not (replace and (out / MANIFEST).is_file()):
        hint = "pass --replace to put the new one in its place" if (out / MANIFEST).is_file() else "choose another"
        raise BundleError(f"{out} exists; {hint}")
    model = load(run)
    method = model.method
    if not isinstance(method, TrainedMethod):
        raise BundleError(
            f"{run} holds method {model.config.method.name!r}, which has no encoder to export: a bundle is of a "
            "trained method, such as longtail or llmesr"
        )
    embeddings = items or pipeline.item_embeddings(model, run)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    made.mkdir()
    try:
        manifest = _write(made, run, name, model, method.eval(), embeddings, int8=int8, users=users)
        _sync(made)
        _rename(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _write(
    made: Path, run: Path, name: str, model: Recommender, method: TrainedMethod, embeddings: Embeddings | None,
    *, int8: bool, users: bool,
) -> Manifest:  # fmt: skip
    vectors, graphs = _vectors(method), method.graphs()
    (made / ENCODER).write_bytes(to_onnx(method, vectors.whole.shape[1]))
    columns = _write_items(made / ITEMS, run, model, vectors, graphs, int8=int8)
    if users:
        _write_users(made / USERS, model, method)
    matrix = None if embeddings is None else embeddings.matrix(model.catalogue().items, "items")
    if matrix is not None:
        _write_semantic(made / SEMANTIC, model, method, vectors, graphs, matrix, embeddings)
    manifest = _manifest(run, name, model, method, vectors, graphs, embeddings, columns, int8=int8, users=users)
    manifest = _listed(made, manifest)
    found = parity(model, Runtime(open_bundle(made)))
    if found.overlap < LEAST[int8] or (
        not int8 and not found.largest < TOLERANCE * max(np.abs(vectors.whole).max(), 1)
    ):
        raise BundleError(
            f"the bundle of {run} does not answer as its model: {found.overlap:.4f} of the first {found.k} items are "
            f"the same, and scores differ by up to {found.largest:.2g}; nothing was written"
        )
    return _listed(made, manifest.model_copy(update={"parity": found}))


def _vectors(method: TrainedMethod) -> Vectors:
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


def _write_items(
    path: Path, run: Path, model: Recommender, vectors: Vectors, graphs: Graphs | None, *, int8: bool
) -> tuple[str, ...]:
    known = model.catalogue()
    stored = pipeline.run_settings(run).get("groups", {})
    by = groups(known.split, build(GroupsConfig, as_table(stored), f"{run / 'run.json'}: groups"), known.text)
    title = title_column(known.text)
    names, arrays = tables.columns(known.text, title)
    arrays |= Ids.of(known.items.ids.cast(str)).arrays("ids")
    arrays |= tables.titles(known.text, title, known.items.ids).arrays("titles")
    arrays["counts"] = known.split.train.counts(known.split.items).astype(np.int32)
    arrays["head"] = by.head_items
    matrix = quantized(vectors.whole) if int8 else None
    arrays["vectors"] = vectors.whole if matrix is None else matrix.values
    if matrix is not None and matrix.scales is not None:
        arrays["scales"] = matrix.scales
    if vectors.columns is None:
        arrays["share"] = vectors.share
    for kind, graph in (("text", graphs.text), ("order", graphs.order)) if graphs else ():
        arrays[f"{kind}.ids"], arrays[f"{kind}.weights"] = graph.ids.cpu().numpy(), graph.weights.cpu().numpy()
    _save(path, arrays)
    return names


def _write_users(path: Path, model: Recommender, method: TrainedMethod) -> None:
    known = model.catalogue()
    everything = known.split.everything()
    u = method.user_vectors(everything, np.arange(everything.users + 1)).float().cpu().numpy()
    arrays: dict[str, Array] = {"items": everything.items.astype(np.int32), "offsets": everything.offsets}
    _save(path, arrays | {"vectors": fold.units(u)} | Ids.of(known.users.ids.cast(str)).arrays("ids"))


def _write_semantic(
    path: Path, model: Recommender, method: TrainedMethod, vectors: Vectors, graphs: Graphs | None,
    matrix: Floats, embeddings: Embeddings | None,
) -> None:  # fmt: skip
    known = model.catalogue()
    counts = known.split.train.counts(known.split.items)[1:]
    made = fold.fitted(matrix[1:], vectors.whole[1:] - vectors.share[1:], counts)
    view = method.semantic_view()
    if view is not None:
        weight, bias = (one.detach().float().cpu().numpy() for one in view[0].folded())
        columns = slice(view[1], view[1] + len(bias))
        made.weight[:, columns] += weight.T
        made.bias[columns] += bias
    arrays: dict[str, Array] = {"weight": made.weight, "bias": made.bias}
    if embeddings is not None and embeddings.transform is not None:
        arrays |= {f"transform.{name}": array for name, array in embeddings.transform.arrays.items()}
    if graphs is not None:
        rows = fold.units(matrix)
        ids, weights = graphs.text.ids.cpu().numpy(), graphs.text.weights.cpu().numpy()
        arrays |= {"embeddings": rows, "floors": fold.floors(rows, ids, weights)}
    _save(path, arrays)


def _manifest(
    run: Path, name: str, model: Recommender, method: TrainedMethod, vectors: Vectors, graphs: Graphs | None,
    embeddings: Embeddings | None, columns: tuple[str, ...], *, int8: bool, users: bool,
) -> Manifest:  # fmt: skip
    known, facts = model.catalogue(), read_facts(run)
    versions = {"longtail": __version__, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    edges = None
    if graphs is not None:
        edges = GraphFacts(text=graphs.gamma[0], order=graphs.gamma[1], decay=graphs.decay, recent=graphs.recent)
    text = None
    if embeddings is not None:
        was, steps = embeddings.provenance, embeddings.transform.steps if embeddings.transform else ()
        hashed, before = was.template_hash, embeddings.width
        text = TextFacts(
            spec=was.spec, identity=was.identity, template=was.template, template_hash=hashed, width=before,
            transform=steps,
        )  # fmt: skip
    return Manifest(
        format=FORMAT,
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={**versions, "python": platform.python_version()},
        data={"name": known.name, "hash": known.hash, "run": file_hash(run / "config.json")},
        method=model.config.method.name,
        backbone=str(model.facts()["backbone"]),
        items=known.split.items,
        users=len(known.users) if users else 0,
        D=vectors.whole.shape[1],
        max_len=method.sizes.max_len,
        cloze=method.backbone.objective == "cloze",
        int8=int8,
        semantic=vectors.columns,
        graphs=edges,
        dial=None if method.dial is None else float(method.dial),
        text=text,
        columns=columns,
        config=cast("dict[str, JsonValue]", facts["config"]),
        metrics=_metrics(run),
        parity=None,
        files={},
    )


def _metrics(run: Path) -> dict[str, float]:
    """HR and NDCG at 10 on test, overall and by group, where the run was evaluated: "ndcg@10 tail_items"."""
    if not (run / "metrics.json").exists():
        return {}
    figures = cast("dict[str, list[dict[str, JsonValue]]]", read_json(run / "metrics.json")).get("figures", [])
    return {
        f"{row['metric']} {row['group']}": float(cast(float, row["value"]))
        for row in figures
        if row["protocol"] == "full" and row["split"] == "test" and row["metric"] in SHOWN and row["group"] in GROUPS
        and row["value"] is not None
    }  # fmt: skip


def _listed(made: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the files that are there."""
    files = {path.name: facts_of(path) for path in sorted(made.iterdir()) if path.name != MANIFEST}
    manifest = manifest.model_copy(update={"files": files})
    write_json(made / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _save(path: Path, arrays: dict[str, Array]) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read


def _sync(folder: Path) -> None:
    """On the disk before it has its name."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(made: Path, out: Path) -> None:
    """Put the new bundle in the place of an older one, if there is one."""
    try:
        aside = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old.partial")
        if out.exists():
            out.rename(aside)
        made.rename(out)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise LongtailError(f"cannot put the bundle at {out} ({error}); check the folder and its permissions") from None
