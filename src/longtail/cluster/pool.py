"""Actors that each hold something heavy and work off blocks; what a dead or a hanging one had goes to another."""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from longtail.cluster.connect import connect, workers_of
from longtail.errors import ClusterError, LongtailError

TRIES = 4  # workers that may end at one block, or in a row before they begin
SLOW = 10.0  # times the usual that a block may take before its worker is given up
SHORTEST = 60.0  # seconds that it may take in any case
FIRST = 1800.0  # the same while none is done
STARTING = 300.0  # seconds to wait for a first worker: none may be free, or a model may have to be loaded
log = logging.getLogger(__name__)
J = TypeVar("J")
A = TypeVar("A")


class _Worker(Generic[J, A]):
    """The actor: what `make` gives, made on its node."""

    def __init__(self, make: Callable[[], Callable[[J], A]]) -> None:
        self.make = make

    def ready(self) -> bool:
        self.work = self.make()
        return True

    def run(self, job: J) -> A:
        return self.work(job)


class _Running(NamedTuple, Generic[J]):
    actor: Any
    job: J
    tries: int
    since: float


class Pool(Generic[J, A]):
    """`workers` actors of one CPU each (None: one a CPU or GPU of the cluster), and of a GPU each where there are.

    Nothing starts before the first job. A block that takes SLOW times the usual, and `shortest` seconds at least, goes
    to another worker; not if `slow` is False, where the work has a patience of its own.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[J], A]],
        workers: int | None = None,
        *,
        gpu: bool = False,
        slow: bool = True,
        shortest: float = SHORTEST,
    ) -> None:
        self._make, self._asked, self._gpu, self._slow, self._shortest = make, workers, gpu, slow, shortest
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, _Running[J]] = {}
        self._queue: deque[tuple[J, int]] = deque()  # drawn, not with a worker; how many ended at it
        self._took: deque[float] = deque(maxlen=100)  # seconds of the last blocks
        self._failed, self._alive = 0, 0.0
        self._ray: ModuleType | None = None

    def stream(self, jobs: Iterator[J]) -> Iterator[tuple[J, A]]:
        """Jobs and their answers as they come; a job is drawn when a worker is free for it.

        After an error of a job, or of `jobs`, none is drawn; those that run are still answered, and then it is raised.
        """
        failure: BaseException | None = None
        first = next(jobs, None)
        if first is None:
            return
        self._queue.append((first, 0))
        self._begin()
        while True:
            try:
                while failure is None and self._idle and (drawn := self._draw(jobs)) is not None:
                    self._give(*drawn)
                if not self._running and (failure or (self._idle and not self._queue)):
                    break
                yield from self._answers()
                self._give_up_on_slow()
            except (LongtailError, KeyboardInterrupt) as error:
                failure = failure or error
        self._queue.clear()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End the workers."""
        for actor in [*self._idle, *self._starting.values(), *(one.actor for one in self._running.values())]:
            self._end(actor)
        self._idle, self._starting, self._running = [], {}, {}

    def _draw(self, jobs: Iterator[J]) -> tuple[J, int] | None:
        if self._queue:
            return self._queue.popleft()
        job = next(jobs, None)
        return None if job is None else (job, 0)

    def _begin(self) -> None:
        if self._ray is None:
            self._ray = ray = connect()
            gpus = self._gpu and ray.cluster_resources().get("GPU", 0) > 0
            actor = ray.remote(_Worker)
            self._actor = actor.options(num_cpus=1, num_gpus=int(gpus), scheduling_strategy="SPREAD")
            self._made = ray.put(self._make)
            self._count = workers_of(ray, self._asked, gpus)
        self._alive = time.monotonic()
        for _ in range(self._count - len(self._idle) - len(self._starting)):
            self._start()

    def _start(self) -> None:
        actor = self._actor.remote(self._made)
        self._starting[actor.ready.remote()] = actor

    def _give(self, job: J, tries: int) -> None:
        actor = self._idle.pop(0)
        self._running[actor.run.remote(job)] = _Running(actor, job, tries, time.monotonic())

    def _answers(self) -> Iterator[tuple[J, A]]:
        """What came within a second."""
        assert self._ray is not None
        ray, now = self._ray, time.monotonic()
        if self._idle or self._running:
            self._alive = now
        elif now - self._alive > STARTING:
            raise ClusterError(
                f"no worker could be started within {STARTING:,.0f} seconds; see with 'ray status' whether a CPU of "
                "the cluster is free"
            )
        done, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=1.0)
        for ref in done:
            if ref in self._starting:
                self._greet(ref)
                continue
            one = self._running.pop(ref)
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                self._idle.append(one.actor)
                raise _cause(error) from None
            except ray.exceptions.RayError as error:
                self._lose(one, f"a worker died ({_line(error)})")
                continue
            self._idle.append(one.actor)
            self._took.append(time.monotonic() - one.since)
            yield one.job, answer

    def _greet(self, ref: Any) -> None:
        """A worker is ready, or cannot be."""
        assert self._ray is not None
        actor, errors = self._starting.pop(ref), self._ray.exceptions
        try:
            self._ray.get(ref)
        except errors.RayTaskError as error:
            self._end(actor)
            raise _cause(error) from None
        except errors.RayError as error:
            self._failed += 1
            self._end(actor)
            if self._failed >= TRIES:
                raise ClusterError(f"workers die before they begin ({_line(error)}); see ray's logs") from None
            self._start()
        else:
            self._failed = 0
            self._idle.append(actor)

    def _give_up_on_slow(self) -> None:
        usual = statistics.median(self._took) if self._took else None
        limit = FIRST if usual is None else max(self._shortest, SLOW * usual)
        now = time.monotonic()
        for ref, one in list(self._running.items()):
            if self._slow and now - one.since > limit:
                del self._running[ref]
                self._lose(one, f"a worker has not answered in {now - one.since:,.0f} seconds")

    def _lose(self, one: _Running[J], why: str) -> None:
        """End a worker, start another, and let any do again what this one had."""
        log.warning("%s; what it had goes to another", why)
        self._end(one.actor)
        self._start()
        if one.tries + 1 >= TRIES:
            raise ClusterError(f"{why}, as {TRIES} did at one block; what was answered is kept, see ray's logs")
        self._queue.appendleft((one.job, one.tries + 1))

    def _end(self, actor: Any) -> None:
        assert self._ray is not None
        with suppress(self._ray.exceptions.RayError):  # it is dead already
            self._ray.kill(actor)


def _cause(error: Any) -> LongtailError:
    """What a worker raised, as if it had been raised here."""
    cause = error.cause
    return cause if isinstance(cause, LongtailError) else ClusterError(f"a worker failed: {cause!r}; see ray's logs")


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
