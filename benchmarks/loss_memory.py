"""Memory of losses over large catalogues: chunked cross-entropy beside all logits at once, and a million items trained.

Every figure is of a fresh process. A million items are trained for an epoch by the library's own loop, with Adam,
validation, the copy of the best weights and the checkpoint. LLM-ESR's vectors are a file mapped into memory: what is
mapped, and can be dropped at any time, stands beside what is the process's own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F

import measure
import workload
from longtail.data.ids import IdMap
from longtail.data.split import leave_one_out
from longtail.evaluation.metrics import ndcg
from longtail.evaluation.protocol import rank_targets
from longtail.nn.items import ItemVectors
from longtail.nn.losses import sampled_softmax, softmax
from longtail.nn.negatives import Negatives, SharedNegatives
from longtail.recommender import Recommender
from longtail.run_folder import Known
from longtail.train.loop import Place, TrainConfig, train
from measure import Claim
from workload import Settings

D = 64
MILLION, USERS = 1_000_000, 2_000
E = 384  # of the mapped vectors: 1.5 GB for a million items


class Cost(NamedTuple):
    """Of one forward and backward pass: peak MB above what the inputs take, median seconds, the loss."""

    peak: float
    seconds: float
    loss: float


class Training(NamedTuple):
    """Peak MB of the process in all and of its own (anonymous) memory, seconds a step and of all else."""

    total: float
    own: float
    step: float
    rest: float


def all_logits(states: torch.Tensor, vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The naive reference."""
    return F.cross_entropy(states @ vectors[1:].T, targets - 1)


