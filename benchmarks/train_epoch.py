"""Seconds of a training epoch of LLM-ESR on SASRec with the paper's settings, and of the same arithmetic, padded.

LLM vectors are random and 1,536 wide; neighbors are random, so nearly all of a batch's are distinct, which is the worst
case. A limit stands beside each time: the multiply-adds that are left (counted by torch) over the machine's measured
matrix rate.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

import measure
import padded
import workload
from longtail.methods.llmesr import LLMESR
from longtail.nn.batch import SequenceBatch
from longtail.train.engine import Ahead, Engine, seeded
from measure import Claim
from workload import Settings, Workload

PAPER = Settings()
CASES = {
    "llmesr, exact teacher": PAPER,
    "llmesr, bank": PAPER._replace(teacher="bank"),
    "llmesr, bank, softmax": PAPER._replace(teacher="bank", loss="softmax"),
    "llmesr, bank, softmax, bfloat16": PAPER._replace(teacher="bank", loss="softmax", precision="bfloat16"),
    "plain, bce": Settings("plain"),
    "plain, gbce (256 negatives)": Settings("plain", loss="gbce"),
    "plain, softmax": Settings("plain", loss="softmax"),
    "plain, softmax, bfloat16": Settings("plain", loss="softmax", precision="bfloat16"),
    "plain, sampled_softmax (4,096)": Settings("plain", loss="sampled_softmax"),
}
AXES = {
    "users": [(users, workload.ITEMS, 7, PAPER) for users in (10_000, 40_000, 160_000)],
    "items": [(20_000, items, 7, PAPER) for items in (10_000, 40_000, 160_000)],
    "length": [(20_000, workload.ITEMS, mean, PAPER) for mean in (4, 7, 14, 28, 56)],
    "max_len": [(20_000, workload.ITEMS, 7, PAPER._replace(max_len=length)) for length in (25, 50, 200)],
    "neighbors": [(20_000, workload.ITEMS, 7, PAPER._replace(M=M)) for M in (2, 6, 10, 18)],
    "width E": [(20_000, workload.ITEMS, 7, PAPER._replace(E=E)) for E in (384, 768, 1536, 3072)],
    "width d": [(20_000, workload.ITEMS, 7, PAPER._replace(d=d)) for d in (32, 64, 128)],
    "batch": [(20_000, workload.ITEMS, 7, PAPER._replace(batch_size=size)) for size in (32, 128, 512, 2048)],
}


class Epoch(NamedTuple):
    """Median seconds of an epoch and of what starts it; multiply-adds of an epoch; steps in it."""

    seconds: float
    start: float
    multiply_adds: float
    steps: int


def epoch(work: Workload, settings: Settings, steps: int | None, repeats: int = 1) -> Epoch:
    """Time `steps` steps (None: an epoch of them) `repeats` times, and give the median for an epoch."""
    method, batches = workload.prepared(work, settings)
    engine = workload.engine(method, settings)
    method.train()
    with seeded(1) as generator:
        stream = engine.steps(itertools.chain.from_iterable(batches.epoch(generator) for _ in itertools.count()))
        start = measure.seconds(method.start_epoch, repeats=min(repeats, 3), warm=1)
        count = min(steps or len(batches), len(batches))
        run(engine, stream, 5)
        times = [run(engine, stream, count) for _ in range(repeats)]
        adds = multiply_adds(engine, next(stream))
        stream.close()
    seconds = statistics.median(times) / count * len(batches) + start
    return Epoch(seconds, start, adds * len(batches), len(batches))


def run(engine: Engine, stream: Iterator[Ahead], count: int) -> float:
    """Seconds of `count` steps."""
    measure.synchronize()
    started = time.perf_counter()
    for step in itertools.islice(stream, count):
        engine.step(step)
    measure.synchronize()
    return time.perf_counter() - started


def multiply_adds(engine: Engine, ahead: Ahead) -> float:
    """Of one step, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        engine.step(ahead)
    return counter.get_total_flops() / 2


def in_place(total: list[int], a: list[int], b: list[int], *_: object, **__: object) -> int:
    """Operations of total += a b, which torch does not count by itself."""
    return 2 * a[0] * a[1] * b[1]


