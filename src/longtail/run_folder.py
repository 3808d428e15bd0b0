"""A run on disk: config.json, model.safetensors, items, users and histories; written whole or not at all, no pickle."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtail import __version__
from longtail.config import Config, Value, build
from longtail.data.histories import Histories
from longtail.data.ids import IdMap
from longtail.data.split import Contexts, Split
from longtail.errors import DataError, RunError
from longtail.files import (
    atomic,
    claim,
    file_hash,
    read_json,
    read_parquet,
    read_safetensors,
    write_json,
    write_parquet,
    write_safetensors,
)
from longtail.methods.base import Method, Sizes

FORMAT = 2  # 1 knew leave-one-out alone
FILES = ("items.parquet", "users.parquet", "histories.safetensors", "model.safetensors")
FIGURES = ("metrics.json", "ranks.parquet", "lists.parquet", "report.html", "dial.json")
# settings that shape no epoch's weights
UNTRAINED: dict[str, set[str]] = {"train": {"epochs", "patience", "device", "track", "checkpoint_minutes"}}


class Known(NamedTuple):
    """What a trained model remembers of its data: ids, text, and the split with every history."""

    users: IdMap
    items: IdMap
    text: pl.DataFrame
    split: Split
    name: str
    hash: str

    def check(self, split: Split) -> None:
        """A DataError if the split is of other data, or another split of it, than the model was fitted on."""
        if split.data is not None and split.data.hash != self.hash:
            raise DataError(f"this split is of {split.data.name!r}, not of the data the model was fitted on; fit on it")
        if split.scheme != self.split.scheme:
            raise DataError(
                f"the model was fitted on split {self.split.scheme}; on split {split.scheme} it would be asked what "
                "it was trained on; evaluate on its own split, or fit on this one"
            )


def lock_of(folder: Path) -> Path:
    """The file that a process holds while it trains in the folder."""
    return folder / "checkpoint" / "lock"


def write(folder: Path, config: Config, known: Known, method: Method) -> None:
    """Write all of a trained model; config.json, with the hashes of the rest, comes last.

    Figures of an earlier model in the folder are removed, because they are not this model's.
    """
    claim_for(folder, config, known)
    for stale in FIGURES:
        (folder / stale).unlink(missing_ok=True)
    write_parquet(
        folder / "items.parquet", known.text.clone().insert_column(0, known.items.ids.alias(_free(known.text)))
    )
    write_parquet(folder / "users.parquet", known.users.ids.to_frame("user_id"))
    split = known.split
    arrays = {"items": split.train.items, "offsets": split.train.offsets, "valid": split.valid, "test": split.test}
    for name, context in split.contexts._asdict().items() if split.contexts else ():
        arrays |= {f"{name}.items": context.items, f"{name}.offsets": context.offsets}
    write_safetensors(folder / "histories.safetensors", arrays)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        save_file(weights, temporary)
    write_facts(folder, config, known, method.sizes)


def claim_for(folder: Path, config: Config, known: Known) -> None:
    """A LongtailError if the folder holds files that are not a run's, or a run of another config, split or data."""
    claim(folder, "config.json", FILES)
    if (folder / "config.json").exists():
        facts = read_json(folder / "config.json")
        mine = (config.model_dump(mode="json", exclude=UNTRAINED), known.hash, known.split.scheme)
        if not isinstance(facts, dict) or mine != _identity(facts, type(config)):
            raise RunError(
                f"{folder} holds a run of another config, split or data; choose another folder, or delete it"
            )


def _identity(facts: dict[str, dict[str, Value]], kind: type[Config]) -> tuple[object, object, object]:
    """The config, less what does not shape the weights of an epoch, the data and the split of a config.json."""
    config, data = build(kind, facts["config"], "config.json"), facts["data"]
    return config.model_dump(mode="json", exclude=UNTRAINED), data["hash"], data.get("split", "leave_one_out")


def write_facts(folder: Path, config: Config, known: Known, sizes: Sizes | None) -> None:
    """Write config.json: the resolved config, what data and split, versions; no sizes before training ends."""
    facts = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": {"name": known.name, "hash": known.hash, "split": known.split.scheme},
        "sizes": None if sizes is None else sizes._asdict(),
        "files": {} if sizes is None else {name: file_hash(folder / name) for name in FILES},
        "versions": {"longtail": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }
    write_json(folder / "config.json", facts)


def read(folder: Path) -> tuple[dict[str, Value], Known, Sizes, dict[str, Tensor]]:
    """The config, what is known of the data, the sizes and the weights; a RunError names what cannot be used."""
    facts = read_json(folder / "config.json")
    if not isinstance(facts, dict) or not {"format", "config", "data", "sizes", "files"} <= facts.keys():
        raise RunError(f"{folder / 'config.json'} is not a run's; fit again")
    if facts["format"] not in {1, FORMAT}:
        raise RunError(
            f"{folder} has format {facts['format']!r}, this longtail reads 1 to {FORMAT}; "
            "upgrade longtail, or fit again"
        )
    if facts["sizes"] is None:
        raise RunError(f"the training in {folder} did not end; go on with 'longtail fit ... --out {folder} --resume'")
    for name, expected in facts["files"].items():
        if not (folder / name).is_file() or file_hash(folder / name) != expected:
            raise RunError(f"{folder / name} is missing or not what was saved; fit again, or restore the file")
    weights = load_file(folder / "model.safetensors")
    return facts["config"], _known(folder, facts["data"]), Sizes(**facts["sizes"]), weights


def _known(folder: Path, data: dict[str, str]) -> Known:
    text, users = read_parquet(folder / "items.parquet"), read_parquet(folder / "users.parquet")
    stored = read_safetensors(folder / "histories.safetensors")
    arrays = {name: array.astype(np.int64) for name, array in stored.items()}
    contexts = None
    if "everything.items" in arrays:
        contexts = Contexts(
            *(Histories(arrays[f"{name}.items"], arrays[f"{name}.offsets"]) for name in Contexts._fields)
        )
    split = Split(
        Histories(arrays["items"], arrays["offsets"]),
        arrays["valid"],
        arrays["test"],
        len(text),
        contexts=contexts,
        scheme=data.get("split", "leave_one_out"),
    )
    ids, rest = text.to_series(0), text.drop(text.columns[0])
    return Known(IdMap(users.to_series(0), "user"), IdMap(ids, "item"), rest, split, data["name"], data["hash"])


def _free(text: pl.DataFrame) -> str:
    """A name for the column of ids that the item table does not use."""
    name = "item_id"
    while name in text.columns:
        name += "_"
    return name
