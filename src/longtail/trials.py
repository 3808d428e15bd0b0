"""Ranges of settings, trials drawn from them, and which trials are hopeless: all that knows of optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from pydantic import model_validator

from longtail.config import Config
from longtail.errors import ConfigError

if TYPE_CHECKING:
    import optuna

Scalar: TypeAlias = "str | int | float | bool"
STARTUP = 5  # whole trials before any is pruned
WARMUP = 3  # epochs of a trial before it is


class Range(Config):
    """The values a setting may take: choices, or all from low to high, whole numbers if both are written as such."""

    low: int | float | None = None
    """The least."""
    high: int | float | None = None
    """The greatest."""
    step: int | float | None = None
    """Only low, low + step, low + 2 step, …"""
    log: bool = False
    """Draw the logarithm evenly: for rates and sizes that span powers of ten."""
    choices: list[Scalar] | None = None
    """Instead: these values."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if self.choices is not None:
            if bounds or self.step is not None or self.log or not self.choices:
                raise ValueError("give choices = [...], or low and high, not both")
        elif len(bounds) < 2 or bounds[0] >= bounds[1]:
            raise ValueError("give low and a greater high, or choices = [...]")
        elif self.log and (self.step is not None or bounds[0] <= 0):
            raise ValueError("log = true needs low above 0 and no step")
        return self

    def ends(self) -> tuple[Scalar, Scalar]:
        """Its first and its last value."""
        values: Sequence[Scalar | None] = self.choices or (self.low, self.high)
        first, last = values[0], values[-1]
        assert first is not None and last is not None
        return first, last

    def space(self) -> optuna.distributions.BaseDistribution:
        """The same for optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class Trial(NamedTuple):
    """Settings to try, and what came of them: the validation NDCG@10 after each epoch."""

    number: int
    params: dict[str, Scalar]
    state: Literal["begun", "complete", "pruned", "failed"] = "begun"
    curve: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """The best validation NDCG@10; 0 before the first epoch has ended."""
        return max(self.curve, default=0.0)

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"trial-{self.number:03d}"


class Pruner:
    """Which of some trials that run are behind the median of those that have ended, at the same epoch."""

    def __init__(self, trials: Mapping[int, optuna.Trial]) -> None:
        self.trials, self.reported, self.hopeless = trials, dict.fromkeys(trials, 0), dict.fromkeys(trials, 0)

    def __call__(self, trial: Trial, curve: Sequence[float]) -> int:
        """The first epoch at which the trial was behind, or 0. It is the same however often one asks on the way."""
        one, number = self.trials[trial.number], trial.number
        while self.reported[number] < len(curve) and not self.hopeless[number]:
            epoch = self.reported[number] = self.reported[number] + 1
            one.report(curve[epoch - 1], epoch)
            self.hopeless[number] = epoch if one.should_prune() else 0
        return self.hopeless[number]


def draw(
    ranges: Mapping[str, Range], seed: int, ended: Sequence[Trial], begun: Sequence[Trial], count: int
) -> tuple[list[Trial], Pruner]:
    """The trials that were begun, or else `count` new ones, drawn after those that have ended; and their pruner.

    Optuna's own storages are left alone: after a kill its journal may end in half a line, and keeps its lock for half a
    minute, while trials.json is always whole. So each draw makes the study anew.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs optuna; run pip install 'longtail[search]'") from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = int(np.random.SeedSequence((seed, len(ended))).generate_state(1)[0])
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=drawn),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP),
    )
    spaces = {key: one.space() for key, one in ranges.items()}
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for trial in ended:
        curve = dict(enumerate(trial.curve, start=1)) if trial.state != "failed" else {}
        value = trial.value if trial.state == "complete" else None
        state = optuna.trial.TrialState[states[trial.state]]
        params = dict(trial.params)
        made = optuna.trial.create_trial(
            state=state, value=value, params=params, distributions=spaces, intermediate_values=curve
        )
        study.add_trial(made)
    for trial in begun:
        study.enqueue_trial(dict(trial.params))
    asked = [study.ask(fixed_distributions=spaces) for _ in begun or range(count)]
    return [Trial(one.number, dict(one.params)) for one in asked], Pruner({one.number: one for one in asked})
