"""Graph start: LLMInit that starts from embeddings smoothed over the items that come after each.

    e_i starts at the first d principal components of (1 - smooth) e_llm_i + smooth sum over j of a_ij e_llm_j
    a_ij        = s(i, j) / sum over the followers k of i of s(i, k), s as in `longtail`
    score(u, i) = e_i . f(e_1 ... e_n),  L = L_rank

An item without followers starts as in LLMInit. After the co-occurrence-aware reduction of TF-LLMER (arXiv 2604.20490,
Rec-PCA), of which only the idea could be confirmed: that the graph makes items that go together start together.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt
from scipy.sparse import csr_array
from torch import Tensor

from longtail.data.cooccurrence import followers
from longtail.data.histories import Histories
from longtail.methods.base import Knowledge, MethodConfig, Sizes, TrainedMethod, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.items import CollaborativeView, FloatArray, principal_components
from longtail.nn.losses import RankLoss


class GraphInitConfig(MethodConfig):
    """Settings of the graph start."""

    name: Literal["graph_init"] = "graph_init"
    smooth: float = Field(default=0.5, ge=0, le=1)
    """Share that the followers' embeddings have."""
    neighbors: PositiveInt = 20
    """Followers of each item, at most."""

    @property
    def needs_embeddings(self) -> bool:
        """Training starts from them."""
        return True


class GraphInit(TrainedMethod):
    """score(u, i) = e_i . f(e_1 ... e_n), with e_i started at PCA of smoothed embeddings."""

    def __init__(self, config: GraphInitConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.settings, self.view = config, CollaborativeView(sizes.items, sizes.d, backbone.start)

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Start the table at the principal components of what is smoothed."""
        assert knowledge.item_embeddings is not None
        k = self.settings.neighbors
        ids, s = followers(train, self.sizes.items, k, shrinkage=4.0, fading=0.8, reach=10)  # longtail's defaults
        smoothed = smoothed_over(ids, s, knowledge.item_embeddings, self.settings.smooth)
        self.view.start_from(principal_components(smoothed, self.sizes.d))

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d): the trained table."""
        vectors: Tensor = self.view(ids)
        return vectors


def smoothed_over(ids: npt.NDArray[np.int32], s: FloatArray, embeddings: FloatArray, share: float) -> FloatArray:
    """(1 - share) e_i + share sum of a_ij e_j, (I + 1, E); e_i where i has no followers. ids, s: (I + 1, k)."""
    total = s.sum(axis=1, dtype=np.float64)
    weights = s / np.where(total > 0, total, 1.0)[:, None]
    at = np.arange(0, s.size + 1, s.shape[1])
    mean = csr_array((weights.ravel(), ids.ravel(), at), (len(s), len(s))) @ embeddings
    found: FloatArray = np.where(total[:, None] > 0, (1 - share) * embeddings + share * mean, embeddings)
    return found.astype(np.float32)


methods.register("graph_init")((GraphInitConfig, GraphInit))
