"""`longtail` beside figures of other systems on the same targets: Amazon Beauty 2014 5-core, full ranking, test.

Of the others only means are known and no ranks of users, so that users cannot be paired. The test is one-sided Welch's
on the difference to a mean whose users spread as much as ours and who have nothing in common with ours: both make it
harder to pass than it would be if users were paired, because who is easy for one system is easy for another. Holm over
all rows.
`python benchmarks/beyond_peers.py runs/out/beyond/beauty-longtail-*` prints the table of docs/beyond.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import NormalDist

import numpy as np
import polars as pl

from longtail.data.groups import groups
from longtail.evaluation.metrics import ndcg
from longtail.evaluation.statistics import holm
from longtail.recommender import load

PEERS = {  # NDCG@10 of all targets and of tail items, as measured with the systems' own code
    "text-kNN, last item": (0.0342, 0.0385),
    "item-kNN, cosine": (0.0326, 0.0273),
    "item-kNN with recency .6": (0.0399, 0.0325),
    "implicit ALS, 128 factors": (0.0283, 0.0019),
    "EASE": (0.0374, 0.0144),
    "RecTools SASRec, BCE, 11 epochs": (0.0119, 0.0004),
    "RecTools SASRec, softmax, lr 1e-3, 8 epochs": (0.0348, 0.0071),
    "RecTools SASRec, softmax, lr 3e-3, 10 epochs": (0.0495, 0.0214),
    "RecTools UniSRec, PCA adaptor, 4 epochs": (0.0209, 0.0184),
    "RecTools eSASRec, 5 epochs": (0.0289, 0.0045),
    "LLM-ESR as published, 40 epochs": (0.0231, 0.0036),
    "LLM-ESR as published, with a content term": (0.0341, 0.0140),
    "softmax SASRec and both kNN terms, a first trial": (0.0605, 0.0408),
}


def values(runs: list[Path]) -> list[np.ndarray]:
    """NDCG@10 of each test target, averaged over runs: of all, and of tail items."""
    found = []
    for run in runs:
        ranks = pl.read_parquet(run / "ranks.parquet").filter(split="test").sort("user")
        found.append(ndcg(ranks["full"].to_numpy(), 10))
    model = load(runs[0])
    head = groups(model.split).head_items[ranks["target"].to_numpy()]
    every = np.mean(found, axis=0)
    return [every, every[~head]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="evaluated run folders, a seed each")
    ours = values(parser.parse_args().runs)
    means = [float(each.mean()) for each in ours]
    errors = [float(each.std(ddof=1)) * (2 / len(each)) ** 0.5 for each in ours]
    ps = holm([NormalDist().cdf((peer[at] - means[at]) / errors[at]) for peer in PEERS.values() for at in (0, 1)])
    print("| NDCG@10 | all | corrected p | tail items | corrected p |\n| --- | --- | --- | --- | --- |")
    print(f"| longtail | {means[0]:.4f} | | {means[1]:.4f} | |")
    for (name, (every, tail)), (one, other) in zip(PEERS.items(), ps.reshape(-1, 2).tolist(), strict=True):
        print(f"| {name} | {every:.4f} | {told(one)} | {tail:.4f} | {told(other)} |")


def told(p: float) -> str:
    """A p-value to one digit."""
    return "< 1e-12" if p < 1e-12 else f"{p:.0e}"


if __name__ == "__main__":
    main()
