"""Null-space ids: text stays as it is in the directions where it says much, and ids are learned in the others.

    v_i         = [z_i, b_i],  z_i the first d - free principal components of the LLM embedding e_i, whitened, not
                  trained, of length 1 in the mean; b_i (free,) trained, zero at the start
    score(u, i) = v_i . f(v_1 ... v_n),  L = L_rank

AlphaFuse (SIGIR 2025, arXiv 2504.19218) learns ids in the null space of the embeddings' covariance and keeps their
leading directions frozen and standardised. Not confirmed from a source: its scale; a length of 1 is ours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from longtail.data.histories import Histories
from longtail.errors import ConfigError
from longtail.methods.base import Knowledge, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import CollaborativeView, principal_components
from longtail.nn.losses import RankLoss


class NullSpaceConfig(MethodConfig):
    """Settings of null-space ids."""

    name: Literal["null_space"] = "null_space"
    free: PositiveInt | None = None
    """Columns of a vector that are learned; half of them if not given."""

    @property
    def needs_embeddings(self) -> bool:
        """They are the other columns."""
        return True


class NullSpace(TrainedMethod):
    """score(u, i) = v_i . f(v_1 ... v_n), v_i = [z_i, b_i]."""

    text: Tensor

    def __init__(self, config: NullSpaceConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        free = config.free or sizes.d // 2
        if free >= sizes.d:
            raise ConfigError(f"method.free = {free}: of backbone.d = {sizes.d} columns some must be left for the text")
        self.view = CollaborativeView(sizes.items, free, torch.nn.init.zeros_)
        self.register_buffer("text", torch.zeros(sizes.items + 1, sizes.d - free))

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Whiten the leading components."""
        assert knowledge.item_embeddings is not None
        z = principal_components(knowledge.item_embeddings, self.text.shape[1])
        spread = z[1:].std(axis=0)
        z /= np.where(spread > spread.max(initial=0) * 1e-6, spread, np.inf)
        length = np.linalg.norm(z[1:], axis=1).mean()
        self.text = torch.from_numpy(z / length if length > 0 else z)

    def fixed(self) -> str:
        """z."""
        return "the frozen columns of its vectors, which were fitted to the texts of all items"

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """v_i, (n, d)."""
        return torch.cat([self.text if ids is None else self.text[ids], self.view(ids)], dim=1)


methods.register("null_space")((NullSpaceConfig, NullSpace))
