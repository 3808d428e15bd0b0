"""Ten million users, a hundred million interactions, a million items on one machine: what each step takes and needs.

The table is made up: items in topics of unequal size, whose LLM vectors lie around the topic's; users with two
favourite topics and three items at least. Then, each in a process of its own: preparation within --memory, similar
users of all by the vectors of their items, the default method's edges, a slice of an epoch of training, and lists for
all users. What is left in --folder by a run that was stopped is not made again.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq
import torch

import measure
from longtail import nearby, pipeline
from longtail.data.cooccurrence import followers
from longtail.data.dataset import Dataset
from longtail.data.memory import parse
from longtail.data.split import Split
from longtail.errors import DataError
from longtail.files import write_parquet
from longtail.methods import longtail as default
from longtail.methods.base import Knowledge
from longtail.model import ModelConfig, build_method, sizes_of
from longtail.neighbors import users_by_cells
from longtail.nn.losses import sampler
from longtail.recommender import Recommender
from longtail.retrieval import DiscountedMeans
from longtail.run_folder import Known
from longtail.serve import everybody
from longtail.train.engine import Engine, seeded
from measure import Claim

WIDTH, K, FEWEST = 384, 10, 3
USERS, QUICK = 10_000_000, 20_000  # users; ten interactions each in the mean, and a tenth as many items
GROUP = 500_000  # users whose rows are written together
TOPICS, DECAY, SCATTER = 200, 0.45, 0.8  # items a topic in the mean; vectors as in similar_users.py
FAVOURITES = 0.6, 0.85  # interactions within the first, and within either, of two favourite topics
SEGMENTS, STEPS, T = 5, 40, 2.776  # of the slice of an epoch; Student's t of 95 %, four degrees of freedom
LIMIT = 16 * 1024  # MB
METHOD = {"name": "longtail", "tail": 0.2}
TRAINING = {"loss": "sampled_softmax", "validation_users": 10_000}
LARGE, SMALL = 4096, 64  # users a step, of many users and of few

Floats = npt.NDArray[np.float32]


class Figures(NamedTuple):
    """Of one step: seconds, the process's peak memory in MB, all and anonymous, and what else there is to tell."""

    seconds: float
    peak_mb: float
    more: dict[str, float]


