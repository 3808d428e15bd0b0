"""The command lines that make a run again, from what its folder says of it."""

from __future__ import annotations

import json
import shlex

from longtail import pipeline, refresh
from longtail.config import build, flat
from longtail.errors import ConfigError
from longtail.evaluation.stored import Stored
from longtail.pipeline import RunConfig


def commands(run: Stored) -> list[str]:
    """The command lines that train and evaluate a run again, from its resolved settings."""
    if not (run.folder / "run.json").exists():
        return [f"# {run.folder} was trained from Python, not by a command; its settings are above"]
    try:
        config = build(RunConfig, pipeline.run_settings(run.folder), str(run.folder / "run.json"))
    except ConfigError as error:
        return [f"# {run.folder} was made by another version of longtail ({error})"]
    evaluated = shlex.join(["longtail", "evaluate", str(run.folder), *_evaluated(run, config)])
    if (run.folder / refresh.FACTS).exists():
        return [refresh.command(run.folder), evaluated]
    wanted = flat(config.model_dump(mode="json", exclude_defaults=True))
    given = {"data.interactions": "--data", "method.name": "--method", "backbone.name": "--backbone"}
    names = {"data.interactions": config.data.interactions, "method.name": config.method.name}
    if config.backbone:
        names["backbone.name"] = config.backbone.name
    fit = ["longtail", "fit", *(word for key, name in names.items() for word in (given[key], name))]
    fit += ["--out", str(run.folder)]
    for key, value in wanted.items():
        fit += [] if key in given else ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return [shlex.join(fit), evaluated]


def _evaluated(run: Stored, config: RunConfig) -> list[str]:
    """Settings of the evaluation that are not the run's own, as far as its figures tell."""
    numbers = [protocol.removeprefix("sampled") for protocol in run.figures["protocol"].unique()]
    sampled = next((number for number in numbers if number.isdecimal()), "0")
    return [] if sampled == str(config.protocol.sampled) else ["--set", f"protocol.sampled={sampled}"]
