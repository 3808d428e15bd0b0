"""A trained method around another: what delegates to the one inside, for methods that add to its scores."""

from __future__ import annotations

import numpy as np
from pydantic import Field, SerializeAsAny, field_validator
from torch import Tensor

from longtail.config import Value, build
from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, Method, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import TrainingBatches
from longtail.nn.items import SemanticView
from longtail.nn.layout import Layout
from longtail.nn.losses import RankLoss
from longtail.nn.negatives import Sampler


class AroundConfig(MethodConfig):
    """Settings of a method that has another inside."""

    inner: SerializeAsAny[MethodConfig] = Field(default={"name": "llminit"}, validate_default=True)
    """The trained method, by name, with its settings."""

    @field_validator("inner", mode="before")
    @classmethod
    def _inner(cls, value: Value | MethodConfig) -> MethodConfig:
        if isinstance(value, MethodConfig):
            return value
        table: dict[str, Value] = value if isinstance(value, dict) else {"name": value}
        kind, made = methods.get(str(table.get("name")))
        if not issubclass(made, TrainedMethod) or made.stages > 1 or issubclass(made, Around):
            raise ConfigError(f"method.inner = {table.get('name')!r}: name a method that is trained in one stage")
        return build(kind, table, "method.inner")

    @property
    def needs_embeddings(self) -> bool:
        """As the method inside."""
        return self.inner.needs_embeddings

    @property
    def needs_neighbors(self) -> bool:
        """As the method inside."""
        return self.inner.needs_neighbors

    @property
    def needs_user_embeddings(self) -> bool:
        """As the method inside."""
        return self.inner.needs_user_embeddings


class Around(TrainedMethod):
    """The item vectors, states and batches of the method inside, which is trained with `rank_loss`."""

    def __init__(self, config: AroundConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        Method.__init__(self, config, sizes)  # the backbone is the inner method's: two owners would save it twice
        self.rank_loss = rank_loss
        inner = methods.get(config.inner.name)[1]
        assert issubclass(inner, TrainedMethod)
        self.inner = inner(config.inner, backbone, rank_loss, sizes)
        self.drops_last, self.stage, self.epoch = self.inner.drops_last, 1, 0

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """That of the method inside."""
        return self.inner.backbone

    @property
    def draws(self) -> np.random.Generator:  # type: ignore[override]
        """Those of the method inside."""
        return self.inner.draws

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Prepare the method inside."""
        self.inner.prepare(train, knowledge)

    def batches(
        self, train: Histories, sampler: Sampler, batch_size: int, *, prefixes: bool = False
    ) -> TrainingBatches:
        """Those of the method inside."""
        return self.inner.batches(train, sampler, batch_size, prefixes=prefixes)

    def start_epoch(self) -> None:
        """Start that of the method inside."""
        self.inner.epoch = self.epoch
        self.inner.start_epoch()

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """v_i, (n, D)."""
        return self.inner.item_vectors(ids)

    def states(self, vectors: Tensor, layout: Layout) -> Tensor:
        """f after each item, (T, D)."""
        return self.inner.states(vectors, layout)

    def final(self, vectors: Tensor, layout: Layout) -> Tensor:
        """f after each whole sequence, (B, D)."""
        return self.inner.final(vectors, layout)

    def served(self, u: Tensor, lengths: Tensor) -> Tensor:
        """As the method inside."""
        return self.inner.served(u, lengths)

    def fixed(self) -> str:
        """As the method inside."""
        return self.inner.fixed()

    def semantic_view(self) -> tuple[SemanticView, int] | None:
        """That of the method inside."""
        return self.inner.semantic_view()
