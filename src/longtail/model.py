"""What determines a model: its config, and the method built from it."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, SerializeAsAny, ValidationInfo, field_validator

from longtail.config import Config, Value, build
from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, Method, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import BackboneConfig, backbones
from longtail.nn.losses import rank_loss
from longtail.retrieval import NeighborsConfig
from longtail.train.loop import TrainConfig

BACKBONE = "sasrec"  # where none is named
TRAINING = ("backbone", "train")  # settings that only a trained method has


class ModelConfig(Config):
    """All that determines a model, given its data: with the data's hash, this is the run."""

    seed: NonNegativeInt = 42
    """Of initialisation, batches, negatives and dropout."""
    method: SerializeAsAny[MethodConfig]
    """How the backbone is enhanced, by name, with that method's settings."""
    backbone: SerializeAsAny[BackboneConfig] | None = Field(default=None, validate_default=True)
    """The sequence model, by name, with its settings; sasrec if not given, and none for a method without training."""
    neighbors: NeighborsConfig = NeighborsConfig()
    """Retrieval of similar users."""
    train: TrainConfig | None = Field(default=None, validate_default=True)
    """Loss, optimiser and stopping; none for a method without training."""

    @property
    def needs_user_embeddings(self) -> bool:
        """Whether text vectors of users are needed: not if the similar ones are found by their items."""
        by_items = self.method.needs_neighbors and self.neighbors.by_items
        return self.method.needs_user_embeddings and not by_items

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Value | MethodConfig) -> MethodConfig:
        return (
            value if isinstance(value, MethodConfig) else build(methods.get(name_of(value))[0], _table(value), "method")
        )

    @field_validator("backbone", mode="before")
    @classmethod
    def _backbone(cls, value: Value | BackboneConfig, info: ValidationInfo) -> BackboneConfig | None:
        if not _wanted(value, info):
            return None
        if isinstance(value, BackboneConfig):
            return value
        table = {"name": BACKBONE} | ({} if value is None else _table(value))
        return build(backbones.get(name_of(table))[0], table, "backbone")

    @field_validator("train", mode="before")
    @classmethod
    def _train(cls, value: Value | TrainConfig, info: ValidationInfo) -> Value | TrainConfig:
        if not _wanted(value, info):
            return None
        if isinstance(value, TrainConfig):
            return value
        method = info.data.get("method")  # missing if it was refused
        usual = method.training if isinstance(method, MethodConfig) else {}
        return {**usual, **({} if value is None else _table(value))}


def is_trained(method: str) -> bool:
    """Whether the method of that name is trained, on a backbone; a ConfigError if there is none."""
    return issubclass(methods.get(method)[1], TrainedMethod)


def sizes_of(
    config: ModelConfig, train: Histories, items: int, knowledge: Knowledge, max_len: int | None = None
) -> Sizes:
    """Sizes of a method for the training histories of I items, prepared with `knowledge`.

    max_len: the longest sequence, where an earlier training has settled it.
    """
    width = 0 if knowledge.item_embeddings is None else knowledge.item_embeddings.shape[1]
    views = () if knowledge.views is None else knowledge.views.widths
    if config.backbone is None:
        return Sizes(items, width, 0, 0, views)
    trained = max(int(train.lengths.max()) - 1, 1)  # positions that have a target: none beyond is ever used
    return Sizes(items, width, config.backbone.d, max_len or min(config.backbone.max_len, trained), views)


def build_method(config: ModelConfig, sizes: Sizes) -> Method:
    """The unprepared method of a config: on its backbone, with its loss, if it is to be trained."""
    method, train = methods.get(config.method.name)[1], config.train
    if not issubclass(method, TrainedMethod) or config.backbone is None or train is None:
        return method(config.method, sizes)
    backbone = backbones.get(config.backbone.name)[1](config.backbone)
    narrow = train.precision == "bfloat16"
    loss = rank_loss(train.loss, sizes.items, train.calibration, smoothing=train.smoothing, narrow=narrow)
    return method(config.method, backbone, loss, sizes)


def _wanted(value: Value | Config, info: ValidationInfo) -> bool:
    """Whether the method has such a setting; a ConfigError if it is given and the method has not."""
    method = info.data.get("method")  # missing if it was refused
    if not isinstance(method, MethodConfig) or is_trained(method.name):
        return True
    if value is not None:
        raise ConfigError(
            f"{info.field_name} = {value!r}: method {method.name!r} is not trained; leave {' and '.join(TRAINING)} out"
        )
    return False


def name_of(value: Value) -> str:
    """The name in a setting that is a table, or the name alone."""
    return str(value.get("name")) if isinstance(value, dict) else str(value)


def _table(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {"name": value}
