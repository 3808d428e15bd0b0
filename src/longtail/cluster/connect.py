"""The cluster: the one at RAY_ADDRESS, or one that is started here, on this machine and its loopback alone."""

from __future__ import annotations

import logging
import os
from types import ModuleType

from longtail.errors import ClusterError, ConfigError
from longtail.registry import nearest

INSTALL = "pip install 'longtail[ray]'"
KINDS = ("ray",)


def wanted(cluster: str | None) -> bool:
    """Whether `--cluster` asks for one; a ConfigError for a kind that there is not, a ClusterError without ray."""
    if cluster is None:
        return False
    if cluster not in KINDS:
        raise ConfigError(f"no cluster {cluster!r}{nearest(cluster, KINDS)}; there is: {', '.join(KINDS)}")
    package()
    return True


def package() -> ModuleType:
    """Ray, imported with its usage statistics off; a ClusterError says what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not _address():  # the variable is named for other systems; what it does is to take 127.0.0.1 as our address
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"--cluster ray needs a package that is not there ({error}); {INSTALL}") from error
    return ray


def connect() -> ModuleType:
    """Ray, connected: to RAY_ADDRESS, or to a cluster of this machine alone that ends with this process.

    The latter has no dashboard and listens on the loopback only. A ClusterError if nobody answers.
    """
    ray, address = package(), _address()
    if ray.is_initialized():
        return ray
    logging.getLogger("ray").setLevel(logging.ERROR)
    given: dict[str, object] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = f"no cluster answers at RAY_ADDRESS = {address!r}" if address else "ray does not start here"
        raise ClusterError(f"{place} ({error}); look at it with: ray status") from error
    return ray


def _address() -> str:
    return os.environ.get("RAY_ADDRESS", "").strip()


def workers_of(ray: ModuleType, asked: int | None, gpus: bool = False) -> int:
    """How many workers: as many as asked for, else one a GPU or, without, one a CPU of the cluster."""
    there = ray.cluster_resources()
    return asked or max(1, int(there.get("GPU", 0) if gpus and there.get("GPU", 0) else there.get("CPU", 1)))
