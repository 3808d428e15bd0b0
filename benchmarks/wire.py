"""What two processes that train together send each other a step, and what that costs.

For catalogues of several sizes, the gradient of an item table (I + 1, 64) is summed over two processes over gloo on
this machine: all of it (all_reduce), and only the rows that a step touches (all_gather). Bytes are those of both
processes that went through the loopback device, which other programs may use too; both figures are medians. Then steps
of LLM-ESR, teachers from the bank, bce, on Amazon Beauty's histories: one process with batches of 128 users, two with
64 each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import measure
import workload
from longtail.train import distributed
from longtail.train.engine import seeded

D, REPEATS, STEPS = 64, 5, 60
LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")
SIZES = ((10_000, 2_000), (10_000, 5_000), (100_000, 2_000), (100_000, 20_000), (100_000, 50_000), (1_000_000, 20_000))


def exchanged() -> list[dict[str, object]]:
    """Both ways of summing the gradient, for tables of so many items and so many touched rows a process."""
    rows = []
    for items, touched in SIZES:
        draws = np.random.default_rng(distributed.rank())
        ids = torch.from_numpy(np.sort(draws.choice(items, touched, replace=False)) + 1)
        grad = torch.zeros(items + 1, D)
        row: dict[str, object] = {"items": items, "rows a process": touched}
        for name in ("dense", "rows"):
            seconds, sent = [], []
            for _ in range(REPEATS):
                grad.zero_()
                grad[ids] = 1.0
                dist.barrier()
                before, started = int(LOOPBACK.read_text()), time.perf_counter()
                if name == "dense":
                    dist.all_reduce(grad)
                else:
                    distributed._exchange_rows(grad, ids, [touched, touched])
                seconds.append(time.perf_counter() - started)
                dist.barrier()
                sent.append(int(LOOPBACK.read_text()) - before)
            row[f"{name}, MB"] = round(statistics.median(sent) / 1e6, 2)
            row[f"{name}, ms"] = round(1000 * statistics.median(seconds), 1)
        rows.append(row)
    return rows


def steps() -> dict[str, object]:
    """Milliseconds of a step on Beauty, of 128 users between all processes, and what it sent."""
    settings = workload.Settings(teacher="bank")
    method, batches = workload.prepared(workload.beauty(), settings)
    engine = workload.engine(method, settings)
    method.train()
    with seeded(1) as generator:
        method.start_epoch()
        stream, times = engine.steps(batches.epoch(generator)), []
        for number in range(STEPS):
            ahead = next(stream)
            before, started = int(LOOPBACK.read_text()), time.perf_counter()
            engine.step(ahead, engine.shares(ahead, False))
            if number >= STEPS // 6:
                times.append((time.perf_counter() - started, int(LOOPBACK.read_text()) - before))
        stream.close()
    seconds, sent = (statistics.median(column) for column in zip(*times, strict=True))
    return {"processes": distributed.size(), "ms a step": round(1000 * seconds, 1), "MB a step": round(sent / 1e6, 2)}


def worker(to: Path) -> None:
    """One of the processes, of which the first writes what it found."""
    with distributed.together():
        rows = exchanged() if distributed.size() > 1 else []
        found = {"tables": rows, "step": steps()}
        if distributed.leads():
            to.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Measure one process and two."""
    asked = measure.parser(__doc__).parse_args()
    environment, found = {**os.environ, "OMP_NUM_THREADS": "1"}, []
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            to = Path(folder) / f"{processes}.json"
            group = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            subprocess.run([sys.executable, *group, __file__, "worker", str(to)], check=True, env=environment)
            found.append(json.loads(to.read_text(encoding="utf-8")))
    alone, pair = found
    measure.table("an item table's gradient between two processes", pair["tables"])
    measure.table("a step of 128 users", [alone["step"], pair["step"]])
    largest = pair["tables"][-1]
    ratio = alone["step"]["ms a step"] / pair["step"]["ms a step"]
    claims = [
        measure.Claim(
            "bytes of touched rows, of the table's", largest["rows, MB"] / largest["dense, MB"], "ratio", 0.1
        ),
        measure.Claim(
            "seconds of touched rows, of the table's", largest["rows, ms"] / largest["dense, ms"], "ratio", 0.5
        ),
        measure.Claim("speed of two processes, of one's", ratio, "ratio"),
    ]
    measure.finish(
        "wire", claims, {"tables": pair["tables"], "steps": [alone["step"], pair["step"]]}, quick=asked.quick
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
