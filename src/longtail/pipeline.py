"""From files to a run folder: the main path that the command line and an experiment share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import NonNegativeInt

from longtail.config import Config, Value, build, merge, override, read_toml
from longtail.data.dataset import Dataset
from longtail.data.groups import GroupsConfig
from longtail.data.split import Split
from longtail.errors import ConfigError, RunError
from longtail.evaluation.protocol import ProtocolConfig
from longtail.evaluation.report import Report, evaluate
from longtail.files import read_json, write_json
from longtail.recommender import ModelConfig, Recommender, load
from longtail.registry import nearest
from longtail.text.embed import embed_items, embed_users
from longtail.text.embeddings import Embeddings

BUNDLED = "bundled:"
EMBEDDINGS = "embeddings"  # the folder beside prepared tables that `longtail embed` writes
DEFAULTS: dict[str, Value] = {"method": {"name": "llmesr"}, "backbone": {"name": "sasrec"}}


class DataConfig(Config):
    """Where the tables are and what is kept of them."""

    interactions: str
    """A table of interactions or a prepared folder, beside the config file, or bundled:NAME."""
    items: str | None = None
    """A table of items with their texts."""
    user: str | None = None
    """Column of the user id; recognised by its usual names when not given, as the next three are."""
    item: str | None = None
    """Column of the item id."""
    timestamp: str | None = None
    """Column of the time."""
    item_id: str | None = None
    """Column of the item id in the table of items."""
    min_user: NonNegativeInt = 0
    """Interactions a user needs to be kept."""
    min_item: NonNegativeInt = 0
    """Interactions an item needs to be kept."""
    repeat: bool = True
    """Filter again until every user and item that is left has enough; false is a single pass."""


class TextConfig(Config):
    """How texts become vectors."""

    model: str = "minilm"
    """The text encoder: minilm, st:NAME, or file:PATH with vectors made elsewhere."""
    user_model: str | None = None
    """The encoder of users, if it is another one; with file:PATH vectors of items, give those of users here."""
    item_template: str = "generic"
    """The prompt made of an item's row."""
    user_template: str = "user"
    """The prompt made of a user's training history."""


class RunConfig(ModelConfig):
    """Everything a run is made of; the TOML file's tables are its fields."""

    data: DataConfig
    """Tables and filters."""
    text: TextConfig = TextConfig()
    """Prompts and text encoder."""
    groups: GroupsConfig = GroupsConfig()
    """Head and tail."""
    protocol: ProtocolConfig = ProtocolConfig()
    """How targets are ranked."""


class Cases(NamedTuple):
    """An experiment: named variations of one config, each with every seed."""

    base: dict[str, Value]
    cases: dict[str, dict[str, Value]]
    seeds: list[int]


def read_cases(path: Path) -> Cases:
    """A config file's base settings, and its `[cases.NAME]` tables and `seeds`, if it has them."""
    base = read_toml(path)
    cases, seeds = base.pop("cases", {}), base.pop("seeds", [])
    if not isinstance(cases, dict) or not all(isinstance(case, dict) for case in cases.values()):
        raise ConfigError(f"{path}: cases are tables, [cases.NAME], of settings to lay over the rest")
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"{path}: seeds = {seeds!r} is not a list of whole numbers, e.g. [42, 43, 44]")
    data = base.get("data")
    if isinstance(data, dict):
        base["data"] = {key: _beside(path, key, value) for key, value in data.items()}
    return Cases(base, cases, seeds)  # type: ignore[arg-type]


def run_config(
    path: Path | None, settings: Iterable[str] = (), case: str | None = None, values: Mapping[str, Value] | None = None
) -> RunConfig:
    """The resolved config: defaults < file (or `values`) < its case < `key=value` settings."""
    cases = read_cases(path) if path else Cases(dict(values or {}), {}, [])
    merged = merge(DEFAULTS, cases.base)
    if case is not None:
        if case not in cases.cases:
            raise ConfigError(
                f"{path} has no case {case!r}{nearest(case, cases.cases)}; it has: {', '.join(cases.cases)}"
            )
        merged = merge(merged, cases.cases[case])
    merged = override(merged, settings)
    if "data" not in merged:
        raise ConfigError("no data: give --data (a table, a prepared folder or bundled:online_retail) or a config file")
    return build(RunConfig, merged, str(path) if path else "")


def open_data(config: DataConfig) -> Dataset:
    """Read and filter the data a config names."""
    if config.interactions.startswith(BUNDLED):
        data = Dataset.bundled(config.interactions.removeprefix(BUNDLED))
    else:
        data = Dataset.read(
            config.interactions,
            config.items,
            user=config.user,
            item=config.item,
            timestamp=config.timestamp,
            item_id=config.item_id,
        )
    return data.filter(min_user=config.min_user, min_item=config.min_item, repeat=config.repeat)


def embed(data: Dataset, split: Split, config: TextConfig) -> tuple[Embeddings, Embeddings]:
    """Embeddings of the items' texts and of the users' training histories, through the cache."""
    items = embed_items(data, config.model, config.item_template)
    model, template = config.user_model or config.model, config.user_template
    return items, embed_users(split.train, data.text, data.users, model, template, data_hash=data.hash)


def knowledge(config: RunConfig, data: Dataset, split: Split) -> tuple[Embeddings | None, Embeddings | None]:
    """The embeddings a method needs: from the prepared folder if it has them for this data and model, else made now."""
    if not config.method.needs_embeddings:
        return None, None
    folder = Path(config.data.interactions) / EMBEDDINGS
    if (folder / "items").is_dir() and (folder / "users").is_dir():
        stored = Embeddings.load(folder / "items"), Embeddings.load(folder / "users")
        made_of = [(one.provenance.data, one.provenance.spec, one.provenance.template) for one in stored]
        text = config.text
        wanted = ((text.model, text.item_template), (text.user_model or text.model, text.user_template))
        if made_of == [(data.hash, *one) for one in wanted]:
            return stored
    return embed(data, split, config.text)


def fit(config: RunConfig, out: Path, *, resume: bool = False) -> Recommender:
    """Data, texts, similar users, training: the whole main path into the run folder `out`."""
    data = open_data(config.data)
    split = data.leave_one_out()
    items, users = knowledge(config, data, split)
    model = Recommender.of(build(ModelConfig, config.model_dump(include=set(ModelConfig.model_fields))))
    model.fit(split, items=items, users=users, run=out, resume=resume)
    write_json(out / "run.json", config.model_dump(mode="json"))
    return model


def report(run: Path, name: str = "test") -> Report:
    """Evaluate a run under the protocol and groups it was configured with, and save the report in it."""
    model = load(run)
    stored = read_json(run / "run.json") if (run / "run.json").exists() else {}
    if not isinstance(stored, dict):
        raise RunError(f"{run / 'run.json'} is not a run's config; fit again")
    protocol = build(ProtocolConfig, stored.get("protocol", {}), "protocol")
    by = build(GroupsConfig, stored.get("groups", {}), "groups")
    made = evaluate(model, model.split, name=name, protocol=protocol, by=by)
    made.save(run)
    return made


def _beside(path: Path, key: str, value: Value) -> Value:
    """Paths in a config file are relative to the file's folder."""
    is_path = key in {"interactions", "items"} and isinstance(value, str) and not value.startswith(BUNDLED)
    return str(path.parent / value) if is_path else value  # type: ignore[operator]
