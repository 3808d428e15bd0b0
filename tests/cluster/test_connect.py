"""What is said without ray, and what a local cluster opens to the world: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import call

LISTENING = """
import os
from pathlib import Path
from longtail.cluster.connect import connect

def parent(process):
    return int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])

def ours():
    # Names of the open files of this process and all that came of it: other programs listen too.
    known, processes = {os.getpid()}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            processes[int(path.name)] = parent(path)
        except OSError:
            pass
    while more := {one for one, above in processes.items() if above in known} - known:
        known |= more
    found = set()
    for process in known:
        for path in Path(f"/proc/{process}/fd").glob("*"):
            try:
                found.add(os.readlink(path))
            except OSError:
                pass
    return found

def sockets():
    found, files = set(), ours()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            number, address, _, state, *_ = words = line.split()
            if state == "0A" and f"socket:[{words[9]}]" in files:  # listening
                found.add((name, address))
    return found

ray = connect()
assert connect() is ray
ray.get(ray.remote(lambda: 1).remote())
print(*(f"{name}:{address}" for name, address in sockets()))
from ray._common.usage import usage_lib
print(usage_lib.usage_stats_enabled(), not ray._private.worker.get_dashboard_url())
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    code, _, err = call(capsys, monkeypatch, "embed", tmp_path, "--cluster", "ray")
    assert code == 2 and "pip install 'longtail[ray]'" in err


def test_another_kind_of_cluster_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(capsys, monkeypatch, "embed", tmp_path, "--cluster", "rya")
    assert code == 2 and "no cluster 'rya', did you mean 'ray'?" in err


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables of sockets")
def test_a_local_cluster_listens_on_the_loopback_alone_and_reports_nothing() -> None:
    pytest.importorskip("ray")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, env=clean, check=True)
    ports, told = done.stdout.splitlines()
    addresses = {port.split(":")[1] for port in ports.split()}
    assert addresses and addresses <= LOOPBACK, ports
    assert told.split() == ["False", "True"]
