"""Serving a bundle: time of an answer, throughput, memory and start, by a load generator in another process.

The bundle of Beauty is that of the trained run runs/out/beyond/beauty-longtail-42 where there is one, or of another
with --run, else of an untrained longtail of its size, which changes no time. The bundles of a million items (float32,
int8, and float32 with an index, whose recall is stated beside its time) are of an untrained plain SASRec, D = 64, with
item vectors around topics, as `similar_users.py` makes them: in vectors without any structure an index finds nothing.
Server and generator share the machine's cores. Torch is measured on the same requests, one by one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

import longtail as lt
import measure
from full_ranking import BEAUTY_ITEMS, BEAUTY_USERS, MAX_LEN, synthetic
from longtail.config import Value
from longtail.data.ids import IdMap
from longtail.methods.base import Knowledge, Sizes
from longtail.methods.plain import Plain
from longtail.model import build_method
from longtail.recommender import Recommender
from longtail.run_folder import Known
from longtail.serve.ann import LEAST
from longtail.serve.bundle import open_bundle
from longtail.serve.export import export
from longtail.serve.manifest import Manifest
from longtail.serve.matrix import best
from longtail.serve.runtime import Runtime
from longtail.text.embeddings import Embeddings, Provenance
from measure import Claim
from similar_users import vectors

TRAINED = measure.HERE.parent / "runs" / "out" / "beyond" / "beauty-longtail-42"
WIDTH, K = 384, 10
RATE, CONNECTIONS = 50, 32
MILLION, QUICK_MILLION = 1_000_000, 20_000
GENERATOR = Path(__file__).with_name("load.py")


class Load(NamedTuple):
    """What the generator found."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    a_second: float
    requests: int
    errors: int


class Server(NamedTuple):
    """A server that answers: its port, its process, and the seconds from its start to /ready."""

    port: int
    pid: int
    start: float

    def memory(self, key: str = "VmRSS") -> float:
        """Resident memory, MB."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024

    def load(self, mode: str, number: float, seconds: float, bodies: Sequence[str]) -> Load:
        """What the generator measures."""
        command = [sys.executable, str(GENERATOR), str(self.port), mode, str(number), str(seconds)]
        found = subprocess.run(command, input="\n".join(bodies), capture_output=True, text=True, check=True)
        return Load(**json.loads(found.stdout))


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[Server]:
    """`longtail serve` in a process of its own."""
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "longtail", "serve", str(bundle), "--port", "0", "--state", state, *options]
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
                assert answer.status == 200
            yield Server(port, process.pid, time.perf_counter() - begun)
        finally:
            process.kill()
            process.wait()


def untrained(
    folder: Path, method: str, users: int, items: int, settings: dict[str, Value] | None = None
) -> Embeddings | None:
    """Save a model with the weights it starts from, over synthetic histories; its items' embeddings."""
    split = synthetic(users, items)
    model = Recommender(method, "sasrec", {"method": settings or {}, "backbone": {"max_len": MAX_LEN}})
    ids = [IdMap(pl.Series([f"{noun}{at:08d}" for at in range(1, n + 1)])) for noun, n in (("U", users), ("I", items))]
    made, knowledge = None, Knowledge()
    if model.config.method.needs_embeddings:
        rows = np.random.default_rng(0).normal(size=(items + 1, WIDTH)).astype(np.float32)
        rows[0] = 0
        made = Embeddings(rows[1:], ids[1].ids, Provenance("random", "random"), np.ones(items, np.bool_))
        knowledge = Knowledge(rows)
    torch.manual_seed(0)
    model.method = build_method(model.config, Sizes(items, WIDTH if made else 0, 64, MAX_LEN))
    model.method.prepare(split.train, knowledge)
    if isinstance(model.method, Plain):
        model.method.view.start_from(vectors(items, 64))
    text = pl.DataFrame({"title": [f"Item {at}" for at in range(items)]})
    model.known = Known(ids[0], ids[1], text, split, "benchmark", "")
    model.save(folder)
    return made


def bodies(bundle: Path, count: int) -> list[str]:
    """Requests of known users' histories, evenly drawn."""
    opened = open_bundle(bundle)
    assert opened.users is not None
    chosen = np.linspace(1, len(opened.users.ids), count).astype(int).tolist()
    histories = [[opened.items.ids[int(place)] for place in opened.users.history(user)] for user in chosen]
    return [json.dumps({"history": one, "k": K}) for one in histories if one]


