"""The next batches are made in a thread while the model computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def prefetch(source: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """The items of `source` in their order, up to `ahead` of them made in advance by a thread.

    What `source` raises is raised here, where its item would have come. The thread ends with the iteration, or soon
    after the iteration is given up.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
    given_up = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not given_up.is_set():
            with suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                break

    def work() -> None:
        try:
            for item in source:
                put(item, None)
                if given_up.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, daemon=True, name="longtail-batches")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        given_up.set()
        thread.join()
