"""One file a checkpoint: weights, best weights and optimiser state in safetensors, the rest in its JSON header.

A single file is renamed into place, so a kill at any moment leaves the last whole checkpoint. last.safetensors is
written after each epoch, and within.safetensors beside it inside one: the first has what the epoch began with, from
which the method makes again what it makes once an epoch, the second what its steps have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longtail.errors import RunError
from longtail.files import atomic
from longtail.train.engine import Engine, State

FORMAT = 1


class Progress(NamedTuple):
    """How far a training has come."""

    epoch: int
    """Epochs done."""
    best_epoch: int
    """The epoch (from 1) whose weights are kept; 0 before the first."""
    best: float
    """Its validation NDCG@10."""
    stage: int = 1
    """The stage it is in, for a method that has several."""
    began: int = 0
    """Epochs done before that stage; the best epoch is one of the stage's, or this while it has none."""


class Within(NamedTuple):
    """How far an epoch has come."""

    steps: int
    """Steps done of it."""
    seconds: float
    """What they took."""
    drawn: State | None
    """State of the generator of batches, after what these steps needed of it."""
    totals: dict[str, Tensor]
    """Sums of the named losses over them, one a process (P,)."""
    planned: Sequence[State]
    """States of the generators of plans, one a process."""
    random: dict[str, Tensor]
    """States of torch's generators, by the kind of device, one a process (P, n); torch takes copies of rows alone."""


class Stored(NamedTuple):
    """What a checkpoint has."""

    progress: Progress
    within: Within | None
    best: dict[str, Tensor]
    done: int
    tensors: dict[str, Tensor]


def save(
    path: Path,
    engine: Engine,
    best: dict[str, Tensor],
    progress: Progress,
    identity: str,
    within: Within | None = None,
) -> None:
    """Write the checkpoint; `identity` names the config, data and seed it belongs to."""
    tensors = {f"last.{name}": tensor for name, tensor in engine.method.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    names = [name for name, _ in engine.method.named_parameters()]
    for index, slots in engine.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{names[index]}.{slot}": value for slot, value in slots.items()}
    tensors |= {f"average.{name}": average for name, average in zip(names, engine.averages, strict=False)}
    header = {"format": str(FORMAT), "progress": json.dumps(progress), "identity": identity, "done": str(engine.done)}
    if within is not None:
        header["within"] = json.dumps([within.steps, within.seconds, within.drawn, list(within.totals), within.planned])
        tensors |= {f"total.{name}": total for name, total in within.totals.items()}
        tensors |= {f"random.{name}": state for name, state in within.random.items()}
    with atomic(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)


def read(path: Path, identity: str) -> Stored:
    """What the checkpoint has; a RunError if it cannot be read or is not of that identity."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
        if int(header["format"]) > FORMAT:
            raise RunError(f"{path} was written by a newer longtail (format {header['format']}); upgrade longtail")
        progress, within = Progress(*json.loads(header["progress"])), None
        if "within" in header:
            steps, seconds, drawn, names, planned = json.loads(header["within"])
            totals, random = {name: tensors[f"total.{name}"] for name in names}, _under("random.", tensors)
            within = Within(steps, seconds, drawn, totals, planned, random)
        done = int(header.get("done", 0))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"checkpoint {path} cannot be read ({error}); delete it and fit again") from None
    if header["identity"] != identity:
        raise RunError(f"checkpoint {path} belongs to another config, data or seed; choose another --out or delete it")
    return Stored(progress, within, _under("best.", tensors), done, tensors)


def restore(engine: Engine, stored: Stored) -> None:
    """Put the checkpoint's weights and optimiser state into `engine`."""
    engine.method.load_state_dict(_under("last.", stored.tensors))
    adam = _under("adam.", stored.tensors)
    slots = ("step", "exp_avg", "exp_avg_sq")
    state = {
        index: {slot: adam[f"{name}.{slot}"] for slot in slots}
        for index, (name, _) in enumerate(engine.method.named_parameters())
        if f"{name}.step" in adam
    }
    averages = _under("average.", stored.tensors)
    for (name, _), average in zip(engine.method.named_parameters(), engine.averages, strict=False):
        average.copy_(averages[name])
    engine.done = stored.done
    groups = engine.optimizer.state_dict()["param_groups"]
    engine.optimizer.load_state_dict({"state": state, "param_groups": groups})


def snapshot(method: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in method.state_dict().items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
