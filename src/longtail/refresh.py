"""A finished run goes on with what came after it: new users, items and interactions, at a cost that is theirs."""

from __future__ import annotations

import json
import logging
import shlex
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longtail import pipeline, texts
from longtail.cases import as_table
from longtail.config import Value, build
from longtail.data.dataset import Dataset
from longtail.data.extension import Columns, Extension, extend
from longtail.data.histories import BoolArray, IntArray
from longtail.data.opening import DataConfig, open_data
from longtail.data.split import Split
from longtail.data.tables import Source
from longtail.errors import ConfigError, DataError, RunError
from longtail.files import file_hash, read_json, write_json
from longtail.methods.base import TrainedMethod
from longtail.model import ModelConfig
from longtail.pipeline import EMBEDDINGS, RunConfig
from longtail.recommender import Recommender, load
from longtail.text.embed import encoder_for, made_so
from longtail.text.embedders.lexical import FILE as ENCODER
from longtail.text.embeddings import Embeddings
from longtail.text.transform import FILE as TRANSFORM
from longtail.train.warm import UpdateConfig, Warm

log = logging.getLogger(__name__)
DATA, FACTS = "data", "update.json"  # in the folder of an updated run


class Base(NamedTuple):
    """The finished run: its folder, itself, the config, and its data with times, as they were split."""

    folder: Path
    model: Recommender
    config: RunConfig
    data: Dataset
    split: Split


def update(
    run: str | Path,
    interactions: Source,
    out: str | Path,
    items: Source | None = None,
    *,
    config: UpdateConfig | None = None,
    columns: Columns | None = None,
    resume: bool = False,
) -> Recommender:
    """The run `run` with later interactions, and new items, in an ordinary run folder `out`; `run` stays as it is.

    Old weights are kept by external id; vectors of new items begin at what their texts say; then come a few epochs on
    the new interactions and a share of the old ones. A method that is not trained is fitted again. Data and embeddings
    of old and new lie in `out`, which is all that the next update needs. An update that was cut goes on with `resume`,
    given the same tables.
    """
    config, out, started = config or UpdateConfig(), Path(out), time.perf_counter()
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists; choose another folder, or, if an update into it was cut, go on with --resume")
    base = _base(Path(run))
    more = extend(base.data, interactions, items, _columns(base.config.data, columns or Columns()))
    for note in more.data.notes[len(base.data.notes) :]:
        log.warning("%s", note)
    split = more.data.split(base.config.split)
    vectors, users = _vectors(base, more.data, split)
    trained = isinstance(base.model.method, TrainedMethod)
    warm = _warm(base, more, split, vectors, config) if trained else None
    more.data.save(out / DATA)
    for name, one in (("items", vectors), ("users", users)):
        if one is not None:
            one.save(out / DATA / EMBEDDINGS / name)
    data = DataConfig(interactions=str((out / DATA).resolve()))
    facts = base.config.model_copy(update={"data": data}).model_dump(mode="json")
    model = Recommender.of(build(ModelConfig, base.config.model_dump(include=set(ModelConfig.model_fields))))
    prepared = time.perf_counter() - started
    model.fit(split, items=vectors, users=users, run=out, resume=resume, facts=facts, warm=warm)
    if vectors is not None and vectors.transform is not None:
        vectors.transform.save(out / TRANSFORM)
    times = {"before training": prepared, "whole": time.perf_counter() - started}
    write_json(out / FACTS, {**_tables(interactions, items), **_facts(base, more, warm, config, times)})
    return model


