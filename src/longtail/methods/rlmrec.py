"""RLMRec (Ren et al., WWW 2024, arXiv 2310.15950): users and items are aligned with the embeddings of their texts.

Made for graph models; here on a sequential backbone, whose user vector stands for the user's node and whose item table
for the items'. Both forms add a term to the ranking loss, and neither reads a text when it serves:

    contrastive  L = L_rank + weight (InfoNCE(u, m(s_u)) + InfoNCE(e_i, m(s_i)) + InfoNCE(e_j, m(s_j)))
                 over one training target i of each user of the batch and one of its negatives j, if the loss draws any
    generative   the vectors of a share of the batch's items are a learned [MASK] wherever a sequence holds them;
                 L = L_rank + weight InfoNCE(m(h), s), h the states of these items in a sequence, and user vectors of as
                 large a share of the users, s their texts
    InfoNCE      mean over n pairs x, y of -log(exp(cos(x_k, y_k) / tau) / sum over l of exp(cos(x_k, y_l) / tau))
    m            W2 LeakyReLU(W1 x + b1) + b2, widths E -> (E + d) / 2 -> d, or d -> (E + d) / 2 -> E

From the authors' released code (HKUDS/RLMRec): m; contrastive: tau .2, weight .01 (Steam: .1, .001); generative: share
.05 to .15, tau .1 to .5, weight .01 to .1. Differences: there the user term of the contrastive form contrasts with all
users, here with those of the batch, because m over all of them would cost more than the rest of the step; an item that
comes twice is contrasted once. There a masked user's own node is hidden; here users have no vector of their own: theirs
is made of what they did in any case. There the texts are profiles that an LLM wrote, here the prompts of longtail.text.
Not confirmed from a source: which form LLM-ESR's authors ran, and how they put it on a sequential backbone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from longtail.data.histories import BoolArray, Histories, IntArray
from longtail.errors import EmbeddingError
from longtail.methods.base import Knowledge, MethodConfig, Sizes, Step, TrainedMethod, generator, methods
from longtail.nn.backbones.base import Backbone
from longtail.nn.batch import SequenceBatch
from longtail.nn.contrast import info_nce
from longtail.nn.items import CollaborativeView, FloatArray, ItemVectors
from longtail.nn.layout import take
from longtail.nn.losses import RankLoss


class RLMRecConfig(MethodConfig):
    """RLMRec's settings; defaults as in its released code."""

    name: Literal["rlmrec"] = "rlmrec"
    form: Literal["contrastive", "generative"] = "contrastive"
    """RLMRec-Con or RLMRec-Gen."""
    weight: NonNegativeFloat = 0.01
    """Weight of the alignment."""
    temperature: PositiveFloat = 0.2
    """tau, by which cosines are divided."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Share of a batch's items that "generative" masks, and of its users that it asks for."""

    @property
    def needs_embeddings(self) -> bool:
        """What items are aligned with."""
        return True

    @property
    def needs_user_embeddings(self) -> bool:
        """What users are aligned with."""
        return True


class Pairs(NamedTuple):
    """For the contrastive form: users (n,), and their rows among the batch's user vectors; targets and negatives."""

    users: Tensor
    rows: Tensor
    positives: Tensor
    negatives: Tensor


class Masked(NamedTuple):
    """For the generative form: items (n,) and a token of each; users (m,), and their rows among the user vectors."""

    items: Tensor
    tokens: Tensor
    users: Tensor
    rows: Tensor


