"""What a method is: item vectors and an encoder over them, trained by named losses and compared by dot product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtail.config import Config
from longtail.data.histories import Histories, IntArray
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch, gather, length_chunks
from longtail.nn.items import FloatArray, ItemVectors, distinct
from longtail.nn.losses import RankLoss
from longtail.registry import Registry

TOKENS = 16384  # padded positions encoded at once where no gradient is kept


class MethodConfig(Config):
    """Settings every method has."""

    name: str

    @property
    def needs_embeddings(self) -> bool:
        """Whether `prepare` wants item embeddings."""
        return False

    @property
    def needs_neighbors(self) -> bool:
        """Whether `prepare` wants similar users."""
        return False


class Sizes(NamedTuple):
    """What a method must know to be built: I items, E the width of the LLM embeddings, d, and the longest sequence.

    max_len: the most recent items that are encoded when a user vector is wanted.
    """

    items: int
    embedding_width: int
    d: int
    max_len: int


class Knowledge(NamedTuple):
    """What a method may be prepared with, besides the training histories.

    item_embeddings (I + 1, E), row 0 zero, or None; neighbors (U + 1, M) similar users, 0 = none, or None.
    """

    item_embeddings: FloatArray | None = None
    neighbors: IntArray | None = None


class Method(nn.Module, ABC):
    """Ids to vectors and named losses. Built from sizes, prepared from data, so that it loads without either."""

    def __init__(self, config: MethodConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.backbone, self.rank_loss, self.sizes = config, backbone, rank_loss, sizes

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Take what training needs of the data. Not called when a saved method is loaded."""

    def start_epoch(self) -> None:
        """Refresh what is computed once an epoch."""

    @abstractmethod
    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, D) vectors of `ids` (n,), or of the whole catalogue (I + 1, D)."""

    @abstractmethod
    def states(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Item vectors of sequences (B, L, D) to user vectors at every position (B, L, D)."""

    @abstractmethod
    def final(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Item vectors of sequences (B, L, D) to the user vector at each last real position (B, D)."""

    def encode(self, items: Tensor) -> Tensor:
        """Sequences (B, L), right-padded with 0, to user vectors at every position (B, L, D)."""
        return self.states(F.embedding(items, self.item_vectors()), items > 0)

    def step_vectors(self, blocks: Sequence[SequenceBatch], *more: Tensor) -> ItemVectors:
        """The item vectors a step's blocks (and `more` items) need, each computed once."""
        touched = [ids for block in blocks for ids in (block.items, block.targets, block.negatives)] + list(more)
        ids = None if self.rank_loss.whole_catalogue else distinct(touched, self.sizes.items)
        return ItemVectors(self.item_vectors(ids), ids)

    def loss(self, blocks: Sequence[SequenceBatch]) -> dict[str, Tensor]:
        """The named losses of a step, to be summed; its users come in blocks of similar length."""
        vectors = self.step_vectors(blocks)
        return {"rank": self.ranking(self.block_states(blocks, vectors), blocks, vectors)}

    forward = loss

    def block_states(self, blocks: Sequence[SequenceBatch], vectors: ItemVectors) -> list[Tensor]:
        """User vectors at every position of each block, (b, L, D)."""
        return [self.states(vectors.of(block.items), block.items > 0) for block in blocks]

    def ranking(self, states: Sequence[Tensor], blocks: Sequence[SequenceBatch], vectors: ItemVectors) -> Tensor:
        """The ranking loss over all positions of a step that have a target; 0 if none has."""
        at = [torch.nonzero(block.targets, as_tuple=True) for block in blocks]
        targets = torch.cat([block.targets[where] for block, where in zip(blocks, at, strict=True)])
        picked = torch.cat([state[where] for state, where in zip(states, at, strict=True)])
        if not len(targets):
            return picked.sum()
        negatives = torch.cat([block.negatives[where] for block, where in zip(blocks, at, strict=True)])
        return self.rank_loss.compute(picked, targets, negatives, vectors)

    def user_vectors(self, items: Tensor, offsets: Tensor, users: Tensor, vectors: ItemVectors | None = None) -> Tensor:
        """User vectors (n, D) of `users` (n,) after their whole history in the flat `items` and `offsets`.

        Users of similar length are encoded together; a user without history gets zeros. Without gradient.
        """
        with torch.no_grad():
            vectors = vectors or ItemVectors(self.item_vectors(), None)
            lengths = (offsets[users + 1] - offsets[users]).clamp(max=self.sizes.max_len)
            order = torch.argsort(lengths)
            order = order[torch.searchsorted(lengths[order], 1) :]
            out = vectors.vectors.new_zeros(len(users), vectors.vectors.shape[1])
            for chunk in length_chunks(lengths[order].cpu().numpy(), TOKENS):
                sequences, sizes = gather(items, offsets, users[order[chunk]], self.sizes.max_len)
                out[order[chunk]] = self.final(vectors.of(sequences), sizes)
            return out


class Flat(nn.Module):
    """Histories as flat, non-persistent buffers that follow the method to its device."""

    items: Tensor
    offsets: Tensor

    def __init__(self, histories: Histories) -> None:
        super().__init__()
        self.register_buffer("items", torch.from_numpy(histories.items), persistent=False)
        self.register_buffer("offsets", torch.from_numpy(histories.offsets), persistent=False)

    @property
    def lengths(self) -> Tensor:
        """(U + 1,) items of each user."""
        return self.offsets.diff()

    def of(self, users: Tensor, max_len: int) -> Tensor:
        """The last `max_len` items of each of `users` (n,), one after the other, flat."""
        ends = self.offsets[users + 1]
        lengths = (ends - self.offsets[users]).clamp(max=max_len)
        before = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum()), device=ends.device) - before.repeat_interleave(lengths)
        return self.items[(ends - lengths).repeat_interleave(lengths) + within]


methods: Registry[tuple[type[MethodConfig], type[Method]]] = Registry("method", __package__)
