"""What is said without ray, and what a local cluster opens to the world: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sockets import LOOPBACK
from tests.test_cli import call

LISTENING = """
import os
from longtail.cluster.connect import connect
from tests.sockets import children, listening

ray = connect()
assert connect() is ray
ray.get(ray.remote(lambda: 1).remote())
print(*listening(children(os.getpid())))
from ray._common.usage import usage_lib
print(usage_lib.usage_stats_enabled(), not ray._private.worker.get_dashboard_url())
"""


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
    addresses, told = done.stdout.splitlines()
    assert addresses and set(addresses.split()) <= LOOPBACK, addresses
    assert told.split() == ["False", "True"]
