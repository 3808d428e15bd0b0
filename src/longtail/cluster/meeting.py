"""How the workers of Ray Train find each other: at a port of the first one's own address in the cluster.

Ray's way is torch's, which listens on every interface of the machine. So, on a cluster of the loopback, nothing of a
training listens beyond it.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from torch._C._distributed_c10d import TCPStore

from longtail.train.distributed import STEP, stay_here


class Meeting(TorchConfig):
    """Ray's process group of torch, met in our way."""

    @property
    def backend_cls(self) -> type:
        """What sets it up."""
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Let the first worker listen, and all join."""
        host, port, opened = worker_group.execute_single(0, _listen)
        size = len(worker_group)
        told = {"backend": backend_config.backend, "size": size, "host": host, "port": port}
        start = worker_group.execute_single_async
        ray.get([start(rank, _join, number=rank, opened=None if rank else opened, **told) for rank in range(size)])


def _listen() -> tuple[str, int, int]:
    """Address, port and number of a socket that listens there."""
    host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server((host, 0), family=family)
    return host, server.getsockname()[1], server.detach()


def _join(*, backend: str, number: int, size: int, host: str, port: int, opened: int | None) -> None:
    """The group of `size` workers, as the one of that number; opened: the first one's socket."""
    if ipaddress.ip_address(host).is_loopback:
        stay_here()
    store = TCPStore(host, port, size, number == 0, timeout=STEP, wait_for_workers=False, master_listen_fd=opened)
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=STEP)