def command(out: Path) -> str:
    """The command line of the update that wrote a run folder, as far as it tells."""
    facts = read_json(out / FACTS)
    if not isinstance(facts, dict) or not {"run", "interactions", "items", "config"} <= facts.keys():
        raise RunError(f"{out / FACTS} is not an update's; update again")
    words = ["longtail", "update", facts["run"], "--interactions", facts["interactions"] or "TABLE"]
    words += ["--items", facts["items"]] if facts["items"] else []
    changed = UpdateConfig(**facts["config"]).model_dump(mode="json", exclude_defaults=True)
    words += [word for key, value in changed.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return shlex.join([*words, "--out", str(out)])


def _tables(interactions: Source, items: Source | None) -> dict[str, Value]:
    """Where the new tables were, if they were files."""
    given = {"interactions": interactions, "items": items}
    return {name: str(one) if isinstance(one, (str, Path)) else None for name, one in given.items()}


def _base(run: Path) -> Base:
    """The run, if it can be updated; a LongtailError says why not, or what of it is missing."""
    model, settings = load(run), pipeline.run_settings(run)
    method, name = model.method, model.config.method.name
    if not settings:
        raise RunError(f"{run} was fitted from Python: no run.json says where its data are; fit it by a command")
    config = build(RunConfig, settings, str(run / "run.json"))
    if isinstance(method, TrainedMethod) and (fixed := method.fixed()):
        raise ConfigError(f"method {name!r} cannot be updated: new items cannot join {fixed}; fit again on all data")
    if isinstance(method, TrainedMethod) and method.stages > 1:
        raise ConfigError(f"method {name!r} is trained in {method.stages} stages and cannot go on; fit again")
    if config.split.scheme != "leave_one_out":
        raise ConfigError(
            f"split {config.split.scheme!r} of old and new data is another one than of the old, so that what it tests "
            "may have been trained on; fit again on all data"
        )
    if config.text.reviews.k or config.text.views:
        what = "text.reviews" if config.text.reviews.k else "text.views"
        raise ConfigError(f"{what}: an update knows texts that stay as they are, and no other views; fit again")
    if (run / DATA / "dataset.json").exists():  # an update wrote it, and the folder may have been moved since
        config = config.model_copy(update={"data": DataConfig(interactions=str(run / DATA))})
    data = open_data(config.data)
    if data.hash != model.catalogue().hash:
        raise DataError(f"{config.data.interactions} is not what {run} was fitted on: bring those tables, or fit again")
    return Base(run, model, config, data, data.split(config.split))


def _columns(stored: DataConfig, given: Columns) -> Columns:
    """Those that are given, else those of the run's own tables."""
    return Columns(*(own or getattr(stored, name) for name, own in given._asdict().items()))


def _vectors(base: Base, data: Dataset, split: Split) -> tuple[Embeddings | None, Embeddings | None]:
    """Embeddings of all items, of which the old ones stay, and of users if the method needs them.

    A method that needs none has them made if there are texts, because its new items begin there.
    """
    config, folder = base.config, Path(base.config.data.interactions) / EMBEDDINGS / "items"
    starts = isinstance(base.model.method, TrainedMethod) and len(data.items) > len(base.data.items)
    wants = config.method.needs_embeddings or config.method.needs_neighbors or config.method.needs_user_embeddings
    if not wants and not (starts and base.data.text.width):
        return None, None
    stored, encoder = _stored(base, folder), None
    if stored is None:
        stored = texts.embed(base.data, base.split, config.text, users=False)[0]
    elif (folder / ENCODER).is_file():
        encoder = f"lexical:{folder}"
    return texts.embed_more(stored, data, split, config.text, users=config.needs_user_embeddings, encoder=encoder)


def _stored(base: Base, folder: Path) -> Embeddings | None:
    """The vectors of the run's items beside its data, if they are those it was fitted with."""
    if not folder.is_dir():
        return None
    stored, text = Embeddings.load(folder), base.config.text
    if (base.folder / FACTS).exists():  # an update wrote them, in the space of the run before
        return stored
    steps = stored.transform.steps if stored.transform else ()
    model = encoder_for(text.models[0], base.data.text, text.item_template)
    same = steps == text.transform and made_so(stored, base.data.hash, model, text.item_template, "item")
    return stored if same else None


def _warm(base: Base, more: Extension, split: Split, vectors: Embeddings | None, config: UpdateConfig) -> Warm:
    """What training goes on from."""
    method, old = base.model.method, base.split
    assert method is not None and old.trains is not None and split.trains is not None
    before = np.concatenate([old.trains, np.zeros(len(more.origin) - more.known, np.bool_)])[more.origin]
    counts = np.zeros(len(more.data.items) + 1, np.int64)
    counts[more.items] = old.train.counts(old.items)
    known, training = file_hash(base.folder / "model.safetensors"), base.config.train
    smoothed = training is not None and training.smoothing > 0  # which is of a softmax over all items
    return Warm(
        state=method.state_dict(),
        items=more.items,
        counts=counts,
        max_len=method.sizes.max_len,
        new=(~before)[split.trains],
        validated=split.select(_validating(more, split, before, config.validated, base.config.seed)),
        cold=bool((more.data.histories().counts(len(more.data.items))[1:] == 0).any()) and not smoothed,
        vectors=None if vectors is None else vectors.matrix(more.data.items, "items"),
        config=config,
        identity=f"{known} {config.model_dump_json()}",
    )


def _validating(more: Extension, split: Split, before: BoolArray, share: float, seed: int) -> IntArray:
    """Users with news and a validation item that was not trained on before, and as many others, times `share`."""
    assert split.trains is not None
    owners = more.data.interactions["user"].to_numpy()
    touched, told = np.zeros(len(split.valid), np.bool_), np.zeros(len(split.valid), np.bool_)
    touched[owners[more.fresh]] = True
    told[owners[before & ~split.trains]] = True  # a short history trained whole, and now it validates
    asked = (split.valid > 0) & ~told
    with_news, others = np.flatnonzero(asked & touched), np.flatnonzero(asked & ~touched)
    n = min(round(share * len(with_news)), len(others)) if len(with_news) else min(1000, len(others))
    drawn = np.random.default_rng(seed).choice(others, n, replace=False)
    return np.sort(np.concatenate([with_news, drawn]))


def _facts(
    base: Base, more: Extension, warm: Warm | None, config: UpdateConfig, seconds: dict[str, float]
) -> dict[str, Value]:
    """What update.json says."""
    news: dict[str, Value] = {
        "interactions": int(more.fresh.sum()),
        "of users": int(more.data.interactions["user"].filter(more.fresh).n_unique()),
        "users": len(more.data.users) - len(base.data.users),
        "items": len(more.data.items) - len(base.data.items),
        "targets": 0 if warm is None else int(warm.new.sum()),
    }
    return {
        "run": str(base.folder.resolve()),
        "model": file_hash(base.folder / "model.safetensors"),
        "config": as_table(config.model_dump(mode="json")),
        "new": news,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
