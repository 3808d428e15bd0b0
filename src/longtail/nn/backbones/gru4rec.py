"""GRU4Rec (Hidasi et al., ICLR 2016), as LLM-ESR uses it: one GRU layer without bias over the plain item vectors."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from longtail.nn.backbones.base import Backbone, BackboneConfig, Objective, backbones
from longtail.nn.dropout import Dropout
from longtail.nn.layout import Layout


class GRU4RecConfig(BackboneConfig):
    """GRU4Rec's settings; defaults as in LLM-ESR's released code."""

    name: Literal["gru4rec"] = "gru4rec"
    dropout: NonNegativeFloat = Field(default=0.0, lt=1)
    """Share of the values of the embedded sequence dropped in training; the released code drops none."""
    targets: Literal["every", "last"] = "every"
    """Which items of a training history are predicted; the released code has the last one alone."""


class GRU4Rec(Backbone):
    """h_t = GRU(e_t, h_t-1): no scale and no positions, because the order is in the recurrence."""

    objective: ClassVar[Objective] = "next_item"

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__(config)
        self.last_only = config.targets == "last"
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.d, config.d, bias=False, batch_first=True)
        for weight in self.gru.parameters():
            self.start(weight)

    def embed(self, vectors: Tensor, layout: Layout) -> Tensor:
        """S = dropout(vectors)."""
        embedded: Tensor = self.dropout(vectors)
        return embedded

    def forward(self, sequence: Tensor, layout: Layout) -> Tensor:
        """States (T, ..., d); position t depends on positions <= t alone, so that padding on the right does no harm."""
        return layout.unpad([self.run(box) for box in layout.pad(sequence)])

    def run(self, box: Tensor) -> Tensor:
        """The states (b, L, ..., d) of a box; the views of an item are so many sequences more."""
        rows = box.reshape(*box.shape[:2], -1, box.shape[-1]).transpose(1, 2)  # (b, views, L, d)
        states: Tensor = self.gru(rows.flatten(0, 1))[0]
        return states.view(rows.shape).transpose(1, 2).reshape(box.shape)


backbones.register("gru4rec")((GRU4RecConfig, GRU4Rec))
