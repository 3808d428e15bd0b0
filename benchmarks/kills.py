"""Twenty kills with SIGKILL of what trains on two processes, at random moments, and whether every run ends right.

LLM-ESR with teachers from the bank is trained on the bundled data by two processes, and one of these is killed: a
worker of `torchrun`, which does not start it again or does; torchrun itself; a worker of Ray Train; the command
`longtail fit --cluster ray`; a node of ray. The moments: before the first epoch, in a step, while a checkpoint is half
written, in validation (all steps of an epoch are done, and its checkpoint is not written). A run that does not go on by
itself is gone on with by the same command and `--resume`, again if it says that a process is still at work there.
Correct is an end with all epochs, the weights bit for bit and the files of a run that was left alone, which recommends.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

import longtail as lt
import measure

SEED, EPOCHS, BATCH, USERS = 20, 16, 128, 1000
PATIENCE = 240  # seconds in which a process is to end
MARK = f"LONGTAIL_KILLS={os.getpid()}"  # in the environment of every process that is started here
MOMENTS = ("start", "step", "checkpoint", "validation")
FIT = ["fit", "--data", "log.parquet", "--set", "data.items=items.parquet", "--preset", "llmesr"]
for setting in (
    "method.teacher=bank", "neighbors.k=3", "text.model=lexical:16", "backbone.d=16", "backbone.max_len=20",
    f"train.batch_size={BATCH}", f"train.epochs={EPOCHS}", "train.patience=999", "train.device=cpu",
    "train.checkpoint_minutes=0.00001",
):  # fmt: skip
    FIT += ["--set", setting]


class Kind(NamedTuple):
    """A way to train on two processes, and what of it is killed."""

    name: str
    command: list[str]
    victims: Callable[[int], list[int]]
    """Processes of which one is killed, from that of the command."""
    kill: Callable[[int], None]
    count: int = 2
    """How many there are."""


def signalled(process: int) -> None:
    """Kill one process."""
    os.kill(process, signal.SIGKILL)


def itself(process: int) -> list[int]:
    """The command."""
    return [process]


def marked(word: str) -> list[int]:
    """The processes that were started here and have a word in their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (place / "cmdline").read_bytes() and MARK.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return sorted(found)


def parent(process: int) -> int:
    """The process that started it."""
    return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def torchrun(restarts: int, agent: bool) -> Kind:
    """Two processes under torchrun."""
    more = ["--nproc-per-node", "2", "--max-restarts", str(restarts)]
    name = f"torchrun's worker, --max-restarts {restarts}" if not agent else "torchrun"
    started = [sys.executable, "-m", "torch.distributed.run", *more, "-m", "longtail", *FIT]

    def workers(process: int) -> list[int]:
        return [worker for worker in marked("longtail") if parent(worker) == process]

    return Kind(name, started, itself, signalled, 1) if agent else Kind(name, started, workers, signalled)


class Nodes:
    """Ray on this machine: a head without CPUs and three nodes of one."""

    def __init__(self) -> None:
        from longtail.cluster.connect import package

        package()
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the loopback's address
        from ray.cluster_utils import Cluster

        noticed = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 2000}
        common = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
        settings = {**noticed, "health_check_failure_threshold": 5, "worker_niceness": 0}  # as nice as this script
        head = {**common, "num_cpus": 0, "_system_config": settings}
        self.common = {**common, "num_cpus": 1}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(3):
            self.cluster.add_node(**self.common)
        os.environ["RAY_ADDRESS"] = self.cluster.address

    def kill(self, worker: int) -> None:
        """Kill the node on which a process works, and start another."""
        raylet = parent(worker)
        mine = [node for node in self.cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == raylet]
        self.cluster.remove_node(mine[0], allow_graceful=False)
        self.cluster.add_node(wait=False, **self.common)

    def kinds(self) -> list[Kind]:
        """What can be killed."""
        command = [sys.executable, "-m", "longtail", *FIT, "--cluster", "ray", "--workers", "2"]

        def workers(_: int) -> list[int]:
            return marked("RayTrainWorker")

        return [
            Kind("worker of Ray Train", command, workers, signalled),
            Kind("command on ray", command, itself, signalled, 1),
            Kind("node of ray", command, workers, self.kill),
        ]


