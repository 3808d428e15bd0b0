"""From a run folder to a bundle: what an answer needs, and nothing that trains."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch
from pydantic import JsonValue

from longtail import __version__, pipeline
from longtail.errors import BundleError, LongtailError
from longtail.evaluation.stored import read_facts
from longtail.files import file_hash, read_json, write_json
from longtail.lists import title_column
from longtail.methods.base import TrainedMethod
from longtail.recommender import load
from longtail.serve import ann
from longtail.serve.bundle import open_bundle
from longtail.serve.manifest import (
    ENCODER,
    FORMAT,
    INDEX,
    ITEMS,
    MANIFEST,
    NAME,
    SEMANTIC,
    USERS,
    GraphFacts,
    IndexFacts,
    Manifest,
    TextFacts,
    facts_of,
)
from longtail.serve.padded import to_onnx
from longtail.serve.parity import USERS as USERS_COMPARED
from longtail.serve.parity import parity, sample
from longtail.serve.parts import Parts, vectors_of, write_items, write_semantic, write_users
from longtail.serve.runtime import Runtime
from longtail.text.embeddings import Embeddings

log = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of a score, between bundle and model, relative to the largest score
LEAST = {False: 0.999, True: 0.9}  # overlap of the first ten, float32 and int8, below which nothing is written
SHOWN = ("hr@10", "ndcg@10")
GROUPS = ("all", "tail_items", "head_items", "tail_users", "head_users")


def export(
    run: Path,
    out: Path,
    *,
    items: Embeddings | None = None,
    int8: bool = False,
    users: bool = True,
    name: str | None = None,
    index: bool | None = None,
    replace: bool = False,
    compare: int = USERS_COMPARED,
) -> Manifest:
    """Write the bundle of a run folder, compare it with the model, and only then give it its name.

    items: embeddings of the items' texts, for new items; those that the run was trained with if not given. int8: item
    vectors in a quarter of the memory. users: known histories too. index: whether it has one, by which many items are
    answered from faster; if not given, from a million items on, where it finds enough. replace: an older bundle may
    stand there. compare: users whose lists are compared with the model's.
    """
    name = name or (run.resolve().name if NAME.fullmatch(run.resolve().name) else "bundle")
    if not NAME.fullmatch(name):
        raise BundleError(f"a bundle cannot be called {name!r}; use letters, digits, '.', '_' and '-'")
    if out.exists() and not (replace and (out / MANIFEST).is_file()):
        hint = "pass --replace to put the new one in its place" if (out / MANIFEST).is_file() else "choose another"
        raise BundleError(f"{out} exists; {hint}")
    if index:
        ann.need()
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
        vectors, graphs = vectors_of(method.eval()), method.graphs()
        parts = Parts(run, name, model, method, vectors, graphs, embeddings, int8, users)
        manifest = _write(made, parts, index, compare)
        _sync(made)
        _rename(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _write(made: Path, parts: Parts, index: bool | None, compare: int) -> Manifest:
    (made / ENCODER).write_bytes(to_onnx(parts.method, parts.vectors.whole.shape[1]))
    columns = write_items(made / ITEMS, parts)
    if parts.users:
        write_users(made / USERS, parts)
    if parts.embeddings is not None:
        write_semantic(made / SEMANTIC, parts, parts.embeddings)
    manifest = _listed(made, _manifest(parts, columns))
    runtime = Runtime(open_bundle(made))
    found = parity(parts.model, runtime, compare)
    largest = TOLERANCE * max(float(np.abs(parts.vectors.whole).max()), 1.0)
    if found.overlap < LEAST[parts.int8] or (not parts.int8 and not found.largest < largest):
        raise BundleError(
            f"the bundle of {parts.run} does not answer as its model: {found.overlap:.4f} of the first {found.k} items "
            f"are the same, and scores differ by up to {found.largest:.2g}; nothing was written"
        )
    indexed = _indexed(runtime, parts, index)
    return _listed(made, manifest.model_copy(update={"parity": found, "index": indexed}))


def _indexed(runtime: Runtime, parts: Parts, asked: bool | None) -> IndexFacts | None:
    """The index that the bundle got: the one asked for, or, where nothing was said, of many items if it is good."""
    if asked is False or (asked is None and runtime.facts.items < ann.MANY):
        return None
    try:
        return ann.write(runtime, sample(parts.model), torch.get_num_threads())
    except BundleError as error:
        if asked:
            raise
        log.warning("the bundle has no index, and an answer scores all items: %s", error)
        (runtime.bundle.folder / INDEX).unlink(missing_ok=True)
        return None


def _manifest(parts: Parts, columns: tuple[str, ...]) -> Manifest:
    run, model, method, graphs, embeddings = parts.run, parts.model, parts.method, parts.graphs, parts.embeddings
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
            transform=steps, title=title_column(known.text) or "title", columns=tuple(known.text.columns),
        )  # fmt: skip
    return Manifest(
        format=FORMAT,
        name=parts.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={**versions, "python": platform.python_version()},
        data={"name": known.name, "hash": known.hash, "run": file_hash(run / "config.json")},
        method=model.config.method.name,
        backbone=str(model.facts()["backbone"]),
        items=known.split.items,
        users=len(known.users) if parts.users else 0,
        D=parts.vectors.whole.shape[1],
        max_len=method.sizes.max_len,
        cloze=method.backbone.objective == "cloze",
        int8=parts.int8,
        semantic=parts.vectors.columns,
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
