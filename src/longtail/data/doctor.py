"""`longtail doctor`: what is wrong, doubtful or good to know about a data set before a model is trained on it."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from longtail.data import catalogue, order, sizes
from longtail.data.cost import Cost, Size, Work, estimate, machine_rate
from longtail.data.dataset import Dataset
from longtail.data.findings import LEVELS, Facts, Finding, Prompts, Subject

Check = Callable[[Subject], list[Finding]]


def cost(subject: Subject) -> list[Finding]:
    """Seconds and memory of the training to come, if one was named."""
    split, work = subject.split, subject.work
    if split is None or work is None:
        return []
    tokens = int(np.minimum(split.train.lengths, work.max_len + 1).sum())
    evaluated = int(np.count_nonzero(split.valid))
    size = Size(split.train.users, split.items, tokens, len(subject.items), evaluated)
    rate = machine_rate()
    found, memory = estimate(work, size, rate), _memory()
    facts: Facts = {"seconds_an_epoch": found.epoch, "seconds_a_validation": found.validation}
    facts |= {"bytes": found.bytes, "epochs": work.epochs, "multiply_adds_a_second": rate}
    if memory is not None:
        facts["machine_bytes"] = memory
    text = _told(found, work, rate)
    if memory is not None and found.bytes > 0.8 * memory:
        text += f"; this machine has {memory / 1e9:.1f} GB: lower train.batch_size or backbone.d, or filter more"
        return [Finding("warning", "cost", text, facts)]
    return [Finding("ok", "cost", text, facts)]


def _told(found: Cost, work: Work, rate: float) -> str:
    each = found.epoch + found.validation
    return (
        f"training takes about {_time(each)} an epoch on this CPU ({_time(found.epoch)} of steps, "
        f"{_time(found.validation)} of validation), {_time(each * work.epochs)} at most for {work.epochs} epochs "
        f"(early stopping usually ends it before), and {found.bytes / 1e9:.1f} GB; embedding texts comes on top. An "
        f"estimate from sizes and {rate / 1e9:.0f} G multiply-adds a second, measured now: right within a factor of 3"
    )


def _time(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _memory() -> int | None:
    """Bytes of memory of this machine, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # there is no sysconf on Windows
        return None


CHECKS: tuple[Check, ...] = (
    order.duplicates,
    order.ties,
    order.repeats,
    order.moments,
    order.structure,
    sizes.filtering,
    sizes.short_users,
    sizes.cold_targets,
    sizes.popularity,
    catalogue.metadata,
    catalogue.texts,
    catalogue.same_texts,
    catalogue.leaking_columns,
    cost,
)


def examine(
    data: Dataset,
    *,
    min_user: int = 0,
    min_item: int = 0,
    repeat: bool = True,
    prompts: Prompts | None = None,
    work: Work | None = None,
    now: float | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Everything the checks find, the worst first.

    data: as it was read, not yet filtered; min_user, min_item, repeat: the filter to come. prompts: what the text
    encoder will read (without, all columns in a row). work: the training whose cost is wanted. now: seconds since 1970,
    after which times are in the future. watch: called after each check with how many are done, of how many.
    """
    subject = Subject(data, min_user, min_item, repeat, prompts, work, *([] if now is None else [now]))
    found = []
    for done, check in enumerate(CHECKS, start=1):
        found += check(subject)
        if watch is not None:
            watch(done, len(CHECKS))
    return sorted(found, key=lambda one: LEVELS.index(one.level))