class Sight:
    """A run folder as it is seen from outside."""

    def __init__(self, run: Path, steps: int) -> None:
        self.run, self.steps = run, steps

    def epochs(self) -> list[int]:
        """Those in the log."""
        log = self.run / "log.jsonl"
        return [json.loads(line)["epoch"] for line in log.read_text("utf-8").splitlines()] if log.exists() else []

    def begun(self) -> bool:
        """Whether it trains."""
        return (self.run / "checkpoint" / "last.safetensors").exists()

    def half(self) -> list[str]:
        """Files half written."""
        return [path.name for path in self.run.glob("checkpoint/.*.partial")]

    def validates(self) -> bool:
        """Whether all steps of an epoch are done, and its checkpoint is not written."""
        try:
            with safe_open(self.run / "checkpoint" / "within.safetensors", "pt") as file:
                return bool(json.loads(file.metadata()["within"])[0] == self.steps)
        except (OSError, RuntimeError, SafetensorError):  # there is none now
            return False


def start(command: list[str], folder: Path, run: str, *more: str) -> subprocess.Popen[bytes]:
    """A training; what it says goes to a file beside its folder."""
    name, _, value = MARK.partition("=")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), name: value}
    with (folder / f"{run}.txt").open("ab") as talk:
        given = [*command, "--out", run, *more]
        return subprocess.Popen(given, cwd=folder, env=environment, stdout=talk, stderr=talk)


def ended(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit status; None if it hangs, after which it is killed."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def said(folder: Path, run: str) -> str:
    """What the user reads of an error: our own line, or else the last one."""
    text = (folder / f"{run}.txt").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip(" =-")]
    ours = [line for line in lines if "go on with" in line or "at work in" in line or line.startswith("error:")]
    ours = ours or [line.partition(": ")[2] for line in lines if line.startswith("traceback")]  # torchrun's own account
    return (ours or lines or ["nothing"])[-1]


def strike(kind: Kind, moment: str, process: subprocess.Popen[bytes], sight: Sight, times: dict[str, float]) -> str:
    """Wait for the moment and kill; where that was. An empty text if the training ended before."""
    chance = random.Random(f"{SEED} {sight.run.name}")
    after, delay = chance.randrange(1, EPOCHS // 2), chance.random()
    while len(victims := kind.victims(process.pid)) < kind.count:
        if process.poll() is not None:
            return ""
        time.sleep(0.01)
    victim = chance.choice(victims)
    if moment == "start":
        time.sleep(0.9 * delay * times["before the first epoch"])
    else:
        while len(sight.epochs()) < after and process.poll() is None:
            time.sleep(0.002)
        wanted = {"step": lambda: True, "checkpoint": sight.half, "validation": sight.validates}[moment]
        if moment == "step":
            time.sleep(delay * times["epoch"])
        while not wanted() and process.poll() is None:
            time.sleep(0.0005)
    if process.poll() is not None:
        return ""
    half = sight.half()
    kind.kill(victim)
    place = f"after epoch {len(sight.epochs())}" if sight.begun() else "before the first checkpoint"
    which = "" if len(victims) == 1 else f", worker {victims.index(victim)}"
    return f"{place}{which}{', a file half written' if half else ''}"


def gone_on(kind: Kind, folder: Path, run: str) -> tuple[str, int | None]:
    """The same command with `--resume`, again where it says that a process is still at work there."""
    talk, tries = folder / f"{run}.txt", 0
    while True:
        tries, since = tries + 1, talk.stat().st_size
        status = ended(start(kind.command, folder, run, "--resume"))
        if status is None or tries == 20 or b"is at work in" not in talk.read_bytes()[since:]:
            return "--resume" if tries == 1 else f"--resume, {tries} times until no process was at work", status
        time.sleep(3)


def end(folder: Path, run: str, whole: Path) -> dict[str, object]:
    """How a run compares with one that was left alone."""
    at = folder / run
    found: dict[str, object] = {"end": "no model", "correct": False}
    if not (at / "model.safetensors").exists():
        return found
    ours, theirs = (load_file(place / "model.safetensors") for place in (at, whole))
    gap = max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in theirs)
    same = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    files = [{path.name for path in place.rglob("*")} for place in (at, whole)]
    log = Sight(at, 0).epochs() == Sight(whole, 0).epochs() == list(range(1, EPOCHS + 1))
    model = lt.load(at)
    served = len(model.recommend(users=model.catalogue().users.external([1, 2]), k=5)) == 10
    wrong = [name for name, right in (("files", files[0] == files[1]), ("log", log), ("lists", served)) if not right]
    found["end"] = ", ".join(["bit for bit" if same else f"weights differ by {gap:.2g}", *wrong])
    found["correct"] = same and not wrong
    return found


