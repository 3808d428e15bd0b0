"""The estimate of seconds and memory, against what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longtail.checkup import work as planned
from longtail.data.cost import Size, Work, estimate, machine_rate
from longtail.data.dataset import Dataset
from longtail.data.doctor import examine
from longtail.pipeline import run_config
from tests.conftest import walks

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "benchmarks" / "results" / "train_epoch.json").read_text())
BEAUTY = Size(users=22_363, items=12_101, tokens=153_776, interactions=198_502, evaluated=22_363)
PLAIN = Work(
    parameters=800_000, width=64, d=64, views=1, layers=2, max_len=200, batch_size=128, epochs=1, negatives=1
)  # fmt: skip
LLMESR = PLAIN._replace(width=128, views=2, layers=3, embedding_width=1536, teachers=10, exact=True)
CASES = {
    "llmesr, exact teacher": LLMESR,
    "llmesr, bank": LLMESR._replace(exact=False),
    "llmesr, bank, softmax": LLMESR._replace(exact=False, negatives=0),
    "plain, bce": PLAIN,
    "plain, gbce (256 negatives)": PLAIN._replace(negatives=256),
    "plain, softmax": PLAIN._replace(negatives=0),
    "plain, sampled_softmax (4,096)": PLAIN._replace(negatives=4096, shared=True),
}
FIT = """
import json, sys, time, longtail as lt
from pathlib import Path
sys.path.insert(0, "{root}")
from tests.conftest import vectors
data = lt.Dataset.read("{folder}/log.parquet")
items, users = vectors(data.items.ids, 384, 1), vectors(data.users.ids, 384, 2)
took = {{}}
for name in ("plain", "plain", "llmesr"):  # the first one warms up
    for epochs in (1, 4):
        settings = {{"backbone": {{"max_len": 10}}, "train": {{"epochs": epochs, "device": "cpu"}}}}
        before = time.process_time()
        lt.Recommender(name, "sasrec", settings).fit(data.leave_one_out(), items=items, users=users)
        took[name] = time.process_time() - before - (took[name] if epochs > 1 else 0)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({{"bytes": int(peak.split()[1]) * 1024, **took}}))
"""


@pytest.mark.parametrize("case", CASES)
def test_the_stored_epochs_are_met_within_a_factor_of_two(case: str) -> None:
    (measured,) = [row["seconds an epoch"] for row in STORED["cases"] if row["case"] == case]
    told = estimate(CASES[case], BEAUTY, STORED["matrix_rate"]).epoch
    assert measured / 2 < told < measured * 2


@pytest.mark.parametrize("row", STORED["growth"], ids=lambda row: f"{row['axis']} {row['size']}")
def test_it_grows_as_measured(row: dict[str, float]) -> None:
    axis, value = str(row["axis"]), int(row["size"])
    users, items = {"users": (value, 12_101), "items": (20_000, value)}.get(axis, (20_000, 12_101))
    mean = value if axis == "length" else 7
    changes = {
        "neighbors": {"teachers": value},
        "width E": {"embedding_width": value},
        "width d": {"d": value, "width": 2 * value},
        "batch": {"batch_size": value},
    }.get(axis, {})
    size = Size(users, items, users * mean, users * (mean + 2), users)
    told = estimate(LLMESR._replace(**changes), size, STORED["matrix_rate"]).epoch
    assert row["seconds"] / 2 < told < row["seconds"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_real_fit_takes_what_was_told_within_a_factor_of_five(tmp_path: Path) -> None:
    """Three epochs more, in seconds of one core: those pass as fast on a busy machine. The matrix rate behind what is told
    does not: beside other work a factor of 3.8 was seen."""
    log = walks(2000)
    log.write_parquet(tmp_path / "log.parquet")
    script = FIT.format(root=ROOT, folder=tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    took, data = json.loads(done.stdout), Dataset.read(log)
    for name in ("plain", "llmesr"):
        values = {"data": {"interactions": "log"}, "method": {"name": name}, "backbone": {"max_len": 10}}
        findings = examine(data, work=planned(run_config(None, values=values), len(data.items)))
        (cost,) = [one.facts for one in findings if one.topic == "cost"]
        told = float(cost["seconds_an_epoch"]) + float(cost["seconds_a_validation"])
        assert took[name] / 15 < told < took[name] * 5 / 3, (name, told, took)
    assert took["bytes"] / 3 < float(cost["bytes"]) < took["bytes"] * 3


def test_hiding_items_costs_a_second_copy_and_a_third_for_students() -> None:
    for work, times in ((PLAIN, 2), (LLMESR._replace(exact=False), 3)):
        costs = [estimate(work._replace(masked=masked), BEAUTY, 1e11) for masked in (None, 0.3, 0.6)]
        epochs = [cost.epoch for cost in costs]
        assert 0.6 * times < epochs[1] / epochs[0] < epochs[2] / epochs[0] < times
        assert costs[0].validation == costs[2].validation
        wide = work._replace(batch_size=20_000)  # where a step is what takes most memory
        assert estimate(wide, BEAUTY, 1e11).bytes < estimate(wide._replace(masked=0.6), BEAUTY, 1e11).bytes


def test_a_training_too_large_for_the_machine_is_a_warning() -> None:
    huge = PLAIN._replace(parameters=10**13)
    (cost,) = [one for one in examine(Dataset.read(walks()), work=huge) if one.topic == "cost"]
    assert cost.level == "warning" and "this machine has" in cost.text and float(cost.facts["bytes"]) > 1e14


def test_the_rate_of_the_machine_is_plausible() -> None:
    assert 1e8 < machine_rate(256, 3) < 1e14


def test_the_work_of_a_config_is_read_off_the_method_itself() -> None:
    values = {"data": {"interactions": "x"}, "backbone": {"d": 32, "max_len": 20, "blocks": 3}}
    llmesr = planned(run_config(None, ["method.name=llmesr"], values=values), 100)
    assert (llmesr.width, llmesr.views, llmesr.layers, llmesr.teachers, llmesr.exact) == (64, 2, 4, 10, True)
    assert llmesr.parameters > 101 * 32 + 384 * 192
    softmax = planned(run_config(None, ["method.name=plain", "train.loss=softmax"], values=values), 100)
    assert (softmax.width, softmax.views, softmax.negatives, softmax.embedding_width, softmax.teachers) == (
        32,
        1,
        0,
        0,
        0,
    )
    bank = planned(run_config(None, ["method.name=llmesr", "method.teacher=bank"], values=values), 100)
    assert not bank.exact and bank.masked is None
    assert planned(run_config(None, ["backbone.name=bert4rec"], values=values), 100).masked == 0.6