def beside_torch(run: Path, bundle: Path, count: int) -> tuple[float, float]:
    """Median ms of a list by the bundle and by the model, a request at a time, one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runtime, model = Runtime(open_bundle(bundle)), lt.load(run)
    everything = model.split.everything()
    chosen = np.flatnonzero(everything.lengths)[:count]
    score, times = model.scorer(), ([], [])  # type: tuple[list[float], list[float]]
    for user in chosen.tolist():
        history, begun = everything.of(user), time.perf_counter()
        scores = runtime.scores([history])[0]
        scores[history] = -np.inf
        ours = best(scores, K)
        middle = time.perf_counter()
        ((_, rows),) = score(np.array([1]), everything.select(np.array([user])))
        rows[:, 0] = -torch.inf
        rows[0, torch.from_numpy(history)] = -torch.inf
        theirs = rows.topk(K).indices[0].numpy()
        times[1].append(time.perf_counter() - middle)
        times[0].append(middle - begun)
        assert len(np.intersect1d(ours, theirs)) >= K - 1
    torch.set_num_threads(threads)
    return float(np.median(times[0])) * 1000, float(np.median(times[1])) * 1000


class Beauty(NamedTuple):
    """Figures of the bundle of Beauty."""

    manifest: Manifest
    start: float
    rss: float
    steady: Load
    full: Load
    alone: Load
    bundle_ms: float
    torch_ms: float


def beauty(run: Path | None, folder: Path, seconds: float) -> Beauty:
    """Export, serve and load it."""
    items = None if run else untrained(folder / "run", "longtail", BEAUTY_USERS, BEAUTY_ITEMS)
    run = run or folder / "run"
    manifest = export(run, folder / "bundle", items=items)
    asked = bodies(folder / "bundle", 500)
    with serving(folder / "bundle") as server:
        server.load("closed", 4, 1.0, asked)  # pages of the file, caches
        steady = server.load("rate", RATE, seconds, asked)
        full = server.load("closed", CONNECTIONS, seconds, asked)
        rss, start = server.memory("VmHWM"), server.start
    with serving(folder / "bundle", "--batch", "1") as server:
        alone = server.load("closed", CONNECTIONS, seconds / 2, asked)
    return Beauty(manifest, start, rss, steady, full, alone, *beside_torch(run, folder / "bundle", 200))


class Large(NamedTuple):
    """Figures of a bundle of many items. recall, candidates: of the index, where there is one."""

    items: int
    case: str
    recall: float | None
    candidates: int | None
    export_s: float
    p50_ms: float
    p99_ms: float
    rss: float
    start: float
    size_mb: float


CASES = {"float32": (False, False), "int8": (True, False), "index": (False, True)}  # int8, index


def large(folder: Path, items: int, seconds: float) -> list[Large]:
    """One connection that asks without a pause: float32, int8, and float32 with an index."""
    untrained(folder / "large", "plain", 2000, items)
    found = []
    for case, (int8, index) in CASES.items():
        bundle, begun = folder / f"large-{case}", time.perf_counter()
        manifest = export(folder / "large", bundle, int8=int8, index=index, compare=20)
        took, asked = time.perf_counter() - begun, bodies(bundle, 100)
        recall, candidates = (manifest.index.recall, manifest.index.candidates) if manifest.index else (None, None)
        with serving(bundle) as server:
            server.load("closed", 1, 1.0, asked)
            one = server.load("closed", 1, seconds, asked)
            size = sum(facts.bytes for facts in manifest.files.values()) / 1e6
            rss = server.memory("VmHWM")
            found.append(Large(items, case, recall, candidates, took, one.p50_ms, one.p99_ms, rss, server.start, size))
        shutil.rmtree(bundle)
    return found


def main() -> None:
    made = measure.parser(__doc__)
    made.add_argument("--run", type=Path, help="a trained run folder")
    options = made.parse_args()
    quick, run = options.quick, options.run or (TRAINED if TRAINED.is_dir() else None)
    seconds = 3.0 if quick else 20.0
    with tempfile.TemporaryDirectory() as place:
        found = beauty(run, Path(place), seconds)
        many = large(Path(place), QUICK_MILLION if quick else MILLION, seconds / 2)
    parity = found.manifest.parity
    assert parity is not None
    claims = [
        Claim("12,101 items, 50 requests a second: p50", found.steady.p50_ms, "ms", 5),
        Claim("12,101 items, 50 requests a second: p99", found.steady.p99_ms, "ms", 25),
        Claim("12,101 items, saturated: requests a second", found.full.a_second, "1/s", 400, at_most=False),
        Claim("12,101 items: requests without an answer of 200", found.steady.errors + found.full.errors, "", 0),
        Claim("12,101 items: resident memory, at most", found.rss, "MB", 350),
        Claim("12,101 items: start until /ready", found.start, "s", 2),
        Claim(
            f"{parity.users:,} users with the model's first ten, in its order", parity.same, "share", 1, at_most=False
        ),
        *(Claim(f"{one.items:,} items, {one.case}: p50", one.p50_ms, "ms", 50) for one in many),
        *(
            Claim(f"{one.items:,} items: recall of the index", one.recall, "share", LEAST, at_most=False)
            for one in many
            if one.recall is not None
        ),
        Claim("saturated, requests scored one by one: requests a second", found.alone.a_second, "1/s"),
        Claim("a list without HTTP, bundle", found.bundle_ms, "ms"),
        Claim("a list without HTTP, torch", found.torch_ms, "ms"),
        Claim("torch / bundle", found.torch_ms / found.bundle_ms, "x"),
    ]
    details: dict[str, object] = {
        "run": run.name if run else "untrained, of Beauty's size",
        "beauty": {name: load._asdict() for name, load in zip(("steady", "saturated", "one_by_one"),
                   (found.steady, found.full, found.alone), strict=True)},
        "large": [one._asdict() for one in many],
        "parity": parity.model_dump(),
    }  # fmt: skip
    measure.finish("serving", claims, details, quick=quick)


if __name__ == "__main__":
    main()