def killed(
    kind: Kind, moment: str, number: int, folder: Path, steps: int, times: dict[str, float]
) -> dict[str, object]:
    """One kill, and how it ended."""
    begun = time.perf_counter()
    for tries in range(5):  # until it is killed before it ends
        run = f"run{number}.{tries}"
        process = start(kind.command, folder, run)
        if where := strike(kind, moment, process, Sight(folder / run, steps), times):
            break
    status = ended(process)
    if status == 0 and where:
        outcome, message = "went on by itself", ""
    else:
        message = said(folder, run) if where and kind.count > 1 else ""  # what is killed says nothing
        how, status = gone_on(kind, folder, run)
        outcome = f"ended, then {how}" if status == 0 else "--resume failed"
        if status:
            measure.console.print((folder / f"{run}.txt").read_text(encoding="utf-8", errors="replace"))
    row = {"killed": kind.name, "moment": moment, "where": where or "it ended before", "outcome": outcome}
    row |= {"message": message.replace(str(folder), ""), **end(folder, run, folder / whole_of(kind))}
    row["correct"] = bool(row["correct"] and where)
    row["seconds"] = round(time.perf_counter() - begun, 1)
    return row


def whole_of(kind: Kind) -> str:
    """The folder of the run that was left alone."""
    return "ray" if "ray" in kind.command else "whole"


def left_alone(kind: Kind, folder: Path) -> dict[str, float]:
    """A run that is not killed; seconds from when its processes are there to its first checkpoint, and of an epoch."""
    run, seen = whole_of(kind), 0.0
    process, sight = start(kind.command, folder, run), Sight(folder / run, 0)
    while not sight.begun() and process.poll() is None:
        if not seen and len(kind.victims(process.pid)) >= kind.count:
            seen = time.perf_counter()
        time.sleep(0.02)
    begun = time.perf_counter()
    if ended(process):
        raise SystemExit(f"a run that was left alone failed: {said(folder, run)}")
    log = (folder / run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = sorted(json.loads(line)["seconds"] for line in log)
    return {"before the first epoch": begun - seen, "epoch": seconds[len(seconds) // 2]}


@contextmanager
def data() -> Iterator[tuple[Path, int]]:
    """A folder with tables, and how many steps an epoch has. No process that was started here is left behind."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, (interactions, items) = Path(name), measure.small_tables(USERS)
        interactions.write_parquet(folder / "log.parquet")
        items.write_parquet(folder / "items.parquet")
        split = lt.Dataset.read(interactions, items).leave_one_out()
        try:
            yield folder, -(-int((split.train.lengths > 1).sum()) // BATCH)
        finally:
            for process in marked(""):
                if process != os.getpid():
                    os.kill(process, signal.SIGKILL)


def plan(quick: bool, nodes: Nodes | None) -> list[tuple[Kind, str]]:
    """What is killed when: each kind at moments that are drawn, none twice before all came."""
    chance, planned = random.Random(SEED), []
    counts = [(torchrun(0, False), 4), (torchrun(3, False), 3), (torchrun(0, True), 4)]
    counts = [(counts[1][0], 1)] if quick else counts
    for kind, count in [*((kind, 3) for kind in (nodes.kinds() if nodes else [])), *counts]:
        planned += [(kind, moment) for moment in chance.sample(MOMENTS, count)]
    return planned


def main() -> None:
    """Kill, and count the correct ends."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=Path, help="keeps what is found, and is gone on from")
    asked = parser.parse_args()
    name, _, value = MARK.partition("=")
    os.environ[name] = value
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # which ends what was started, too
    rows, times = [], dict[str, dict[str, float]]()
    if asked.rows and asked.rows.exists():
        rows = [json.loads(line) for line in asked.rows.read_text(encoding="utf-8").splitlines()]
    with data() as (folder, steps):
        nodes = None if asked.quick else Nodes()
        for number, (kind, moment) in list(enumerate(plan(asked.quick, nodes)))[len(rows) :]:
            if whole_of(kind) not in times:
                times[whole_of(kind)] = left_alone(kind, folder)
            rows.append(killed(kind, moment, number, folder, steps, times[whole_of(kind)]))
            measure.console.print(rows[-1])
            if asked.rows:
                with asked.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
        if nodes:
            nodes.cluster.shutdown()
    shown = ("killed", "moment", "where", "outcome", "end", "seconds")
    measure.table("kills", [{key: row[key] for key in shown} for row in rows])
    share = sum(bool(row["correct"]) for row in rows) / len(rows)
    claims = [measure.Claim("kills that end in a correct run", share, "share", 1.0, at_most=False)]
    measure.finish("kills", claims, {"epochs": EPOCHS, "kills": rows}, quick=asked.quick)


if __name__ == "__main__":
    main()