def reference(work: Workload, users: int, repeats: int) -> tuple[float, float]:
    """Seconds an epoch of the padded way, from steps of so many users; the largest difference of a loss from ours."""
    method, batches = workload.prepared(work, PAPER._replace(batch_size=users))
    assert isinstance(method, LLMESR)
    max_len = method.sizes.max_len
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    with seeded(2) as generator:
        stream = batches.epoch(generator)
        gap = difference(method, next(stream), max_len)
        method.train()
        times = []
        for batch in itertools.islice(stream, repeats):
            started = time.perf_counter()
            optimizer.zero_grad()
            sum(padded.losses(method, batch, max_len).values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            times.append(time.perf_counter() - started)
    return statistics.median(times) / users * work.train.users, gap


def difference(method: LLMESR, batch: SequenceBatch, max_len: int) -> float:
    """Between the losses of the padded way and ours, without dropout, relative."""
    method.backbone.eval()
    method.semantic.train()
    with torch.no_grad():
        ours, theirs = method.loss(method.plan(batch)), padded.losses(method, batch, max_len)
    return max(abs(float(ours[name]) / float(theirs[name]) - 1) for name in ours)


def growth(steps: int) -> list[dict[str, object]]:
    """Seconds an epoch along each axis, all else equal; data synthetic."""
    rows: list[dict[str, object]] = []
    for axis, points in AXES.items():
        for users, items, mean, settings in points:
            found = epoch(workload.synthetic(users, items, mean), settings, steps)
            sizes = {"users": users, "items": items, "length": mean, "max_len": settings.max_len}
            sizes |= {"batch": settings.batch_size}
            sizes |= {"neighbors": settings.M, "width E": settings.E, "width d": settings.d}
            rows.append({"axis": axis, "size": sizes[axis], "seconds": round(found.seconds, 2)})
    measure.table("seconds an epoch (exact teacher)", rows)
    return rows


def left_out(work: Workload) -> list[dict[str, object]]:
    """Milliseconds a step, after 30 to warm up, of what does not pay on a CPU, beside what the library does."""
    rows: list[dict[str, object]] = []
    for name, settings in (("plain, bce", Settings("plain")), ("llmesr, bank", PAPER._replace(teacher="bank"))):
        for kind in ("as it is", "torch.compile of the states", "autocast to bfloat16 of the whole step"):
            narrow = kind.startswith("autocast")
            chosen = settings._replace(precision="bfloat16" if narrow else "float32")
            method, batches = workload.prepared(work, chosen)
            if kind.startswith("torch.compile"):
                method.states = torch.compile(method.states, dynamic=True)  # type: ignore[method-assign]
            engine = workload.engine(method, chosen)
            engine.narrow = narrow  # on a CPU as on a GPU
            method.train()
            method.start_epoch()
            with seeded(1) as generator:
                stream = engine.steps(batches.epoch(generator))
                run(engine, stream, 30)
                each = run(engine, stream, 30) / 30
                rows.append({"case": name, "kind": kind, "milliseconds a step": round(1000 * each, 1)})
                stream.close()
    measure.table("what does not pay", rows)
    return rows


def main() -> None:
    """Time the cases, the padded reference and, in a full run, the growth."""
    arguments = measure.parser(__doc__)
    arguments.add_argument("--left-out", action="store_true", help="time what the library leaves out, and nothing else")
    asked = arguments.parse_args()
    work = workload.beauty()
    if asked.left_out:
        rows = left_out(work)
        claims = [Claim(f"{row['case']}, {row['kind']}", float(str(row["milliseconds a step"])), "ms") for row in rows]
        return measure.finish("train_epoch", claims, {"source": work.source}, quick=asked.quick, name="left_out")
    chosen = dict(list(CASES.items())[:2]) if asked.quick else CASES
    rate = measure.matrix_rate(device="cuda" if torch.cuda.is_available() else "cpu")
    found = {name: epoch(work, settings, 40 if asked.quick else None, 3) for name, settings in chosen.items()}
    rows = [
        {
            "case": name,
            "seconds an epoch": round(one.seconds, 2),
            "of which before the first step": round(one.start, 2),
            "multiply-adds": f"{one.multiply_adds:.3g}",
            "limit, seconds": round(one.multiply_adds / rate, 2),
        }
        for name, one in found.items()
    ]
    measure.table(f"an epoch ({work.source}); {rate / 1e9:.0f} G multiply-adds a second", rows)
    exact, bank = (found[name].seconds for name in list(CASES)[:2])
    slow, gap = reference(work, 8 if asked.quick else PAPER.batch_size, 1 if asked.quick else 3)
    claims = [
        Claim("padded reference over exact teacher, an epoch", slow / exact, "times", 50, at_most=False),
        Claim("LLM-ESR, exact teacher, an epoch", exact, "s", 30),
        Claim("LLM-ESR, bank, an epoch", bank, "s", 8),
        Claim("padded reference, an epoch", slow, "s"),
        Claim("largest relative difference of a loss from the padded reference", gap, "", 1e-4),
    ]
    details = {"source": work.source, "matrix_rate": rate, "cases": rows, "settings": PAPER._asdict()}
    if not asked.quick:
        details["growth"] = growth(15)
    return measure.finish("train_epoch", claims, details, quick=asked.quick)


if __name__ == "__main__":
    sys.exit(main())
