"""Commands in processes of their own, which never outlive this one, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

from longtail.errors import LongtailError
from longtail.files import ENDING, locked, sweep
from longtail.run_folder import lock_of

T = TypeVar("T")
FOLLOW = "LONGTAIL_FOLLOW"  # set for a child: it ends when its standard input does
MEMORY = 2 * 2**30  # bytes set aside for each training; plain SASRec with softmax on Beauty took 0.5 GiB at most
OUTPUT = "output.log"  # in a run folder: what its processes printed
POLL = 0.1  # seconds between two looks at the children


class Child:
    """`longtail` with `arguments`, its output added to a file.

    It follows us: its standard input is a pipe whose other end only this process has, so it notices our end, even by
    SIGKILL, at once. Ctrl-C in the terminal does not reach it; `stop` does.
    """

    def __init__(self, arguments: Sequence[str], output: Path, threads: int) -> None:
        environment = {**os.environ, FOLLOW: "1", "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "longtail", *arguments]
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        code = self.process.poll()
        if code is not None:
            self._let_go()
        return code

    def stop(self) -> None:
        """End it at once: what it wrote last is whole, because every file is written whole or not at all."""
        self.process.kill()
        self.process.wait()
        self._let_go()

    def _let_go(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


def training(folder: Path, arguments: Sequence[str], threads: int) -> Child:
    """`longtail fit` into a folder, or on with what is begun there, once no other process is at work in it."""
    try:
        with locked(lock_of(folder), folder, ENDING):
            sweep(folder)
    except LongtailError as error:
        if folder.is_dir():
            (folder / OUTPUT).write_text(f"{error}\n", encoding="utf-8")
        raise
    return Child(["fit", *arguments, "--out", str(folder), "--resume"], folder / OUTPUT, threads)


def follow() -> None:
    """In a child: end this process as soon as the one that started it ends, or closes our standard input."""
    if os.environ.pop(FOLLOW, None):
        threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    os._exit(1)


def in_parallel(
    tasks: Iterable[T],
    jobs: int,
    start: Callable[[T], Child],
    ended: Callable[[T, str], None],
    look: Callable[[list[tuple[T, Child]]], None],
) -> None:
    """Run a child for each task, `jobs` at a time; stop them all if this process is told to stop.

    `ended` gets a task and what went wrong with it, or ''; `look` sees those that run, several times a second.
    """
    waiting, running = deque(tasks), list[tuple[T, Child]]()
    with _stopped_by_sigterm():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.popleft()
                    try:
                        running.append((task, start(task)))
                    except LongtailError as error:
                        ended(task, str(error))
                look(running)
                time.sleep(POLL)
                codes = [child.poll() for _, child in running]
                for (task, _), code in zip(running, codes, strict=True):
                    if code is not None:
                        ended(task, f"exit code {code}" if code else "")
                running = [one for one, code in zip(running, codes, strict=True) if code is None]
        finally:
            for _, child in running:
                child.stop()


def usual_jobs() -> int:
    """As many as there are cores for, and memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else MEMORY
    return max(min(_cores(), memory // MEMORY), 1)


def threads_of(jobs: int) -> int:
    """Threads of each of so many jobs: OMP_NUM_THREADS, or else the cores shared out.

    The number of jobs that are left does not change it: sums in another order end in other last digits.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else max(_cores() // jobs, 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is cleaned up then is cleaned up now."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
