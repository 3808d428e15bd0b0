"""One rate limit for workers on many machines: an actor keeps the pace at which a server is asked."""

from __future__ import annotations

import time
from typing import Any

from longtail.cluster.connect import connect
from longtail.text.pace import Pace


class Keeper:
    """The actor. Times travel as seconds from now, because every machine's clock begins at another moment."""

    def __init__(self) -> None:
        self.pace = Pace()

    def reserve(self) -> float:
        now = time.monotonic()
        return self.pace.reserve(now) - now

    def hold(self, wait: float) -> None:
        self.pace.hold(time.monotonic() + wait)

    def refused(self, age: float) -> None:
        now = time.monotonic()
        self.pace.refused(now - age, now)

    def answered(self) -> None:
        self.pace.answered()


def keeper() -> Any:
    """The actor's handle; it lives where this process does, so that no worker's end takes it along."""
    ray = connect()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote()


class SharedPace(Pace):
    """The pace that a keeper keeps, as one of the workers sees it."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def reserve(self, now: float) -> float:
        wait: float = connect().get(self.actor.reserve.remote())
        return now + wait

    def hold(self, until: float) -> None:
        self.actor.hold.remote(until - time.monotonic())

    def refused(self, started: float, now: float) -> None:
        self.actor.refused.remote(now - started)

    def answered(self) -> None:
        self.actor.answered.remote()
