"""Full ranking: each user's test item against the whole catalogue, beside 100 sampled candidates; time and memory.

The models are untrained, which changes no figure here. Beauty is Amazon Beauty 2014 where it lies beside the project,
else synthetic data of its size. The naive reference does what is common elsewhere: sequences padded to 50, one matrix
of all scores, and a full sort of each of its rows; its model is torch's own transformer of the same size.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

import longtail as lt
import measure
from longtail.data.histories import Histories, offsets_of
from longtail.data.ids import IdMap
from longtail.data.split import Split, leave_one_out
from longtail.evaluation.protocol import ProtocolConfig, rank_targets
from longtail.methods.base import Sizes
from longtail.model import build_method
from longtail.recommender import Recommender
from longtail.run_folder import Known
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
BEAUTY_USERS, BEAUTY_ITEMS, MAX_LEN = 22_363, 12_101, 50
WIDTH = 384  # of the embeddings LLM-ESR would have been trained with
BATCH = 256  # sequences the naive reference encodes at once


class Case(NamedTuple):
    """What is ranked. users: 0 for all of Beauty. D: width of the vectors, two views of D / 2 in LLM-ESR."""

    method: str
    D: int
    users: int = 0
    items: int = BEAUTY_ITEMS


class Cost(NamedTuple):
    """Median seconds of a ranking; peak MB of the process, above the model and the split, and in all."""

    seconds: float
    above: float
    total: float


class Growth(NamedTuple):
    """The time of one case, in which only `axis` differs from the others of that axis."""

    axis: str
    size: int
    seconds: float


AXES = {
    "users": [Case("plain", 64, users, BEAUTY_ITEMS) for users in (5_000, 10_000, 20_000, 40_000, 80_000)],
    "items": [Case("plain", 64, 10_000, items) for items in (12_500, 50_000, 200_000, 800_000)],
    "width": [Case("plain", D, 10_000, 50_000) for D in (32, 64, 128, 256)],
}
QUICK_AXES = {
    "users": [Case("plain", 64, users, BEAUTY_ITEMS) for users in (2_000, 8_000)],
    "items": [Case("plain", 64, 2_000, items) for items in (12_500, 50_000)],
    "width": [Case("plain", D, 2_000, 50_000) for D in (64, 128)],
}


def synthetic(users: int, items: int) -> Split:
    """Histories as long as Beauty's, 9 items in the mean and 5 at least, and popular items that are far more so."""
    generator = np.random.default_rng(0)
    lengths = 4 + generator.geometric(0.2, users)
    bought = 1 + (items * generator.random(lengths.sum()) ** 2).astype(np.int64)
    return leave_one_out(Histories(bought, offsets_of(lengths)), items)


def load(case: Case) -> Split:
    """The split that a case ranks."""
    if case.users or not BEAUTY.is_dir():
        return synthetic(case.users or BEAUTY_USERS, case.items)
    return lt.Dataset.read(BEAUTY / "interactions.parquet", BEAUTY / "items.parquet").leave_one_out()


def untrained(case: Case, split: Split) -> Recommender:
    """A model as it would be loaded, with the weights it starts from."""
    d = case.D // 2 if case.method == "llmesr" else case.D
    model = Recommender(case.method, "sasrec", {"backbone": {"d": d, "max_len": MAX_LEN}})
    torch.manual_seed(0)
    model.method = build_method(model.config, Sizes(split.items, WIDTH, d, MAX_LEN))
    if case.method == "llmesr":
        model.method.get_buffer("semantic.table").normal_(std=0.02)  # what the map has made of the embeddings
    users, items = (IdMap(pl.int_range(n, eager=True)) for n in (split.train.users, split.items))
    model.known = Known(users, items, pl.DataFrame(), split, "benchmark", "")
    return model


def rank(model: Recommender) -> pl.DataFrame:
    """Ours: what `evaluate` does before it counts by group."""
    return rank_targets(model.scorer(), model.split, "test", ProtocolConfig())


def cost(case: Case, repeats: int) -> Cost:
    """Of our ranking; to be run in a fresh process."""
    model = untrained(case, load(case))
    before, base = measure.peak_memory(reset=True), measure.memory()
    seconds = measure.seconds(lambda: rank(model), repeats)
    peak = measure.peak_memory()
    return Cost(seconds, peak - base, max(before, peak))


def growth(cases: dict[str, list[Case]], repeats: int) -> list[Growth]:
    """The time of each case; one process for all."""
    sizes = {"users": lambda case: case.users, "items": lambda case: case.items, "width": lambda case: case.D}
    found = []
    for axis, along in cases.items():
        for case in along:
            model = untrained(case, load(case))
            found.append(Growth(axis, sizes[axis](case), measure.seconds(partial(rank, model), repeats)))
    return found


def exponent(points: list[Growth]) -> float:
    """p of time ~ size^p, from the first size to the last."""
    first, last = points[0], points[-1]
    return math.log(last.seconds / first.seconds) / math.log(last.size / first.size)


