"""Prefetching changes neither the items, their order nor an error, and leaves no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from longtail.train.prefetch import prefetch


def _threads() -> int:
    return sum(thread.name == "longtail-batches" for thread in threading.enumerate())


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(prefetch(range(100))) == list(range(100))
    assert list(prefetch([])) == []
    assert not _threads()


def test_an_error_comes_where_its_item_would_have() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = prefetch(source())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert not _threads()


def test_giving_up_ends_the_thread_and_never_runs_far_ahead() -> None:
    made = []

    def source() -> Iterator[int]:
        for item in range(1000):
            made.append(item)
            yield item

    items = prefetch(source(), ahead=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert not _threads()
    assert len(made) <= 3 + 2 + 2  # taken, in the queue, and on the way
