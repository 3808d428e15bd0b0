"""What determines a model: its config, and the method built from it."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt, SerializeAsAny, field_validator

from longtail.config import Config, Value, build
from longtail.methods.base import Method, MethodConfig, Sizes, methods
from longtail.neighbors import Search
from longtail.nn.backbones.base import BackboneConfig, backbones
from longtail.nn.losses import rank_loss
from longtail.train.loop import TrainConfig


class NeighborsConfig(Config):
    """Which users are similar."""

    k: PositiveInt = 10
    """Similar users retrieved for each user (LLM-ESR, sec. 4.1; grid 2, 6, 10, 14, 18)."""
    search: Search = "auto"
    """How: "exact"; "index", faster for many users, but it misses a few and needs `pip install 'longtail[index]'`;
    "auto" is exact up to 200,000 users and takes the index, if it is installed, for more."""


class ModelConfig(Config):
    """All that determines a model, given its data: with the data's hash, this is the run."""

    seed: NonNegativeInt = 42
    """Of initialisation, batches, negatives and dropout."""
    method: SerializeAsAny[MethodConfig]
    """How the backbone is enhanced, by name, with that method's settings."""
    backbone: SerializeAsAny[BackboneConfig]
    """The sequence model, by name, with its settings."""
    neighbors: NeighborsConfig = NeighborsConfig()
    """Retrieval of similar users."""
    train: TrainConfig = TrainConfig()
    """Loss, optimiser and stopping."""

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Value | MethodConfig) -> MethodConfig:
        return (
            value if isinstance(value, MethodConfig) else build(methods.get(_name(value))[0], _table(value), "method")
        )

    @field_validator("backbone", mode="before")
    @classmethod
    def _backbone(cls, value: Value | BackboneConfig) -> BackboneConfig:
        if isinstance(value, BackboneConfig):
            return value
        return build(backbones.get(_name(value))[0], _table(value), "backbone")


def build_method(config: ModelConfig, sizes: Sizes) -> Method:
    """The untrained method of a config, on its backbone, with its loss."""
    backbone = backbones.get(config.backbone.name)[1](config.backbone)
    method = methods.get(config.method.name)[1]
    train = config.train
    loss = rank_loss(train.loss, sizes.items, train.calibration, narrow=train.precision == "bfloat16")
    return method(config.method, backbone, loss, sizes)


def _name(value: Value) -> str:
    return str(value.get("name")) if isinstance(value, dict) else str(value)


def _table(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {"name": value}
