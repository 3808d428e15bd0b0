"""A cluster of two nodes on this machine, a CPU each, by ray's own means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# before a test imports ray: it reads them then
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

MARK = "LONGTAIL_TEST_CLUSTER"  # in the environment of every process of the cluster
ROOT = Path(__file__).parents[2]
STORE = 100 * 2**20  # bytes of each node's object store


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """The cluster; RAY_ADDRESS names it."""
    pytest.importorskip("ray")
    patch = pytest.MonkeyPatch()
    from longtail.cluster import connect

    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))  # of the workers
    patch.setenv(MARK, str(os.getpid()))
    connect.package()
    import ray
    from ray.cluster_utils import Cluster

    noticed = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_timeout_ms": 1000}
    # a lost node, in seconds; and workers who do not wait for all else on a busy machine
    fast = {**noticed, "health_check_failure_threshold": 3, "worker_niceness": 0}
    made = Cluster(initialize_head=True, head_node_args={**_node(), "_system_config": fast})
    made.add_node(**_node())
    made.wait_for_nodes()
    patch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


def _node() -> dict[str, object]:
    return {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
