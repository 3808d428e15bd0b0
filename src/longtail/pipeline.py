"""From files to a run folder: the main path that the command line and an experiment share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from longtail import texts
from longtail.cases import Cases, as_table, read_cases
from longtail.config import Config, Value, build, merge, override
from longtail.data import opening, streaming
from longtail.data.dataset import Dataset
from longtail.data.groups import GroupsConfig
from longtail.data.opening import DataConfig, open_data
from longtail.data.split import Split, SplitConfig
from longtail.data.streaming import Prepared
from longtail.errors import ConfigError, DataError, LongtailError, RunError, some
from longtail.evaluation.protocol import ProtocolConfig
from longtail.evaluation.report import Report, evaluate
from longtail.files import read_json
from longtail.model import TRAINING, ModelConfig, is_trained, name_of
from longtail.recommender import Recommender, load
from longtail.registry import nearest
from longtail.text import handled
from longtail.text.embeddings import Embeddings
from longtail.text.media import embed_view
from longtail.text.transform import FILE
from longtail.text.views import join_views
from longtail.texts import TextConfig
from longtail.train.distributed import leader_first, leads

log = logging.getLogger(__name__)
EMBEDDINGS = "embeddings"  # the folder beside prepared tables that `longtail embed` writes
PRESET = "longtail"  # where none is named
PRESETS: dict[str, dict[str, Value]] = {  # what a file and settings are laid over
    "longtail": {"method": {"name": "longtail"}},
    "llmesr": {"method": {"name": "llmesr"}},  # the paper, corrected: its settings are the fields' defaults
    "llmesr-released": {  # as its released code behaves (docs/fidelity.md)
        "method": {"name": "llmesr", "fusion_causal": False, "drop_last": True},
        "backbone": {"name": "sasrec", "causal": False, "pads": "attended", "start": "xavier"},
        "groups": {"counted": "released"},
    },
}


class EmbedConfig(Config):
    """What can be set when embedding prepared tables."""

    text: TextConfig = TextConfig()
    """Prompts and text encoder."""
    split: SplitConfig = SplitConfig()
    """Whose training histories are embedded."""


class RunConfig(ModelConfig):
    """Everything a run is made of; the TOML file's tables are its fields."""

    data: DataConfig
    """Tables and filters."""
    text: TextConfig = TextConfig()
    """Prompts and text encoder."""
    split: SplitConfig = SplitConfig()
    """What is held out of training."""
    groups: GroupsConfig = GroupsConfig()
    """Head and tail."""
    protocol: ProtocolConfig = ProtocolConfig()
    """How targets are ranked."""


def run_config(
    path: Path | None,
    settings: Iterable[str] = (),
    case: str | None = None,
    values: Mapping[str, Value] | None = None,
    preset: str = PRESET,
) -> RunConfig:
    """The resolved config: defaults < preset < file (or `values`) < its case < `key=value` settings."""
    cases = read_cases(path) if path else Cases(dict(values or {}), {}, [], {})
    return resolve(cases, path, settings, case, preset)


def resolve(
    cases: Cases, path: Path | None, settings: Iterable[str] = (), case: str | None = None, preset: str = PRESET
) -> RunConfig:
    """The same from the cases read from `path`.

    A file's backbone and training are for the cases that are trained: the others go without them.
    """
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}{nearest(preset, PRESETS)}; there are: {', '.join(PRESETS)}")
    merged, where = merge(PRESETS[preset], cases.base), str(path) if path else ""
    if case is not None:
        if case not in cases.cases:
            raise ConfigError(f"{path} has no case {case!r}{nearest(case, cases.cases)}; it has: {some(cases.cases)}")
        merged, where = merge(merged, cases.cases[case]), f"{path}, case {case}"
    settings = list(settings)
    if not is_trained(name_of(override(merged, settings)["method"])):
        merged = {key: value for key, value in merged.items() if key not in TRAINING}
    merged = override(merged, settings)
    if "data" not in merged:
        cased = f", or --case with one of {some(cases.cases)}" if cases.cases and case is None else ""
        given = "--data (a table, a prepared folder or bundled:online_retail) or a config file"
        raise ConfigError(f"no data: give {given}{cased}")
    return build(RunConfig, merged, where)


def prepare(config: DataConfig, out: Path) -> Dataset:
    """Read and filter into the folder `out`; a DataError if that would overwrite what is read.

    Of a folder of LLM-ESR's authors the vectors are kept too, where `longtail embed` would write them.
    """
    at = _apart(config, out)
    whole = opening.read(config)
    data = opening.filtered(whole, config)
    if at.source != handled.SOURCE:
        data.save(out)
        return data
    items, users = handled.read_vectors(at.path if at.path.is_dir() else at.path.parent, whole)
    kept = out / EMBEDDINGS
    note = f"the vectors are kept too: text.model = 'file:{kept / 'items'}', text.user_model = 'file:{kept / 'users'}'"
    data = replace(data, notes=(*data.notes, note))
    data.save(out)
    items.subset(data.items).save(kept / "items")
    users.subset(data.users, "users").save(kept / "users")
    return data