def cost(kind: str, positions: int, items: int) -> Cost:
    """Of a loss over random states and vectors."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(positions, D, generator=generator, requires_grad=True)
    vectors = (torch.randn(items + 1, D, generator=generator) / 8).requires_grad_()
    targets = torch.randint(1, items + 1, (positions,), generator=generator)
    loss = compute(kind, states, vectors, targets)
    warm = torch.randn(256, 256, requires_grad=True)
    (warm @ warm).sum().backward()  # type: ignore[no-untyped-call]
    measure.peak_memory(reset=True)
    before = measure.memory()
    value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    peak = measure.peak_memory() - before
    return Cost(peak, measure.seconds(lambda: loss().backward(), repeats=3, warm=0), value.item())  # type: ignore


def compute(
    kind: str, states: torch.Tensor, vectors: torch.Tensor, targets: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """The loss of that kind, ready to call."""
    whole, none = ItemVectors(vectors, None), Negatives(torch.zeros(len(states), 0, dtype=torch.int64))
    if kind == "all logits":
        return lambda: all_logits(states, vectors, targets)
    if kind == "softmax":
        return lambda: softmax(states, targets, none, whole)
    histories = workload.synthetic(1000, len(vectors) - 1).train
    drawn = SharedNegatives(histories, len(vectors) - 1, 4096, 1.0).draw(np.ones(1, np.int64), np.random.default_rng(0))
    return lambda: sampled_softmax(states, targets, drawn, whole)


def million(settings: Settings, items: int, users: int) -> Training:
    """Train an epoch over a catalogue of so many items."""
    work = workload.synthetic(users, items)
    split = leave_one_out(work.train, items)
    work = work._replace(train=split.train)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "checkpoint" / "last.safetensors", Path(folder) / "log.jsonl", "x", False)
        plain = settings.method == "plain"
        vectors = np.zeros((0, 0), np.float32) if plain else mapped(Path(folder) / "vectors.npy", items)
        method, batches = workload.prepared(work, settings, vectors)
        config = TrainConfig(**{**settings.config().train.model_dump(), "epochs": 1, "device": "cpu"})
        model = Recommender.of(settings.config())
        ids = (IdMap(pl.int_range(n, eager=True)) for n in (users, items))
        model.method, model.known = method, Known(*ids, pl.DataFrame(), split, "benchmark", "")

        def validate() -> float:
            return float(ndcg(rank_targets(model.scorer(), split, "valid")["full"].to_numpy(), 10).mean())

        with Watch() as watch:
            started = time.perf_counter()
            train(method, batches, validate, config, 1, place)
            whole = time.perf_counter() - started
        in_steps = json.loads(place.log.read_text(encoding="utf-8"))["train_s"]
        return Training(measure.peak_memory(), watch.peak, in_steps / len(batches), whole - in_steps)


def mapped(path: Path, items: int) -> np.ndarray:
    """A file of (items + 1, E) vectors, written in parts, as a memory map."""
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (items + 1, E))
    generator = np.random.default_rng(0)
    for start in range(1, items + 1, 2**16):
        rows = vectors[start : start + 2**16]
        rows[:] = generator.standard_normal(rows.shape, dtype=np.float32) / np.float32(E**0.5)
    vectors.flush()
    del vectors
    measure.peak_memory(reset=True)
    return np.load(path, mmap_mode="c")


class Watch:
    """The highest anonymous memory of this process inside the block, MB, looked at every 5 ms."""

    def __enter__(self) -> Watch:
        self.peak, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def look(self) -> None:
        """Until the block ends."""
        while not self.over.wait(0.005):
            self.peak = max(self.peak, measure.own_memory())


def main() -> None:
    """Compare the losses, then train a million items with each."""
    asked = measure.parser(__doc__).parse_args()
    sizes = [(4096, 20_000)] if asked.quick else [(1024, 12_101), (1024, 100_000), (4096, 100_000), (1024, 1_000_000)]
    rows: list[dict[str, object]] = []
    ratios, gaps, peaks = [], [], []
    for positions, items in sizes:
        for kind in ("all logits", "softmax", "sampled_softmax"):
            found = measure.isolated(cost, kind, positions, items)
            rows.append(
                {
                    "loss": kind,
                    "positions": positions,
                    "items": items,
                    "peak MB above inputs": round(found.peak),
                    "seconds": round(found.seconds, 3),
                    "value": round(found.loss, 4),
                }
            )
            if kind == "all logits":
                slow = found
            elif kind == "softmax":
                ratios.append(slow.peak / found.peak)
                gaps.append(abs(found.loss / slow.loss - 1))
                peaks.append(found.peak - items * D * 4 / 2**20)  # but for the gradient of the items
    measure.table("a loss forward and backward", rows)
    items, users = (100_000, 500) if asked.quick else (MILLION, USERS)
    cases = {
        "plain, softmax": Settings("plain", loss="softmax"),
        "plain, sampled_softmax": Settings("plain", loss="sampled_softmax"),
        "llmesr, bank, sampled_softmax": Settings(teacher="bank", loss="sampled_softmax", E=E),
    }
    trained = {name: measure.isolated(million, settings, items, users) for name, settings in cases.items()}
    more = [
        {
            "case": name,
            "items": items,
            "peak MB": round(one.total),
            "of its own MB": round(one.own),
            "seconds a step": round(one.step, 2),
            "seconds of validation and checkpoint": round(one.rest, 1),
        }
        for name, one in trained.items()
    ]
    measure.table("an epoch over a large catalogue", more)
    plain = max(one.total for name, one in trained.items() if name.startswith("plain"))
    own = max(one.own for one in trained.values())
    claims = [
        Claim(f"peak memory of training {items:,} items, plain", plain, "MB", 4096),
        Claim(f"the same of its own, LLM-ESR with {E}-wide vectors mapped from a file as well", own, "MB", 4096),
        Claim("chunked cross-entropy above inputs and the items' gradient, largest", max(peaks), "MB", 256),
        Claim("memory of all logits over that of chunks, largest", max(ratios), "times", 4, at_most=False),
        Claim("relative difference of the loss in chunks, largest", max(gaps), "", 1e-5),
    ]
    measure.finish("loss_memory", claims, {"losses": rows, "training": more}, quick=asked.quick)


if __name__ == "__main__":
    sys.exit(main())
