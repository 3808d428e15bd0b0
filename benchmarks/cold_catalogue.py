"""Items of the catalogue without a training interaction, beside text-kNN: who finds them among all items?

One hundredth of Amazon Beauty's items, drawn at random, lose all their interactions but those that are the last of
their users: they are in the catalogue, with texts, and nothing is trained on them. Asked are the users whose last item
is one of them: HR@10 among all items, seen ones left out. It is done with three draws, the users of all are taken
together; `--first 3` takes three others. `--quick` takes one draw of a tenth of a part of the
bundled data and two epochs.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import polars as pl

import longtail as lt
import measure
from longtail.config import Value
from longtail.data.split import Split
from longtail.errors import LongtailError
from longtail.evaluation.protocol import rank_targets
from longtail.text.embeddings import Embeddings
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
SHARE, DRAWS, K = 0.01, 3, 10
METHODS = ("longtail", "text_knn")


class Cut(NamedTuple):
    """Data whose cold items are last items only, its split, and who is asked: users whose last item is cold."""

    split: Split
    vectors: Embeddings
    cold: int
    asked: np.ndarray


def cut(interactions: pl.DataFrame, items: pl.DataFrame, share: float, draw: int) -> Cut:
    """`share` of the items, drawn with that seed, without their interactions but the last of each user."""
    cold = items["item_id"].sample(fraction=share, seed=draw)
    rows = interactions.with_row_index("row").sort("user_id", "timestamp", "row")
    last = rows["user_id"] != rows["user_id"].shift(-1)
    kept = rows.filter(last.fill_null(value=True) | ~pl.col("item_id").is_in(cold.implode())).drop("row")
    data = lt.Dataset.read(kept, items, name=f"cold items, draw {draw}")
    split, names = data.leave_one_out(), set(cold.to_list())
    counts = split.train.counts(split.items)
    is_cold = np.array([False, *(name in names for name in data.items.ids.to_list())])
    assert not counts[is_cold].any()
    return Cut(split, lt.embed_items(data), int(is_cold.sum()), np.flatnonzero(is_cold[split.test]))


def ranks(method: str, made: Cut, quick: bool) -> np.ndarray:
    """Of the last items of those who are asked, from 0."""
    settings: dict[str, Value] = {"seed": 42}
    if method != "text_knn":
        settings["backbone"] = {"max_len": 50}
        settings["train"] = {"loss": "softmax", "lr": 2e-3, "patience": 4, "epochs": 2 if quick else 40}
    model = lt.Recommender(method, settings=settings).fit(made.split, items=made.vectors)
    found = rank_targets(model.scorer(), made.split, "test").filter(pl.col("user").is_in(made.asked.tolist()))
    return found["full"].to_numpy()


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first of the draws")
    given = parser.parse_args()
    quick = given.quick
    if quick:
        interactions, items = measure.small_tables()
    else:
        interactions, items = (pl.read_parquet(BEAUTY / f"{name}.parquet") for name in ("interactions", "items"))
    found: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    cold = []
    for draw in range(given.first, given.first + (1 if quick else DRAWS)):
        made = cut(interactions, items, 0.1 if quick else SHARE, draw)
        cold.append(made.cold)
        for name in METHODS:
            found[name].append(ranks(name, made, quick))
    hits = {name: np.concatenate(parts) < K for name, parts in found.items()}
    rates = {name: float(each.mean()) for name, each in hits.items()}
    paired = hits["longtail"].astype(float) - hits["text_knn"]
    error = float(paired.std(ddof=1) / len(paired) ** 0.5)
    claims = [
        Claim("HR@10 of cold items: longtail", rates["longtail"], "", target=rates["text_knn"], at_most=False),
        *(Claim(f"HR@10 of cold items: {name}", rates[name], "") for name in METHODS[1:]),
        Claim("longtail less text_knn", float(paired.mean()), "", target=0.0, at_most=False),
        Claim("its standard error over users", error, ""),
    ]
    by_draw = [{name: float((parts[at] < K).mean()) for name, parts in found.items()} for at in range(len(cold))]
    details: dict[str, object] = {"items": len(items), "cold": cold, "users": len(paired), "HR@10 by draw": by_draw}
    name = f"cold_catalogue_{given.first}" if given.first else ""
    measure.finish("cold_catalogue", claims, details, quick=quick, name=name)


if __name__ == "__main__":
    try:
        main()
    except LongtailError as error:
        sys.exit(str(error))
