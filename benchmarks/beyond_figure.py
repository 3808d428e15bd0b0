"""Draw docs/beyond.svg: NDCG@10 overall against that of tail items on Amazon Beauty's test items, full ranking.

One mark a case of docs/results/beyond.json, means over seeds with deviations, and the line of the dial's values of one
run of `longtail`, its default ringed: `python benchmarks/beyond_figure.py --run runs/out/beyond/beauty-longtail-42`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from longtail.evaluation.plots import COLOURS, MARKS, save
from longtail.evaluation.report import evaluate
from longtail.nn.dial import DIAL
from longtail.recommender import load

DOCS = Path(__file__).resolve().parent.parent / "docs"
GROUPS = ("tail_items", "all")  # of x and y


def points(prefix: str) -> dict[str, np.ndarray]:
    """(seeds, 2) of each case whose name begins so."""
    rows = json.loads((DOCS / "results" / "beyond.json").read_text(encoding="utf-8"))
    found: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        if row["case"].startswith(prefix) and (row["protocol"], row["metric"]) == ("full", "ndcg@10"):
            seeds = found.setdefault(row["case"].removeprefix(prefix), {})
            seeds.setdefault(row["seed"], {})[row["group"]] = row["value"]
    return {
        case: np.array([[values[group] for group in GROUPS] for values in seeds.values()])
        for case, seeds in found.items()
    }


def dialled(run: Path) -> tuple[np.ndarray, float]:
    """(values, 2) of the dial, and what the run has."""
    model = load(run)
    assert model.method is not None and model.method.dial is not None
    has, found = float(model.method.dial), []
    for value in DIAL:
        model.method.dial.fill_(value)
        report = evaluate(model, model.split, name="test")
        found.append([report.value("ndcg@10", group) for group in GROUPS])
    return np.array(found), has


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--run", type=Path, required=True, help="a run of longtail on Beauty")
    made.add_argument("--prefix", default="beauty-", help="what the cases' names begin with")
    given = made.parse_args()
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    line, has = dialled(given.run)
    axes.plot(line[:, 0], line[:, 1], color=COLOURS[0], linewidth=1.2, marker=".", label="longtail, dial 0 to 1")
    at = line[int(np.abs(np.array(DIAL) - has).argmin())]
    axes.plot(*at, "o", markersize=11, markerfacecolor="none", color=COLOURS[0])
    for place, (case, values) in enumerate(points(given.prefix).items()):
        mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(2)
        look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKS[place % len(MARKS)]}
        axes.errorbar(*mean, xerr=spread[0], yerr=spread[1], linestyle="none", label=case, capsize=2, **look)
    axes.set_xlabel("NDCG@10, tail items")
    axes.set_ylabel("NDCG@10, all")
    axes.legend(fontsize=8)
    print(save(figure, DOCS / "beyond"))


if __name__ == "__main__":
    main()
