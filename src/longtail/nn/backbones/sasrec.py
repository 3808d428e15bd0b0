"""SASRec (Kang and McAuley, ICDM 2018), as LLM-ESR uses it, with the causal mask that its release leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from longtail.nn.attention import Attention
from longtail.nn.backbones.base import Backbone, BackboneConfig, Objective, backbones
from longtail.nn.dropout import Dropout
from longtail.nn.layout import Layout

EPSILON = 1e-8  # of every LayerNorm, as in the published code
DEVIATION = 0.02  # of the weights of a "normal" start, as in BERT (Devlin et al., NAACL 2019)


class TransformerConfig(BackboneConfig):
    """Settings of backbones made of attention blocks; defaults as in LLM-ESR's released code."""

    blocks: PositiveInt = 2
    """Transformer blocks."""
    heads: PositiveInt = 1
    """Attention heads; must divide d."""
    start: Literal["normal", "xavier"] = "normal"
    """How weights start: "normal" with deviation 0.02 and no biases, so that a block hardly changes what it is given,
    which needs fewer epochs (docs/fidelity.md); "xavier" normal, as in LLM-ESR's released code."""

    @model_validator(mode="after")
    def _heads_divide_d(self) -> Self:
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} cannot be split into {self.heads} heads; choose a multiple")
        return self


class Transformer(Backbone):
    """Attention blocks over sqrt(d) * vector + position; `block` makes one of them."""

    def __init__(self, config: TransformerConfig, block: Callable[[], nn.Module]) -> None:
        super().__init__(config)
        self.scale = config.d**0.5
        self.positions = nn.Embedding(config.max_len + 1, config.d)  # training sees one item more; or MASK comes last
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(block() for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.d, eps=EPSILON)
        self.normal = config.start == "normal"
        for module in self.modules():  # torch's own start, N(0, 1) for positions, would drown the items
            if isinstance(module, nn.Linear | nn.Embedding):
                self.start(module.weight)
            if isinstance(module, nn.Linear) and self.normal:
                nn.init.zeros_(module.bias)

    def start(self, weight: Tensor) -> None:
        """As `TransformerConfig.start` says."""
        if self.normal:
            nn.init.normal_(weight, std=DEVIATION)
        else:
            super().start(weight)

    def embed(self, vectors: Tensor, layout: Layout) -> Tensor:
        """S = dropout(sqrt(d) * vectors + positions), positions counted from the oldest item."""
        positions = self.positions(layout.steps)  # (T, d)
        views = vectors.dim() - 2
        embedded: Tensor = self.dropout(self.scale * vectors + positions[(slice(None), *(None,) * views)])
        return embedded

    def forward(self, sequence: Tensor, layout: Layout) -> Tensor:
        """States (T, ..., d); if causal, position t depends on positions <= t alone."""
        for block in self.blocks:
            sequence = block(sequence, layout)
        states: Tensor = self.norm(sequence)
        return states

    def final(self, sequence: Tensor, layout: Layout) -> Tensor:
        """The last state (B, ..., d): the last block needs its query, feed-forward and norms at one position only."""
        *others, final = self.blocks
        for block in others:
            sequence = block(sequence, layout)
        state: Tensor = self.norm(final(sequence, layout, last=True))
        return state


class SASRecConfig(TransformerConfig):
    """SASRec's settings."""

    name: Literal["sasrec"] = "sasrec"
    causal: bool = True
    """Whether a position sees only itself and what came before; in the released code it sees all, its target too."""
    pads: Literal["masked", "attended"] = "masked"
    """Padding up to max_len: no position sees any, or each sees all of it as zero vectors, as in the released code,
    where the states of a short history are mostly padding."""


class SASRec(Transformer):
    """Blocks that are causal unless the released mask is asked for."""

    objective: ClassVar[Objective] = "next_item"

    def __init__(self, config: SASRecConfig) -> None:
        pads = config.max_len if config.pads == "attended" else None
        super().__init__(config, lambda: Block(config, causal=config.causal, padded=pads))
        self.causal = config.causal

    def padding_state(self) -> Tensor:
        """The last LayerNorm of zero: the released code zeroes padding before and after every block."""
        state: Tensor = self.norm(self.norm.weight.new_zeros(self.config.d))
        return state


class Block(nn.Module):
    """One block: q = LN(x); h = LN(q + Attention(q, x)); h + FFN(h) (SASRec, sec. III-B; q as in its released code)."""

    def __init__(self, config: TransformerConfig, *, causal: bool, padded: int | None = None) -> None:
        super().__init__()
        self.causal, self.padded = causal, padded
        d, dropout = config.d, config.dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(d, eps=EPSILON), nn.LayerNorm(d, eps=EPSILON)
        self.attention = Attention(d, config.heads, bias=True, dropout=dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(d, d), Dropout(dropout), nn.ReLU(), nn.Linear(d, d), Dropout(dropout)
        )

    def forward(self, x: Tensor, layout: Layout, *, last: bool = False) -> Tensor:
        """(T, ..., d) to (T, ..., d), or with `last` to each sequence's last token alone, (B, ..., d)."""
        query = self.attention_norm(layout.last(x) if last else x)
        pads = None if self.padded is None else (self.padded - layout.lengths).clamp(min=0)  # (B,)
        if last:
            attended = self.attention.last(query, x, layout, pads=pads)
        else:
            attended = self.attention(query, x, layout, causal=self.causal, pads=pads)
        h = self.forward_norm(query + attended)
        out: Tensor = h + self.feed_forward(h)
        return out


backbones.register("sasrec")((SASRecConfig, SASRec))
