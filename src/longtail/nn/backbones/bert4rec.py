"""BERT4Rec (Sun et al., CIKM 2019), as LLM-ESR uses it: SASRec's blocks looking both ways, trained on hidden items."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from longtail.nn.backbones.base import Objective, backbones
from longtail.nn.backbones.sasrec import Block, Transformer, TransformerConfig


class BERT4RecConfig(TransformerConfig):
    """BERT4Rec's settings; defaults as in LLM-ESR's released code."""

    name: Literal["bert4rec"] = "bert4rec"
    start: Literal["normal", "xavier"] = "xavier"
    """As SASRec's; here "normal" needs more epochs, not fewer (docs/fidelity.md)."""
    masked: float = Field(default=0.6, gt=0, lt=1)
    """Share of a sequence's items that are hidden in training (LLM-ESR's released code; `TrainingBatches`)."""


class BERT4Rec(Transformer):
    """SASRec's blocks, each position of which sees all; a hidden item predicts itself."""

    objective: ClassVar[Objective] = "cloze"

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__(config, lambda: Block(config, causal=False))
        self.masked = config.masked


backbones.register("bert4rec")((BERT4RecConfig, BERT4Rec))