class Naive:
    """The reference: everything padded, everything at once."""

    def __init__(self, model: Recommender, users: int) -> None:
        self.split = model.split.select(np.flatnonzero(model.split.test)[: users or None])
        self.vectors = model.method.item_vectors().detach() if model.method else torch.empty(0)  # (I + 1, D)
        D = self.vectors.shape[1]
        layer = torch.nn.TransformerEncoderLayer(D, 1, D, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()

    def encode(self) -> Tensor:
        """User vectors (U, D) from sequences of MAX_LEN, padded on the left."""
        history = self.split.history("test")
        back = np.arange(MAX_LEN, 0, -1)
        places = history.offsets[2:, None] - back
        padded = np.where(back <= history.lengths[1:, None], history.items[np.maximum(places, 0)], 0)
        causal = torch.nn.Transformer.generate_square_subsequent_mask(MAX_LEN)
        batches = torch.split(torch.from_numpy(padded), BATCH)
        with torch.no_grad():
            return torch.cat([self.encoder(self.vectors[batch], causal, is_causal=True)[:, -1] for batch in batches])

    def rank(self, u: Tensor) -> npt.NDArray[np.int64]:
        """Ranks (U,) by one matrix of scores (U, I + 1) and a sort of its rows."""
        history = self.split.history("test")
        scores = u @ self.vectors.T
        goal = torch.from_numpy(self.split.test[1:, None])
        own = scores.gather(1, goal)
        scores[:, 0] = -torch.inf
        scores[torch.from_numpy(history.owners() - 1), torch.from_numpy(history.items)] = -torch.inf
        scores.scatter_(1, goal, own)
        order = torch.argsort(scores, dim=1, descending=True)
        return (order == goal).nonzero()[:, 1].numpy()


def naive(users: int, repeats: int) -> tuple[Cost, Cost, float]:
    """The reference's cost, ours on the same users, and the share of users to whom both give the same rank."""
    model = untrained(Case("plain", 64), load(Case("plain", 64)))
    reference = Naive(model, users)
    assert model.known is not None and model.method is not None
    model.known = model.known._replace(split=reference.split)
    costs = []
    for run in (lambda: rank(model), lambda: reference.rank(reference.encode())):
        before, base = measure.peak_memory(reset=True), measure.memory()
        seconds = measure.seconds(run, repeats)
        peak = measure.peak_memory()
        costs.append(Cost(seconds, peak - base, max(before, peak)))
    model.method.eval()
    u = model.method.user_vectors(reference.split.history("test"), np.arange(1, reference.split.train.users + 1))
    same = float((reference.rank(u) == rank(model)["full"].to_numpy()).mean())
    return costs[1], costs[0], same


def main() -> None:
    """Measure, show, claim."""
    quick = measure.parser(__doc__).parse_args().quick
    repeats = 2 if quick else 5
    users, items = (1_000, 200_000) if quick else (10_000, 1_000_000)
    plain, llmesr = (measure.isolated(cost, Case(*one), repeats) for one in (("plain", 64), ("llmesr", 128)))
    large = {
        name: measure.isolated(cost, Case(name, D, users, items), 1 if quick else 3)
        for name, D in (("plain", 64), ("llmesr", 128))
    }
    reference, beside, same = measure.isolated(naive, 2_000 if quick else 0, 1)
    points = measure.isolated(growth, QUICK_AXES if quick else AXES, 1 if quick else 3)
    measure.table("growth", [point._asdict() for point in points])
    claims = [
        Claim("Beauty, plain, D=64: full ranking", plain.seconds, "s", target=3),
        Claim("Beauty, LLM-ESR, D=128: full ranking", llmesr.seconds, "s", target=3),
        Claim("Beauty, plain: peak above the model", plain.above, "MB", target=500),
        Claim("Beauty, LLM-ESR: peak above the model", llmesr.above, "MB", target=500),
        *(Claim(f"{users:,} x {items:,}, {name}: peak in all", large[name].total, "MB", 4096) for name in large),
        *(Claim(f"{users:,} x {items:,}, {name}: full ranking", large[name].seconds, "s") for name in large),
        Claim("naive time / ours", reference.seconds / beside.seconds, "x"),
        Claim("naive memory / ours, above the model", reference.above / beside.above, "x"),
        Claim("users with the same rank as by a sort", same, "share", target=0.999, at_most=False),
        *(Claim(f"time ~ {axis}^p: p", exponent([one for one in points if one.axis == axis]), "") for axis in AXES),
    ]
    details: dict[str, object] = {
        "data": "Amazon Beauty 2014" if BEAUTY.is_dir() else "synthetic, of the size of Amazon Beauty 2014",
        "beauty": {"plain, D=64": plain._asdict(), "llmesr, D=128": llmesr._asdict()},
        "large": {name: {"users": users, "items": items, **one._asdict()} for name, one in large.items()},
        "naive": {"reference": reference._asdict(), "ours": beside._asdict()},
        "growth": [point._asdict() for point in points],
    }
    measure.finish("full_ranking", claims, details, quick=quick)


if __name__ == "__main__":
    main()