class RLMRec(TrainedMethod):
    """score(u, i) = e_i . f(e_1 ... e_n), trained beside an InfoNCE of vectors and texts."""

    item_texts: Tensor
    user_texts: Tensor

    def __init__(self, config: RLMRecConfig, backbone: Backbone, rank_loss: RankLoss, sizes: Sizes) -> None:
        super().__init__(config, backbone, rank_loss, sizes)
        self.settings = config
        d, E = sizes.d, sizes.embedding_width
        self.view = CollaborativeView(sizes.items, d, backbone.start)
        widths = (E, d) if config.form == "contrastive" else (d, E)
        self.map = nn.Sequential(nn.Linear(widths[0], (E + d) // 2), nn.LeakyReLU(), nn.Linear((E + d) // 2, widths[1]))
        self.mask = nn.Parameter(torch.zeros(d)) if config.form == "generative" else None
        for name in ("item_texts", "user_texts"):
            self.register_buffer(name, torch.empty(0, E), persistent=False)

    def prepare(self, train: Histories, knowledge: Knowledge) -> None:
        """Keep the embeddings, and know who and what has none."""
        items, users = knowledge.item_embeddings, knowledge.user_embeddings
        assert items is not None and users is not None
        if items.shape[1] != users.shape[1]:
            raise EmbeddingError(
                f"vectors of items are {items.shape[1]} wide and those of users {users.shape[1]}; rlmrec maps both "
                "alike: embed both with one model"
            )
        self.item_texts, self.user_texts = torch.from_numpy(items), torch.from_numpy(users)
        self.known_items, self.known_users = known(items), known(users)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, d): the trained table."""
        vectors: Tensor = self.view(ids)
        return vectors

    def start_epoch(self) -> None:
        """Other draws."""
        self.draws = generator()

    def plan(self, batch: SequenceBatch) -> Step:
        """The step with what it aligns."""
        drawn = self.pairs(batch) if self.settings.form == "contrastive" else self.masked(batch)
        return super().plan(batch)._replace(extra=drawn)

    def pairs(self, batch: SequenceBatch) -> Pairs:
        """A target of each user that has one, and the first of its own negatives."""
        ends, at = batch.sequences.layout.ends.numpy(), batch.at.numpy()
        order = self.draws.permutation(len(at))
        _, first = np.unique(np.searchsorted(ends, at[order]), return_index=True)
        chosen = order[first]  # of the tokens with a target, one a sequence
        drawn = batch.negatives.items.numpy()
        negatives = drawn[chosen, :1] if drawn.ndim == 2 else np.zeros(0, np.int64)
        users, rows = self.users(batch)
        return Pairs(
            torch.from_numpy(users),
            torch.from_numpy(rows),
            self.texted(batch.targets.numpy()[chosen]),
            self.texted(negatives),
        )

    def masked(self, batch: SequenceBatch) -> Masked:
        """Items to mask, and the users to ask for."""
        items = batch.sequences.items.numpy()
        order = self.draws.permutation(len(items))
        distinct, first = np.unique(items[order], return_index=True)
        there = np.flatnonzero(self.known_items[distinct])
        chosen = self.some(there)
        users, rows = self.users(batch)
        asked = self.some(np.arange(len(users)))
        found = (distinct[chosen], order[first[chosen]], users[asked], rows[asked])
        return Masked(*map(torch.from_numpy, found))

    def users(self, batch: SequenceBatch) -> tuple[IntArray, IntArray]:
        """The batch's users with a text, and their rows: user vectors are those of the last of its users, or of all."""
        users, ends = batch.users.numpy(), batch.sequences.layout.ends
        users = users[max(len(users) - len(ends), 0) :]
        rows = np.flatnonzero(self.known_users[users])
        return users[rows], rows

    def some(self, of: IntArray) -> IntArray:
        """The share of n that is masked, at least one, ascending."""
        count = min(max(int(len(of) * self.settings.share), 1), len(of))
        return np.sort(self.draws.choice(of, count, replace=False))

    def texted(self, items: IntArray) -> Tensor:
        """The distinct ones among these items that have a text."""
        distinct = np.unique(items)
        return torch.from_numpy(distinct[self.known_items[distinct]])

    def loss(self, step: Step) -> dict[str, Tensor]:
        """L_rank and the alignment."""
        vectors = ItemVectors(self.item_vectors(step.ids), step.ids)
        if isinstance(step.extra, Pairs):
            states = self.batch_states(step.batch, vectors)
            aligned = self.contrast(step.extra, states, step.batch, vectors)
        else:
            assert isinstance(step.extra, Masked)
            shown = self.hide(step.extra.items, vectors)
            states = self.batch_states(step.batch, shown)
            aligned = self.reconstruct(step.extra, states, step.batch, shown)
        rank = self.ranking(states, step.batch, vectors)
        return {"rank": rank, "alignment": self.settings.weight * aligned}

    forward = loss

    def contrast(self, pairs: Pairs, states: Tensor, batch: SequenceBatch, vectors: ItemVectors) -> Tensor:
        """Users, targets and negatives with their mapped texts."""
        u = take(self.batch_users(states, batch, vectors), pairs.rows)
        terms = [self.infonce(u, self.map(F.embedding(pairs.users, self.user_texts)))]
        for items in (pairs.positives, pairs.negatives):
            terms.append(self.infonce(vectors.of(items), self.map(F.embedding(items, self.item_texts))))
        return torch.stack(terms).sum()

    def hide(self, items: Tensor, vectors: ItemVectors) -> ItemVectors:
        """The step's vectors, with [MASK] for these items."""
        assert self.mask is not None
        rows = items if vectors.ids is None else torch.searchsorted(vectors.ids, items)
        hidden = vectors.vectors.index_copy(0, rows, self.mask.expand(len(rows), -1))
        return ItemVectors(hidden, vectors.ids)

    def reconstruct(self, masked: Masked, states: Tensor, batch: SequenceBatch, shown: ItemVectors) -> Tensor:
        """Mapped states of masked items and of users with their texts, all in one contrast."""
        u = take(self.batch_users(states, batch, shown), masked.rows)
        x = torch.cat([take(states, masked.tokens), u])
        items = F.embedding(masked.items, self.item_texts)
        return self.infonce(self.map(x), torch.cat([items, F.embedding(masked.users, self.user_texts)]))

    def infonce(self, x: Tensor, y: Tensor) -> Tensor:
        """InfoNCE of n pairs (n, w), by cosine; 0 for none."""
        return info_nce(x, y, self.settings.temperature) if len(x) else x.sum() * 0.0


def known(embeddings: FloatArray) -> BoolArray:
    """(n + 1,) whether there is a vector."""
    there: BoolArray = np.any(embeddings != 0, axis=1)
    return there


methods.register("rlmrec")((RLMRecConfig, RLMRec))