def prepare_within(config: DataConfig, out: Path, memory: int | None = None) -> Prepared:
    """The same folder, made a part at a time within so many bytes of memory; without a bound, if it is needed.

    A DataError if a bound is given and the data is no table in a file, or its ids alone take more.
    """
    at = _apart(config, out)
    if memory is None:
        memory = streaming.bound(config) if opening.is_file(at) else None
    elif not opening.is_file(at):
        raise DataError(f"{config.interactions} is read whole; --memory is for a table in a file, leave it out")
    if memory is not None:
        return streaming.prepare(config, out, memory)
    data = prepare(config, out)
    return Prepared(data.name, data.notes, data.describe())


def _apart(config: DataConfig, out: Path) -> opening.Place:
    """Where the data is; a DataError if `out` is there too."""
    at = opening.place(config)
    given = [at.path, *(Path(given) for given in (config.items, config.raw) if given)]
    if any(out.resolve() in (path.resolve(), path.resolve().parent) for path in given):
        raise DataError(f"--out {out} is where the tables themselves are; choose another folder")
    return at


def knowledge(config: RunConfig, data: Dataset, split: Split) -> tuple[Embeddings | None, Embeddings | None]:
    """The embeddings a method needs: those of texts, items with their further views joined to them."""
    items, users = _of_texts(config, data, split)
    return items and join_views(items, *(embed_view(data, view) for view in config.text.views)), users


def _of_texts(config: RunConfig, data: Dataset, split: Split) -> tuple[Embeddings | None, Embeddings | None]:
    """From the prepared folder if it has just those, else made now."""
    wants = config.method
    if not wants.needs_embeddings and not wants.needs_neighbors and not wants.needs_user_embeddings:
        return None, None
    folder, text = Path(config.data.interactions) / EMBEDDINGS, config.text
    if (folder / "items").is_dir() and (folder / "users").is_dir():
        stored = Embeddings.load(folder / "items"), Embeddings.load(folder / "users")
        if (kept := texts.those_of(stored, data, split, text)) is not None:
            return kept
        log.warning("the embeddings in %s are of other data, splits, prompts or models; embedding again", folder)
    return texts.embed(data, split, text, users=config.needs_user_embeddings)


def fit(config: RunConfig, out: Path, *, resume: bool = False) -> Recommender:
    """Data, texts, similar users, training: the whole main path into the run folder `out`."""
    data = open_data(config.data)
    split = data.split(config.split)
    with leader_first():  # who pays for embeddings; the others have them from the cache
        items, users = knowledge(config, data, split)
    model = Recommender.of(build(ModelConfig, config.model_dump(include=set(ModelConfig.model_fields))))
    model.fit(split, items=items, users=users, run=out, resume=resume, facts=config.model_dump(mode="json"))
    if items is not None and items.transform is not None and leads():
        items.transform.save(out / FILE)
    return model


def report(run: Path, name: str = "test", settings: Iterable[str] = ()) -> Report:
    """Evaluate a run and save the report in it; protocol and groups as configured, unless `settings` override them."""
    model, stored = load(run), run_settings(run)
    chosen = override({key: stored.get(key, {}) for key in ("protocol", "groups")}, settings)
    if unknown := chosen.keys() - {"protocol", "groups"}:
        raise ConfigError(f"{sorted(unknown)[0]!r} cannot be set when evaluating; only protocol.* and groups.* can")
    protocol = build(ProtocolConfig, as_table(chosen["protocol"]), "protocol")
    by = build(GroupsConfig, as_table(chosen["groups"]), "groups")
    made = item_embeddings(model, run) if protocol.lists else None
    if protocol.lists and made is None and stored.get("data"):
        log.warning("lists are evaluated without their diversity")
    vectors = None if made is None else made.matrix(model.catalogue().items, "items")
    found = evaluate(model, model.split, name=name, protocol=protocol, by=by, vectors=vectors)
    found.save(run)
    return found


def item_embeddings(model: Recommender, run: Path) -> Embeddings | None:
    """Those of the items of a run: from beside its prepared tables, or made now, through the cache.

    None for a model that was fitted in Python, and, with a warning, where they cannot be made.
    """
    stored = run_settings(run)
    data = as_table(stored.get("data", {}))
    folder = Path(str(data.get("interactions", ""))) / EMBEDDINGS / "items"
    try:
        if folder.is_dir():
            return Embeddings.load(folder)
        if not data:
            return None
        text = build(TextConfig, as_table(stored.get("text", {})), f"{run / 'run.json'}: text")
        tables = open_data(build(DataConfig, data, f"{run / 'run.json'}: data"))
        split = tables.split(build(SplitConfig, as_table(stored.get("split", {}))))
        return texts.embed(tables, split, text, users=False)[0]
    except LongtailError as error:
        log.warning("vectors of the items of %s cannot be had: %s", run, error)
        return None


def run_settings(run: Path) -> dict[str, Value]:
    """The RunConfig a run was made with, as stored in its run.json; empty for a model saved by hand."""
    stored = read_json(run / "run.json") if (run / "run.json").exists() else {}
    if not isinstance(stored, dict):
        raise RunError(f"{run / 'run.json'} is not a run's config; fit again")
    return stored
