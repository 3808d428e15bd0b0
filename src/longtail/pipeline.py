"""From files to a run folder: the main path that the command line and an experiment share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from longtail.cases import Cases, as_table, read_cases
from longtail.config import Config, Value, build, merge, override
from longtail.data import opening
from longtail.data.dataset import Dataset
from longtail.data.groups import GroupsConfig
from longtail.data.opening import DataConfig, open_data
from longtail.data.split import Split, SplitConfig
from longtail.errors import ConfigError, DataError, LongtailError, RunError, some
from longtail.evaluation.protocol import ProtocolConfig
from longtail.evaluation.report import Report, evaluate
from longtail.files import read_json
from longtail.model import TRAINING, ModelConfig, is_trained, name_of
from longtail.nn.items import FloatArray
from longtail.recommender import Recommender, load
from longtail.registry import nearest
from longtail.text import handled
from longtail.text.embed import embed_items, embed_users, encoder_for, made_so
from longtail.text.embeddings import Embeddings
from longtail.text.media import ViewConfig, embed_view
from longtail.text.pooled import pool_users
from longtail.text.reviews import ReviewsConfig, with_reviews
from longtail.text.transform import FILE, parse_step
from longtail.text.views import join_views

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


class TextConfig(Config):
    """How texts become vectors."""

    model: str = "minilm"
    """The text encoder: minilm, lexical, m2v:NAME, st:NAME, hf:NAME, or file:PATH with vectors made elsewhere."""
    user_model: str | None = None
    """The encoder of users, if it is another one; with file:PATH vectors of items, give those of users here."""
    item_template: str = "generic"
    """The prompt made of an item's row."""
    user_template: str = "user"
    """The prompt made of a user's training history."""
    reviews: ReviewsConfig = ReviewsConfig()
    """What users wrote of an item in training, in its prompt."""
    users: Literal["prompts", "pooled"] = "prompts"
    """Vectors of users: of their prompts, or means of the vectors of their training items, which cost nothing."""
    pool_decay: float = Field(default=1.0, gt=0, le=1)
    """For pooled users: weight of an item for each one that came after it; 1 is the plain mean."""

    views: tuple[ViewConfig, ...] = ()
    """Further views of the items, such as images and sounds, joined with their texts for methods that read those."""

    @model_validator(mode="after")
    def _decay_is_of_pooled_users(self) -> Self:
        if self.users == "prompts" and self.pool_decay != 1.0:
            raise ValueError(f"text.pool_decay = {self.pool_decay:g} is read for text.users = 'pooled'; set both")
        return self

    transform: tuple[str, ...] = ()
    """Steps fitted on the items' vectors, e.g. ["center", "l2"]; users' vectors of the same model get them too."""

    @field_validator("transform")
    @classmethod
    def _known_steps(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        for step in steps:
            parse_step(step)
        return steps

    @property
    def shared(self) -> bool:
        """Whether items and users are embedded by the same model."""
        return self.user_model in {None, self.model}


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
    at = opening.place(config)
    given = [at.path, *(Path(given) for given in (config.items, config.raw) if given)]
    if any(out.resolve() in (path.resolve(), path.resolve().parent) for path in given):
        raise DataError(f"--out {out} is where the tables themselves are; choose another folder")
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


def embed(data: Dataset, split: Split, config: TextConfig, users: bool = True) -> tuple[Embeddings, Embeddings | None]:
    """Embeddings of the items' texts and, if wanted, of the users' training histories, through the cache."""
    told = with_reviews(data, split, config.reviews, config.item_template)
    items = embed_items(told, config.model, config.item_template, transform=config.transform)
    return items, _users(data, told, split, config, items) if users else None


def _users(data: Dataset, told: Dataset, split: Split, config: TextConfig, items: Embeddings) -> Embeddings:
    """Those of users: of their prompts, or pooled from `items`. told: `data` with what users wrote in its texts."""
    trained_on = _trained_on(data, split)
    if config.users == "pooled":
        return pool_users(split.train, items, data.items, data.users, config.pool_decay, trained_on)
    return embed_users(
        split.train,
        told.text,
        data.users,
        config.user_model or config.model,
        config.user_template,
        data_hash=trained_on,
        transform=items.transform if config.shared else None,
        item_template=config.item_template,
    )


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
        items, users = Embeddings.load(folder / "items"), Embeddings.load(folder / "users")
        told = with_reviews(data, split, text.reviews, text.item_template)
        models = [
            encoder_for(name, told.text, text.item_template) for name in (text.model, text.user_model or text.model)
        ]
        same_steps = text.transform == (items.transform.steps if items.transform else ())
        if same_steps and made_so(items, told.hash, models[0], text.item_template, "item"):
            if text.users == "pooled":
                return items, _users(data, told, split, text, items)
            same_space = users.provenance.transform == (items.provenance.transform if text.shared else "")
            if same_space and made_so(users, _trained_on(data, split), models[1], text.user_template, "user"):
                return items, users
        log.warning("the embeddings in %s are of other data, splits, prompts or models; embedding again", folder)
    return embed(data, split, text, users=config.needs_user_embeddings)


def _trained_on(data: Dataset, split: Split) -> str:
    """For the provenance of users' vectors: vectors of another split's training histories may know the targets."""
    return f"{data.hash} {split.scheme}" if split.contexts else data.hash


def fit(config: RunConfig, out: Path, *, resume: bool = False) -> Recommender:
    """Data, texts, similar users, training: the whole main path into the run folder `out`."""
    data = open_data(config.data)
    split = data.split(config.split)
    items, users = knowledge(config, data, split)
    model = Recommender.of(build(ModelConfig, config.model_dump(include=set(ModelConfig.model_fields))))
    model.fit(split, items=items, users=users, run=out, resume=resume, facts=config.model_dump(mode="json"))
    if items is not None and items.transform is not None:
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
    vectors = _item_vectors(model, stored, run) if protocol.lists else None
    made = evaluate(model, model.split, name=name, protocol=protocol, by=by, vectors=vectors)
    made.save(run)
    return made


def _item_vectors(model: Recommender, stored: Mapping[str, Value], run: Path) -> FloatArray | None:
    """(I + 1, E) for the diversity of lists: from beside the run's prepared tables, or made now, through the cache.

    None for a model that was fitted in Python, and, with a warning, where they cannot be made.
    """
    data = as_table(stored.get("data", {}))
    folder = Path(str(data.get("interactions", ""))) / EMBEDDINGS / "items"
    if folder.is_dir():
        return Embeddings.load(folder).matrix(model.catalogue().items, "items")
    if not data:
        return None
    try:
        text = build(TextConfig, as_table(stored.get("text", {})), f"{run / 'run.json'}: text")
        tables = open_data(build(DataConfig, data, f"{run / 'run.json'}: data"))
        split = tables.split(build(SplitConfig, as_table(stored.get("split", {}))))
        made, _ = embed(tables, split, text, users=False)
        return made.matrix(model.catalogue().items, "items")
    except LongtailError as error:
        log.warning("lists are evaluated without their diversity, for want of vectors of the items: %s", error)
        return None


def run_settings(run: Path) -> dict[str, Value]:
    """The RunConfig a run was made with, as stored in its run.json; empty for a model saved by hand."""
    stored = read_json(run / "run.json") if (run / "run.json").exists() else {}
    if not isinstance(stored, dict):
        raise RunError(f"{run / 'run.json'} is not a run's config; fit again")
    return stored