def topics(items: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Where each topic's items begin (T + 1,), and its share of them (T,)."""
    size = 1 / (10 + np.arange(max(items // TOPICS, 2)))
    size /= size.sum()
    return np.concatenate([[0], np.round(np.cumsum(size) * items)]).astype(np.int64), size


def generate(folder: Path, users: int) -> dict[str, float]:
    """The tables: interactions.parquet, in no order, and vectors.npy (I, WIDTH) of items by number."""
    rng, items = np.random.default_rng(0), users // 10
    starts, size = topics(items)
    writer, rows = None, 0
    for start in range(0, users, GROUP):
        n = min(GROUP, users - start)
        lengths = FEWEST + rng.geometric(1 / 8, n) - 1
        owner = np.repeat(np.arange(n), lengths)
        favourite, other = (rng.choice(len(size), n, p=size)[owner] for _ in range(2))
        draw = rng.random(len(owner))
        rest = rng.choice(len(size), len(owner), p=size)
        topic = np.where(draw < FAVOURITES[0], favourite, np.where(draw < FAVOURITES[1], other, rest))
        width = np.maximum(starts[topic + 1] - starts[topic], 1)
        item = np.minimum(starts[topic] + (width * rng.random(len(owner)) ** 2).astype(np.int64), items - 1)
        moment = 1_300_000_000 + rng.integers(0, 300_000_000, len(owner))
        order = rng.permutation(len(owner))
        frame = pl.DataFrame({"user_id": start + owner[order], "item_id": item[order], "timestamp": moment[order]})
        table = frame.with_columns(
            pl.format("A{}", (pl.col("user_id") * 2_654_435_761 % 10**13).cast(pl.String).str.zfill(13)).alias(
                "user_id"
            ),
            pl.format("B{}", pl.col("item_id").cast(pl.String).str.zfill(9)).alias("item_id"),
        ).to_arrow()
        writer = writer or pq.ParquetWriter(folder / "interactions.parquet", table.schema)
        writer.write_table(table)
        rows += len(owner)
    assert writer is not None
    writer.close()
    np.save(folder / "vectors.npy", made_up(items, starts, rng))
    return {"interactions": rows, "users": users, "items": items}


def made_up(items: int, starts: npt.NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """(I, WIDTH) around the topics' vectors, all with one direction in common."""
    scale = (1.0 + np.arange(WIDTH, dtype=np.float32)) ** -DECAY
    scale /= np.linalg.norm(scale)
    centres = rng.standard_normal((len(starts) - 1, WIDTH), np.float32) * scale
    made, common = np.empty((items, WIDTH), np.float32), rng.standard_normal(WIDTH, np.float32) / WIDTH**0.5
    for start in range(0, items, GROUP):
        stop = min(start + GROUP, items)
        topic = np.searchsorted(starts, np.arange(start, stop), side="right").clip(1, len(starts) - 1) - 1
        made[start:stop] = (
            centres[topic] + SCATTER * scale * rng.standard_normal((stop - start, WIDTH), np.float32) + common
        )
    return made


def prepare(folder: Path, memory: str) -> dict[str, float]:
    """`longtail prepare`."""
    config = pipeline.DataConfig(interactions=str(folder / "interactions.parquet"), min_user=FEWEST, min_item=FEWEST)
    pipeline.prepare_within(config, folder / "data", parse(memory) if memory else None)
    return {}


def opened(folder: Path, width: int) -> tuple[Split, Floats]:
    """The split of what was prepared, and the first `width` numbers of the items' vectors (I + 1, E) by internal id.

    Their variance falls from the first number to the last, as that of principal components.
    """
    split = Dataset.load(folder / "data").leave_one_out()
    assert split.data is not None
    number = split.data.items.ids.str.strip_prefix("B").cast(pl.Int64).to_numpy()
    vectors = np.zeros((len(number) + 1, width), np.float32)
    vectors[1:] = np.load(folder / "vectors.npy", mmap_mode="r")[number, :width]
    return split, vectors


def similar(folder: Path, width: int) -> dict[str, float]:
    """What `neighbors.similarity = "popularity"` compares, by cells, into a table."""
    started = time.perf_counter()
    split, vectors = opened(folder, width)
    reading = time.perf_counter() - started
    found = users_by_cells(DiscountedMeans(split.train, vectors), K)
    rows, ranks = np.nonzero(found.neighbors)
    frame = {"user": rows.astype(np.uint32), "rank": (ranks + 1).astype(np.uint8)}
    del rows, ranks
    frame["neighbor"] = found.neighbors[found.neighbors > 0].astype(np.uint32)
    write_parquet(folder / "neighbors.parquet", pl.DataFrame(frame))
    return {"reading": reading, "recall": found.recall, "width": width}


def train(folder: Path, width: int) -> dict[str, float]:
    """The default method's edges; a slice of an epoch; the run folder as `fit` writes it."""
    split, vectors = opened(folder, width)
    data = split.data
    assert data is not None
    size = LARGE if split.train.users > 40 * LARGE else SMALL
    training = {**TRAINING, "batch_size": size}
    config = ModelConfig.model_validate({"method": METHOD, "train": training, "backbone": {"name": "sasrec"}})
    assert config.train is not None
    spent: list[float] = []

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = followers(*given, **named)
        spent.append(time.perf_counter() - began)
        return found

    vars(default)["followers"] = timed  # by how much it is of the edges
    knowledge, started = Knowledge(vectors), time.perf_counter()
    with seeded(config.seed, 0):
        method = build_method(config, sizes_of(config, split.train, split.items, knowledge, None))
        method.prepare(split.train, knowledge)
    edges = time.perf_counter() - started
    batches = method.batches(split.train, sampler("sampled_softmax", split.train, split.items), config.train.batch_size)
    engine, times = Engine(method, torch.device("cpu"), config.train.lr), []
    each = min(STEPS, len(batches) // (SEGMENTS + 1))
    with seeded(config.seed, 1) as generator:
        method.train()
        method.start_epoch()
        stream = engine.steps(batches.epoch(generator), generator)
        for step, ahead in zip(range(-2, SEGMENTS * each), stream, strict=False):
            if step >= 0 and step % each == 0:
                times.append(time.perf_counter())
            engine.step(ahead, engine.shares(ahead, due=False))
        times.append(time.perf_counter())
        stream.close()
    steps = np.diff(times)[:SEGMENTS] / each
    error = float(steps.std(ddof=1) / len(steps) ** 0.5)
    model = Recommender.of(config)
    model.known, model.method = Known(data.users, data.items, data.text, split, data.name, data.hash), method.eval()
    model.save(folder / "run")
    return {
        "edges": edges,
        "edges_by_order": sum(spent),
        "steps_of_an_epoch": len(batches),
        "slice": SEGMENTS * each / len(batches),
        "step": float(steps.mean()),
        "step_error": error,
        "first_segment_is_off_by": float(steps[0] / steps[1:].mean() - 1),
        "epoch_hours": float(steps.mean()) * len(batches) / 3600,
        "epoch_hours_error": T * error * len(batches) / 3600,
    }


def recommend(folder: Path) -> dict[str, float]:
    """`longtail recommend RUN --all FILE`."""
    told = Told()
    nearby.log.addHandler(told)
    nearby.log.setLevel(logging.INFO)
    lists, began = everybody.of(folder / "run", K, search="cells"), time.perf_counter()
    rows = everybody.write_all(lists.frames(), folder / "lists.parquet")
    cells, of, share = told.chosen
    more = {"cells": cells, "of_cells": of, "recall": share / 100}
    return {"users": lists.users, "rows": rows, "lists": time.perf_counter() - began, **more}


class Told(logging.Handler):
    """How many cells of items were chosen, of how many, and the share of the exact lists they have, as logged."""

    chosen = (0, 0, 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        if isinstance(record.args, tuple):
            self.chosen = record.args[:3]  # type: ignore[assignment]


def cost_of(run: Callable[..., dict[str, float]], *given: object) -> Figures:
    """Of one step; to be called in a fresh process."""
    started = time.perf_counter()
    more = run(*given)
    return Figures(time.perf_counter() - started, measure.peak_memory(), more)


def main() -> None:
    """Measure, show, claim."""
    parser = measure.parser(__doc__)
    parser.add_argument("--users", type=int, default=0, help="of a run of another size")
    parser.add_argument("--folder", type=Path, help="where tables are made and kept; a temporary one if not given")
    parser.add_argument("--memory", default="4GB", help="of preparation; '' for all in memory")
    parser.add_argument("--width", type=int, default=128, help="numbers of the items' LLM vectors, 384 at most")
    given = parser.parse_args()
    users = given.users or (QUICK if given.quick else USERS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        name = "" if users == USERS else f"scale_{users}"
        report(measured(folder, users, given.memory, given.width), name, quick=given.quick)


def measured(folder: Path, users: int, memory: str, width: int) -> dict[str, Figures]:
    """The figures of every step, those that are in the folder already as they are there."""
    steps: dict[str, tuple[object, ...]] = {
        "generate": (generate, folder, users),
        "prepare": (prepare, folder, memory),
        "similar": (similar, folder, width),
        "train": (train, folder, width),
        "recommend": (recommend, folder),
    }
    kept = folder / "figures.json"
    found = {name: Figures(*one) for name, one in json.loads(kept.read_text()).items()} if kept.exists() else {}
    for name, step in steps.items():
        if name not in found:
            measure.console.print(f"{time.strftime('%H:%M:%S')} {name}")
            found[name] = measure.isolated(cost_of, *step)
            kept.write_text(json.dumps(found))
    if found["generate"].more["users"] != users:
        raise DataError(f"{folder} holds tables of {found['generate'].more['users']:,} users; name another folder")
    return found


def report(found: dict[str, Figures], name: str, *, quick: bool) -> None:
    """Show and claim."""
    rows = [{"step": name, "seconds": one.seconds, "peak_mb": one.peak_mb} for name, one in found.items()]
    measure.table("a process each", rows)
    size, training = found["generate"].more, found["train"].more
    what = f"{size['users']:,.0f} users, {size['interactions']:,.0f} interactions, {size['items']:,.0f} items"
    claims = [
        Claim(f"{what}: highest peak of a step", max(one.peak_mb for one in found.values()), "MB", target=LIMIT),
        Claim("preparation", found["prepare"].seconds / 60, "min"),
        Claim("peak of preparation", found["prepare"].peak_mb, "MB", target=LIMIT),
        Claim("similar users", found["similar"].seconds / 60, "min"),
        Claim("recall of similar users", found["similar"].more["recall"], "share", target=0.95, at_most=False),
        Claim("peak of similar users", found["similar"].peak_mb, "MB", target=LIMIT),
        Claim("edges of the default method", training["edges"] / 60, "min"),
        Claim("an epoch, extrapolated", training["epoch_hours"], "h"),
        Claim("half the 95 % interval of it", training["epoch_hours_error"], "h"),
        Claim("share of an epoch that was trained", training["slice"], "share"),
        Claim("what the first fifth says beside the rest", training["first_segment_is_off_by"], "share"),
        Claim("peak of training", found["train"].peak_mb, "MB", target=LIMIT),
        Claim("lists for all users", found["recommend"].seconds / 60, "min"),
        Claim("share of the exact lists, as 512 users get them", found["recommend"].more["recall"], "share"),
        Claim("peak of lists", found["recommend"].peak_mb, "MB", target=LIMIT),
    ]
    measure.finish("scale", claims, {step: one._asdict() for step, one in found.items()}, quick=quick, name=name)


if __name__ == "__main__":
    main()
