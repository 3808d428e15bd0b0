"""A run on disk: config.json, model.safetensors, items, users and histories; written whole or not at all, no pickle."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtail import __version__
from longtail.config import Config, Value
from longtail.data.histories import Histories
from longtail.data.ids import IdMap
from longtail.data.split import Split
from longtail.errors import RunError
from longtail.files import (
    atomic,
    read_json,
    read_parquet,
    read_safetensors,
    write_json,
    write_parquet,
    write_safetensors,
)
from longtail.methods.base import Method, Sizes

FORMAT = 1
ID = "_id"  # the column of external ids in items.parquet and users.parquet


class Known(NamedTuple):
    """What a trained model remembers of its data: ids, text, and the split with every history."""

    users: IdMap
    items: IdMap
    text: pl.DataFrame
    split: Split
    name: str
    hash: str


def write(folder: Path, config: Config, known: Known, method: Method) -> None:
    """Write all of a trained model; config.json, which says that it is complete, comes last."""
    write_parquet(folder / "items.parquet", known.text.clone().insert_column(0, known.items.ids.alias(ID)))
    write_parquet(folder / "users.parquet", known.users.ids.to_frame(ID))
    split = known.split
    arrays = {"items": split.train.items, "offsets": split.train.offsets, "valid": split.valid, "test": split.test}
    write_safetensors(folder / "histories.safetensors", arrays)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        save_file(weights, temporary)
    write_facts(folder, config, known, method.sizes)


def write_facts(folder: Path, config: Config, known: Known, sizes: Sizes | None) -> None:
    """Write config.json: the resolved config, the data's name and hash, versions; no sizes before training ends."""
    facts = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": {"name": known.name, "hash": known.hash},
        "sizes": None if sizes is None else sizes._asdict(),
        "versions": {"longtail": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    write_json(folder / "config.json", facts)


def read(folder: Path) -> tuple[dict[str, Value], Known, dict[str, int], dict[str, Tensor]]:
    """The config, what is known of the data, the sizes and the weights; a RunError names what cannot be used."""
    facts = read_json(folder / "config.json")
    if not isinstance(facts, dict) or not {"format", "config", "data", "sizes"} <= facts.keys():
        raise RunError(f"{folder / 'config.json'} is not a run's; fit again")
    if facts["format"] != FORMAT:
        raise RunError(
            f"{folder} has format {facts['format']!r}, this longtail reads {FORMAT}; upgrade longtail, or fit again"
        )
    if facts["sizes"] is None:
        raise RunError(f"the training in {folder} did not end; go on with 'longtail fit ... --out {folder} --resume'")
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise RunError(f"{folder / 'model.safetensors'} is missing or corrupt ({error}); fit again") from None
    return facts["config"], _known(folder, facts["data"]), facts["sizes"], weights


def _known(folder: Path, data: dict[str, str]) -> Known:
    text, users = read_parquet(folder / "items.parquet"), read_parquet(folder / "users.parquet")
    arrays = read_safetensors(folder / "histories.safetensors")
    try:
        items, offsets, valid, test = (arrays[name].astype(np.int64) for name in ("items", "offsets", "valid", "test"))
        split = Split(Histories(items, offsets), valid, test, len(text))
        people, things = IdMap(users[ID], "user"), IdMap(text[ID], "item")
    except (KeyError, pl.exceptions.ColumnNotFoundError) as error:
        raise RunError(f"{folder} lacks {error}; fit again") from None
    return Known(people, things, text.drop(ID), split, data["name"], data["hash"])
