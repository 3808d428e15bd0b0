"""Training that begins where a finished one ended: old weights in a method for more items, and a few epochs of news."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from longtail.config import Config
from longtail.data.histories import BoolArray, Histories, IntArray
from longtail.data.split import Split
from longtail.errors import RunError
from longtail.methods.base import TrainedMethod, Validation
from longtail.nn.items import CollaborativeView, FloatArray
from longtail.nn.negatives import Sampler
from longtail.train.checkpoint import snapshot
from longtail.train.loop import Place, TrainConfig, train
from longtail.train.replay import Replay

log = logging.getLogger(__name__)


class UpdateConfig(Config):
    """How a finished run goes on with what is new; defaults were chosen on validation (docs/scale_update.md)."""

    lr: PositiveFloat = 5e-4
    """Adam's learning rate, which begins anew."""
    epochs: NonNegativeInt = 5
    """Epochs at most, each of all new targets; 0 only lets new users, items and histories in."""
    patience: PositiveInt = 1
    """Epochs without a better validation NDCG@10 before training stops."""
    replay: NonNegativeFloat = 1.0
    """Old targets in an epoch, as a share of the new ones, so that what is old is not forgotten."""
    batch_size: PositiveInt = 512
    """Targets a step; users, for methods that do not train on prefixes."""
    validated: float = Field(default=1.0, ge=0)
    """Users without news who validate, as a share of those with."""
    choose: bool = False
    """Whether what the method chooses on validation when training ends is chosen again, or stays as it was."""


class Warm(NamedTuple):
    """A finished training and what came after it.

    state: the weights it ended with. items: (I_old + 1,) where its items are now. counts: (I + 1,) their interactions
    in that training. max_len: the items of a history that it read. new: (n,) which of the training items now were no
    targets then. validated: whose targets choose the epoch. cold: whether there are items that nobody touched.
    vectors: (I + 1, E) embeddings of the items' texts, or None. identity: of all that, for the checkpoint.
    """

    state: Mapping[str, Tensor]
    items: IntArray
    counts: IntArray
    max_len: int
    new: BoolArray
    validated: Split
    cold: bool
    vectors: FloatArray | None
    config: UpdateConfig
    identity: str

    def start(self, method: TrainedMethod) -> None:
        """Old weights into the prepared `method`; vectors of new items from their texts."""
        carry(self.state, method, self.items)
        fresh = np.ones(method.sizes.items + 1, np.bool_)
        fresh[self.items] = False
        for view in method.modules():
            if isinstance(view, CollaborativeView):
                view.fill(self.vectors, self.counts, fresh)

    def train(
        self,
        method: TrainedMethod,
        histories: Histories,
        drawn: Sampler,
        config: TrainConfig,
        seed: int,
        place: Place | None,
        validate: Callable[[Split], Validation],
    ) -> None:
        """Start the prepared `method`, and train it on what is new; it stays as it started if validation says so.

        config: how the finished training was; its learning rate, epochs, patience and rows are those of an update here.
        """
        self.start(method)
        settings = self.config
        can = method.backbone.masked is None and not method.backbone.last_only and not method.drops_last
        whole = method.batches(histories, drawn, config.batch_size, prefixes=can)
        batches = Replay(whole, self.new, share=settings.replay, size=settings.batch_size)
        method.train().eval()  # which folds what is folded for evaluation
        begun, before = snapshot(method), validate(self.validated).overall
        if len(batches.new) and settings.epochs:
            tuned = {"lr": settings.lr, "epochs": settings.epochs, "patience": settings.patience}
            tuning = config.model_copy(update=tuned)
            done = train(method, batches, lambda: validate(self.validated).overall, tuning, seed, place)
            log.info("validation NDCG@10 %.4f before, %.4f after epoch %d", before, done.best, done.best_epoch)
            if done.best <= before:
                log.warning("training on what is new gained nothing on validation; the weights stay as they were")
                method.load_state_dict(begun)
        method.eval()
        if settings.choose:
            method.choose(lambda: validate(self.validated))


def carry(state: Mapping[str, Tensor], method: TrainedMethod, items: IntArray) -> None:
    """The weights of another training into `method`: by row where there is one an item, else whole.

    items: (I_old + 1,) where the rows of before belong, 0 first. What `prepare` found an item, such as edges and
    counts, stays. A RunError if the weights are of another shape than the method's.
    """
    rows, weights = torch.from_numpy(items), dict(method.named_parameters())
    with torch.no_grad():
        for name, mine in method.state_dict().items():
            was = state.get(name)
            an_item = mine.ndim > 0 and len(mine) == method.sizes.items + 1
            if an_item and was is not None and was.ndim == mine.ndim and len(was) == len(items):
                if name in weights:
                    mine[rows] = was.to(mine.device)
            elif was is not None and was.shape == mine.shape:
                mine.copy_(was)
            else:
                shape = None if was is None else tuple(was.shape)
                raise RunError(f"weights {name!r} are {shape}, not {tuple(mine.shape)}; fit again")
