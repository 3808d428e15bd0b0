"""RecBole's SASRec with its own loss, cross-entropy; its own split, prefixes, loader and trainer.

Repairs: setuptools < 81 (ray imports pkg_resources), numpy < 2 and pandas < 3 are pinned in the requirements. Its own
checkpoint does not load under torch >= 2.6, so none is written: `saved=False`, and the last epoch's weights are ranked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import exchange
import numpy as np
import pandas as pd
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

NAMES = {"user": "user_id:token", "item": "item_id:token", "timestamp": "timestamp:float"}


def settings_of(task: exchange.Task) -> dict[str, object]:
    """What differs from RecBole's defaults, whose feed-forward layer is four times as wide as the model."""
    return {
        "n_layers": task.blocks,
        "n_heads": task.heads,
        "hidden_size": task.d,
        "inner_size": task.d,
        "hidden_dropout_prob": task.dropout,
        "attn_dropout_prob": task.dropout,
        "hidden_act": "relu",
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": task.max_len,
        "learning_rate": task.lr,
        "train_batch_size": task.batch_size,
        "epochs": task.epochs,
        "seed": task.seed,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "use_gpu": False,
        "show_progress": False,
    }


def timed(train_epoch: Callable[..., object], seconds: list[float]) -> Callable[..., object]:
    """`train_epoch`, whose seconds are kept."""

    def run(*arguments: object, **named: object) -> object:
        started = time.perf_counter()
        loss = train_epoch(*arguments, **named)
        seconds.append(time.perf_counter() - started)
        return loss

    return run


def best(
    trainer: Trainer, loader: FullSortEvalDataLoader, data: SequentialDataset, known: pd.DataFrame
) -> pd.DataFrame:
    """The ten best unseen items a user. RecBole leaves the history in for sequential models; it is taken out here."""
    users = torch.from_numpy(data.token2id("user_id", known["user"].astype(str).to_numpy()))
    items = torch.from_numpy(data.token2id("item_id", known["item"].astype(str).to_numpy()))
    order = users.argsort(stable=True)
    starts = torch.searchsorted(users[order], torch.arange(data.user_num + 1))
    found = []
    for batch in loader:
        rows, scores, *_ = trainer._full_sort_batch_eval(batch)
        who = rows["user_id"]
        counts = starts[who + 1] - starts[who]
        seen = torch.cat([order[starts[one] : starts[one + 1]] for one in who])
        scores[torch.arange(len(who)).repeat_interleave(counts), items[seen]] = -torch.inf
        top = scores.topk(exchange.K, dim=1).indices
        frame = {
            "user": data.id2token("user_id", who.numpy()).astype(np.int64).repeat(exchange.K),
            "rank": np.tile(np.arange(1, exchange.K + 1), len(who)),
            "item": data.id2token("item_id", top.flatten().numpy()).astype(np.int64),
        }
        found.append(pd.DataFrame(frame))
    return pd.concat(found)


def main() -> None:
    task = exchange.task()
    folder, interactions = Path(task.folder), pd.read_parquet(task.interactions)
    (folder / "data").mkdir()
    rows = interactions.drop(columns="part").rename(columns=NAMES)
    rows.to_csv(folder / "data" / "data.inter", sep="\t", index=False)
    os.chdir(folder)  # it writes logs and TensorBoard files where it is called
    settings = settings_of(task)
    config = Config(model="SASRec", dataset="data", config_dict={**settings, "data_path": str(folder)})
    torch.set_num_threads(task.threads)
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    train, valid, test = data_preparation(config, data)
    model = get_model(config["model"])(config, train._dataset).to(config["device"])
    trainer, seconds = get_trainer(config["MODEL_TYPE"], config["model"])(config, model), []
    trainer._train_epoch = timed(trainer._train_epoch, seconds)
    trainer.fit(train, saved=False, show_progress=False)
    trainer.model.eval()
    trainer.tot_item_num = data.item_num
    with torch.no_grad():
        for name, loader, parts in (("valid", valid, 1), ("test", test, 2)):
            known = interactions[interactions["part"] < parts]
            best(trainer, loader, data, known).to_parquet(folder / f"{name}.parquet", index=False)
    task.answer(seconds, {"recbole": recbole.__version__, "pandas": pd.__version__}, settings)


if __name__ == "__main__":
    main()
