"""Items that training never saw, added to a running bundle by their texts, beside the same items when they are trained.

Every tenth item of Amazon Beauty, drawn at random, is taken out of interactions and table; longtail is fitted on the
rest, exported, and the items are added to the bundle as POST /items adds them, text by text. Asked are the users whose
last item is one of them, with all they did before (held-out items in it are added items too): HR@10 and NDCG@10 over
the whole catalogue, seen items left out. Beside it: the same users and targets under longtail fitted on everything,
whose training holds out the last two items of each user, as always; a random list; and the held-out items alone ranked
among themselves, which asks for the text's part and not whether a new item can stand beside trained ones.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

import longtail as lt
import measure
from longtail.config import Value
from longtail.data.histories import Histories
from longtail.serve.bundle import open_bundle
from longtail.serve.export import export
from longtail.serve.live import Live
from longtail.serve.new_texts import NewTexts
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
SHARE, SEED, K = 0.1, 42, 10


def held_out(items: pl.DataFrame) -> pl.Series:
    """A tenth of the items' ids."""
    return items["item_id"].sample(fraction=SHARE, seed=SEED)


def fitted(interactions: pl.DataFrame, items: pl.DataFrame, run: Path, epochs: int | None) -> None:
    """longtail at its defaults."""
    data = lt.Dataset.read(interactions, items, name="beauty")
    train: dict[str, Value] = {} if epochs is None else {"epochs": epochs}
    model = lt.Recommender("longtail", "sasrec", {"seed": SEED, "backbone": {"max_len": 50}, "train": train})
    vectors = lt.embed_items(data)
    model.fit(data.leave_one_out(), items=vectors).save(run)
    export(run, run.with_suffix(".bundle"), items=vectors, compare=100)


def add(live: Live, items: pl.DataFrame) -> None:
    """As POST /items does."""
    texts = NewTexts(live.facts)
    for row in items.iter_rows(named=True):
        columns = {name: str(value) for name, value in row.items() if name in live.facts.columns and value}
        vector = texts.vector(None, str(row["title"] or ""), columns)
        live.apply(live.item_record(str(row["item_id"]), str(row["title"] or ""), columns, vector))


def ranks(live: Live, asked: list[tuple[list[str], str]], among: set[str] | None = None) -> np.ndarray:
    """Of each target after its history, from 0, ties against it."""
    found = []
    only = None if among is None else np.array([live.items.item(at) in among for at in range(1, len(live.items) + 1)])
    for history, target in asked:
        known = [place for place in map(live.items.find, history) if place]
        scores = live.runtime.scores([np.array(known, np.int64)])[0]
        own = scores[live.items.find(target)]
        scores[known] = -np.inf
        if only is not None:
            scores[1 : len(only) + 1][~only] = -np.inf
        found.append(int((scores >= own).sum()) - 1)
    return np.array(found)


def figures(found: np.ndarray) -> tuple[float, float]:
    """HR@10 and NDCG@10."""
    return float((found < K).mean()), float(np.where(found < K, 1 / np.log2(found + 2), 0).mean())


def main() -> None:
    options = measure.parser(__doc__)
    options.add_argument("--warm", type=Path, help="the bundle of a longtail that was fitted on everything")
    given = options.parse_args()
    interactions, items = (pl.read_parquet(BEAUTY / f"{name}.parquet") for name in ("interactions", "items"))
    cold = held_out(items)
    everything = lt.Dataset.read(interactions, items)
    histories: Histories = everything.histories()
    asked = []
    outside = set(cold)
    for user in range(1, histories.users + 1):
        *before, last = everything.items.external(histories.of(user)).to_list()
        if last in outside and before:
            asked.append((before, last))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        kept, rest = (
            interactions.filter(~pl.col("item_id").is_in(cold.implode())),
            items.filter(~pl.col("item_id").is_in(cold.implode())),
        )
        fitted(kept, rest, folder / "cold", 1 if given.quick else None)
        warm = given.warm
        if warm is None:
            fitted(interactions, items, folder / "warm", 1 if given.quick else None)
            warm = folder / "warm.bundle"
        live, trained = Live(open_bundle(folder / "cold.bundle")), Live(open_bundle(warm))
        add(live, items.filter(pl.col("item_id").is_in(cold.implode())))
        asked = [one for one in asked if any(map(live.items.find, one[0]))][: 200 if given.quick else None]
        found = {
            "added by text": ranks(live, asked), "trained": ranks(trained, asked),
            "added, among the added": ranks(live, asked, outside),
            "trained, among the same": ranks(trained, asked, outside),
        }  # fmt: skip
    rows = {name: figures(one) for name, one in found.items()}
    chance = K / len(items)
    claims = [
        Claim("held-out items added by text: HR@10", rows["added by text"][0], "", target=chance, at_most=False),
        *(Claim(f"{name}: {metric}", value, "") for name, both in rows.items()
          for metric, value in zip(("HR@10", "NDCG@10"), both, strict=True)),
        Claim("a random list: HR@10", chance, ""),
    ]  # fmt: skip
    details: dict[str, object] = {"items": len(cold), "users": len(asked), "figures": json.loads(json.dumps(rows))}
    measure.finish("cold_items", claims, details, quick=given.quick)


if __name__ == "__main__":
    main()
