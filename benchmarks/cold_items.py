"""Items that training never saw, added to a running bundle by their texts, beside the same items when they are trained.

Every tenth item of Amazon Beauty, drawn at random, is taken out of interactions and table; longtail is fitted on the
rest, exported, and the items are added to the bundle as POST /items adds them, text by text. Asked are the users whose
last item is one of them, with all they did before (held-out items in it are added items too): HR@10 and NDCG@10 over
the whole catalogue, seen items left out. Beside it: the same users and targets under longtail fitted on everything,
whose training holds out the last two items of each user, as always; a random list; and the held-out items alone ranked
among themselves, which asks for the text's part and not whether a new item can stand beside trained ones.
`--quick` does it with one epoch on a part of the bundled data.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

import longtail as lt
import measure
from longtail.config import Value, build
from longtail.data.dataset import Dataset
from longtail.errors import DataError, LongtailError
from longtail.model import ModelConfig
from longtail.serve.bundle import open_bundle
from longtail.serve.export import export
from longtail.serve.live import Live
from longtail.serve.new_texts import NewTexts
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
SHARE, SEED, K = 0.1, 42, 10


class Figures(NamedTuple):
    """Of one way of knowing the held-out items."""

    items: str
    hr: float
    ndcg: float


def untrained(quick: bool) -> lt.Recommender:
    """longtail at its defaults, for Beauty's short histories; one epoch of it."""
    train: dict[str, Value] = {"epochs": 1} if quick else {}
    return lt.Recommender("longtail", "sasrec", {"seed": SEED, "backbone": {"max_len": 50}, "train": train})


def fitted(data: Dataset, run: Path, quick: bool) -> Live:
    """Its bundle, after training on the data."""
    vectors = lt.embed_items(data)
    untrained(quick).fit(data.leave_one_out(), items=vectors).save(run)
    export(run, run.with_suffix(".bundle"), items=vectors, compare=100)
    return Live(open_bundle(run.with_suffix(".bundle")))


def given(bundle: Path, data: Dataset) -> Live:
    """A bundle that is of the same training on the same data; a DataError if it is not."""
    live = Live(open_bundle(bundle))
    if live.facts.data["hash"] != data.hash:
        raise DataError(f"--warm {bundle}: fitted on {live.facts.data['name']!r}, which is not all of these data")
    has = build(ModelConfig, live.facts.config, f"--warm {bundle}")  # settings it does not name are as they were then
    wanted, is_ = (flat(one.model_dump(mode="json")) for one in (untrained(quick=False).config, has))
    if other := [f"{name} = {is_.get(name)}, not {wanted.get(name)}" for name in {**wanted, **is_}
                 if wanted.get(name) != is_.get(name)]:  # fmt: skip
        raise DataError(f"--warm {bundle}: fitted with {'; '.join(other)}")
    return live


def flat(settings: object, name: str = "") -> dict[str, object]:
    """Nested settings by their whole names."""
    if not isinstance(settings, dict):
        return {name: settings}
    parts = ((f"{name}.{part}" if name else part, one) for part, one in settings.items())
    return {key: value for part, one in parts for key, value in flat(one, part).items()}


def add(live: Live, items: pl.DataFrame) -> None:
    """As POST /items does, with all columns that training read."""
    assert live.facts.text is not None
    texts, title = NewTexts(live.facts), live.facts.text.title
    for row in items.iter_rows(named=True):
        columns = {name: str(row[name]) for name in live.facts.text.columns if name != title and row[name] is not None}
        vector = texts.vector(None, str(row[title] or ""), columns)
        live.apply(live.item_record(str(row["item_id"]), str(row[title] or ""), columns, vector))


def ranks(live: Live, asked: list[tuple[list[str], str]], among: set[str] | None = None) -> np.ndarray:
    """Of each target after its history, from 0, ties against it."""
    found = []
    places = range(1, len(live.items) + 1)
    out = None if among is None else [place for place in places if live.items.item(place) not in among]
    for history, target in asked:
        known = [place for place in map(live.items.find, history) if place]
        scores = live.runtime.scores([np.array(known, np.int64)])[0]
        scores[known] = -np.inf
        if out is not None:
            scores[out] = -np.inf
        found.append(int((scores >= scores[live.items.find(target)]).sum()) - 1)
    return np.array(found)


def figures(items: str, found: np.ndarray) -> Figures:
    """HR@10 and NDCG@10 of ranks (n,)."""
    return Figures(items, float((found < K).mean()), float(np.where(found < K, 1 / np.log2(found + 2), 0).mean()))


def targets(data: Dataset, cold: set[str]) -> list[tuple[list[str], str]]:
    """Histories and last items of users whose last item is a held-out one that they had not before."""
    histories, found = data.histories(), []
    for user in range(1, histories.users + 1):
        *before, last = map(str, data.items.external(histories.of(user)))
        if last in cold and last not in before:
            found.append((before, last))
    return found


def main() -> None:
    options = measure.parser(__doc__)
    options.add_argument("--warm", type=Path, help="the bundle of a longtail fitted on everything, with defaults")
    asked_for = options.parse_args()
    quick = asked_for.quick
    if quick and asked_for.warm:
        options.error("--quick fits both on a part of the bundled data; leave --warm out")
    if quick:
        interactions, items = measure.small_tables()
    else:
        interactions, items = (pl.read_parquet(BEAUTY / f"{name}.parquet") for name in ("interactions", "items"))
    everything = lt.Dataset.read(interactions, items, name="all items")
    cold = items["item_id"].sample(fraction=SHARE, seed=SEED).implode()
    kept, rest = (table.filter(~pl.col("item_id").is_in(cold)) for table in (interactions, items))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        warm = given(asked_for.warm, everything) if asked_for.warm else fitted(everything, folder / "warm", quick)
        live = fitted(lt.Dataset.read(kept, rest, name="without a tenth"), folder / "cold", quick)
        add(live, items.filter(pl.col("item_id").is_in(cold)))
        outside = set(cold.explode())
        asked = [one for one in targets(everything, outside) if any(map(live.items.find, one[0]))]
        rows = [
            figures("added by text", ranks(live, asked)),
            figures("trained", ranks(warm, asked)),
            figures("added, among the added", ranks(live, asked, outside)),
            figures("trained, among the same", ranks(warm, asked, outside)),
        ]
    chance = K / len(items)
    claims = [
        Claim("held-out items added by text: HR@10", rows[0].hr, "", target=chance, at_most=False),
        Claim("the same items trained: HR@10", rows[1].hr, ""),
        Claim("a random list: HR@10", chance, ""),
    ]
    measured = [{"items": one.items, "HR@10": one.hr, "NDCG@10": one.ndcg} for one in rows]
    details: dict[str, object] = {"items": len(items), "held_out": len(outside), "users": len(asked), "rows": measured}
    measure.finish("cold_items", claims, details, quick=quick)


if __name__ == "__main__":
    try:
        main()
    except LongtailError as error:
        sys.exit(str(error))
