"""longtail's plain SASRec, through its public interface."""

from __future__ import annotations

import json
from pathlib import Path

import exchange
import polars as pl

import longtail as lt


def main() -> None:
    task = exchange.task()
    folder, interactions = Path(task.folder), pl.read_parquet(task.interactions)
    data = lt.Dataset.read(interactions.drop("part"), user="user", item="item", timestamp="timestamp")
    settings = {
        "seed": task.seed,
        "backbone": {
            "d": task.d,
            "max_len": task.max_len,
            "blocks": task.blocks,
            "heads": task.heads,
            "dropout": task.dropout,
        },
        "train": {
            "loss": task.loss,
            "lr": task.lr,
            "batch_size": task.batch_size,
            "rows": task.rows,
            "epochs": task.epochs,
            "patience": task.epochs,
            "device": "cpu",
        },
    }
    model = lt.Recommender("plain", "sasrec", settings).fit(data.leave_one_out(), run=folder / "run")
    for name, seen in (("valid", 1), ("test", 2)):
        known = interactions.filter(pl.col("part") < seen).sort("user", "timestamp")
        known = known.group_by("user", maintain_order=True).agg("item")
        best = model.recommend(histories=known["item"].to_list(), k=exchange.K)
        users = known["user"].gather(best["user"])
        best.select(user=users, rank="rank", item="item").write_parquet(folder / f"{name}.parquet")
    lines = (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    task.answer([json.loads(line)["train_s"] for line in lines], {"longtail": lt.__version__}, settings)


if __name__ == "__main__":
    main()
