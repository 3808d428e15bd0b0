"""RecTools' SASRec as shipped: its own trainer, loader and losses; the defaults where the task says nothing."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import exchange
import pandas as pd
import pytorch_lightning as lightning
import rectools
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

NAMES = {"user": Columns.User, "item": Columns.Item, "timestamp": Columns.Datetime}
LOSSES = {"softmax": "softmax", "bce": "BCE"}


class Clock(lightning.Callback):
    """Seconds of each epoch, from its start to its end."""

    def __init__(self) -> None:
        self.started, self.seconds = 0.0, []

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def dataset(interactions: pd.DataFrame, parts: int) -> Dataset:
    """The interactions of the first `parts` parts."""
    rows = interactions[interactions["part"] < parts].drop(columns="part").rename(columns=NAMES)
    rows[Columns.Datetime] = pd.to_datetime(rows[Columns.Datetime], unit="s")
    return Dataset.construct(rows.assign(**{Columns.Weight: 1.0}))


def main() -> None:
    warnings.filterwarnings("ignore")
    task = exchange.task()
    lightning.seed_everything(task.seed, verbose=False)
    interactions = pd.read_parquet(task.interactions)
    settings = {
        "n_blocks": task.blocks,
        "n_heads": task.heads,
        "n_factors": task.d,
        "dropout_rate": task.dropout,
        "session_max_len": task.max_len,
        "loss": LOSSES[task.loss],
        "lr": task.lr,
        "batch_size": task.batch_size,
        "epochs": task.epochs,
    }
    model, clock = SASRecModel(**settings), Clock()
    model._trainer.callbacks.append(clock)  # the trainer stays as shipped; `fit` trains a copy of it
    train = dataset(interactions, 1)
    model.fit(train)
    users = interactions["user"].unique()
    for name, known in (("valid", train), ("test", dataset(interactions, 2))):
        best = model.recommend(users, known, k=exchange.K, filter_viewed=True)
        best = best.rename(columns={Columns.User: "user", Columns.Item: "item", Columns.Rank: "rank"})
        best[["user", "rank", "item"]].to_parquet(Path(task.folder) / f"{name}.parquet", index=False)
    clock = next(one for one in model.fit_trainer.callbacks if isinstance(one, Clock))
    versions = {"rectools": rectools.__version__, "pytorch-lightning": lightning.__version__}
    task.answer(clock.seconds, versions, settings)


if __name__ == "__main__":
    main()
