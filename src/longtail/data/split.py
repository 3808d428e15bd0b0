"""Splits: what trains, validates and tests. By the end of each history, by time, by users or by items."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from longtail.config import Config
from longtail.data.histories import BoolArray, Histories, IntArray

if TYPE_CHECKING:
    from longtail.data.dataset import Dataset

MINIMUM = 3  # interactions a user needs to be evaluated by leave-one-out
VALID, TEST = 1, 2  # parts of the interactions that do not train; 0 trains

Scheme = Literal["leave_one_out", "time", "users", "items"]
Which = Literal["first", "last"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
READ: dict[Scheme, set[str]] = {
    "leave_one_out": set(),
    "time": {"valid", "test", "target"},
    "users": {"valid", "test", "seed"},
    "items": {"valid", "test", "seed"},
}


class SplitConfig(Config):
    """What is held out of training (docs/protocols.md)."""

    scheme: Scheme = "leave_one_out"
    """leave_one_out: each user's last two items. time: all after a date. users, items: a random share of them."""
    valid: Share = 0.1
    """For time, users, items: the share of interactions, users or items that validates."""
    test: Share = 0.1
    """For time, users, items: the share of interactions, users or items that tests."""
    target: Which = "first"
    """For time: which of a user's interactions in a period is her target there."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """For users and items: draws who or what is held out; not the seed of training."""

    @model_validator(mode="after")
    def _something_trains_and_nothing_is_idle(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid:g} and test = {self.test:g} leave nothing to train on; lower them")
        fields = type(self).model_fields
        changed = {name for name in fields if getattr(self, name) != fields[name].default}
        if idle := sorted(changed - READ[self.scheme] - {"scheme"}):
            raise ValueError(f"scheme {self.scheme!r} does not read {', '.join(idle)}; leave it out, or set the scheme")
        return self


class Contexts(NamedTuple):
    """Histories of the same U users where they are more than train and the targets.

    valid, test: what is known when predicting those targets, empty for users without one. everything: all interactions.
    """

    valid: Histories
    test: Histories
    everything: Histories


class Split(NamedTuple):
    """Training histories and one held-out target a user and split.

    train: Histories of U users, empty for those who do not train. valid, test: (U + 1,) internal item ids, 0 where the
    user is not evaluated. items: I, the size of the catalogue. data: where it came from, with the external ids and the
    text. contexts: None for leave-one-out, where train and the targets say it all. scheme: how it was made, readable.
    trains: (n,) which interactions of the data set train, in its order; None where the data set is not at hand.
    """

    train: Histories
    valid: IntArray
    test: IntArray
    items: int
    data: Dataset | None = None
    contexts: Contexts | None = None
    scheme: str = "leave_one_out"
    trains: BoolArray | None = None

    def targets(self, name: str) -> IntArray:
        """(U + 1,) the targets of 'valid' or 'test'."""
        return {"valid": self.valid, "test": self.test}[name]

    def history(self, name: str) -> Histories:
        """What is known when predicting the targets of 'valid' or 'test'; it ends before them.

        For leave-one-out: train, and for 'test' the valid item too.
        """
        if self.contexts is not None:
            return {"valid": self.contexts.valid, "test": self.contexts.test}[name]
        known: dict[str, Callable[[], Histories]] = {
            "valid": lambda: self.train,
            "test": lambda: self.train.append(self.valid),
        }
        return known[name]()

    def everything(self) -> Histories:
        """All interactions again, for serving and for what a user never touched."""
        if self.contexts is not None:
            return self.contexts.everything
        return self.train.append(self.valid).append(self.test)

    def validating(self, users: int | None, seed: int) -> Split:
        """The same, where so many users at most, drawn by the seed, have a validation target; all if None."""
        there = np.flatnonzero(self.valid)
        if users is None or users >= len(there):
            return self
        chosen = np.random.default_rng(seed).choice(there, users, replace=False)
        valid = np.zeros_like(self.valid)
        valid[chosen] = self.valid[chosen]
        return self._replace(valid=valid)

    def select(self, users: IntArray) -> Split:
        """The split of `users` (n,) alone, renumbered 1..n in the order given."""
        valid, test = (np.concatenate([[0], targets[users]]) for targets in (self.valid, self.test))
        contexts = self.contexts and Contexts(*(histories.select(users) for histories in self.contexts))
        return Split(self.train.select(users), valid, test, self.items, None, contexts, self.scheme)


def leave_one_out(histories: Histories, items: int) -> Split:
    """The last item of a history tests, the one before validates, the rest trains.

    Users with fewer than three interactions only train (protocol of LLM-ESR, sec. 4.1).

    >>> from longtail.data.histories import from_lists
    >>> split = leave_one_out(from_lists([[5, 6, 7, 8], [1, 2]]), items=8)
    >>> split.train.of(1), split.valid, split.test, split.train.of(2)
    (array([5, 6]), array([0, 7, 0]), array([0, 8, 0]), array([1, 2]))
    """
    lengths = histories.lengths
    evaluated = lengths >= MINIMUM
    ends = histories.offsets[1:]
    test, valid = np.zeros_like(lengths), np.zeros_like(lengths)
    test[evaluated] = histories.items[ends[evaluated] - 1]
    valid[evaluated] = histories.items[ends[evaluated] - 2]
    held_out = np.concatenate([ends[evaluated] - 1, ends[evaluated] - 2])
    trains = np.ones(len(histories.items), dtype=np.bool_)
    trains[held_out] = False
    train = Histories(histories.items[trains], np.concatenate([[0], np.cumsum(lengths - 2 * evaluated)]))
    return Split(train, valid, test, items, trains=trains)


def time_split(
    histories: Histories,
    timestamps: IntArray,
    items: int,
    valid: float = 0.1,
    test: float = 0.1,
    target: Which = "first",
) -> Split:
    """Two cuts in time, the same for all: what is before the first trains, between them validates, the rest tests.

    timestamps: (n,) of `histories.items`. The cuts are times of interactions: the share `test` of all, or more where
    many share that time, is at or after the second, `valid` and `test` together at or after the first. A user's target
    in a period is her first or last interaction in it, known is all that she did before it, whenever that was. A user
    without training interactions is cold, and evaluated like any other; one with nothing before her target is not.

    >>> from longtail.data.histories import from_lists
    >>> both = from_lists([[5, 6, 7, 8], [1, 2]])
    >>> split = time_split(both, np.array([1, 3, 7, 8, 7, 9]), items=8, valid=0.3, test=0.3)
    >>> split.train.of(1), split.valid, split.test, split.history("test").of(2), split.scheme
    (array([5, 6]), array([0, 7, 0]), array([0, 8, 2]), array([1]), 'time(valid=0.3, test=0.3, target=first)')
    """
    part = np.zeros(len(timestamps), np.int64)
    if len(timestamps):
        held = np.maximum(np.round(np.array([valid + test, test]) * len(timestamps)).astype(np.int64), 1)
        part = np.searchsorted(np.sort(timestamps)[-held], timestamps, side="right")
    scheme = f"time(valid={valid:g}, test={test:g}, target={target})"
    return _by_parts(histories, items, part, target, scheme)


def held_out_users(histories: Histories, items: int, valid: float = 0.1, test: float = 0.1, seed: int = 42) -> Split:
    """A random share of the users validates and another tests; they never train, and all others only do.

    A held-out user's target is her last item, known is all before it; with a single item she is not evaluated.

    >>> from longtail.data.histories import from_lists
    >>> split = held_out_users(from_lists([[1, 2], [3, 4], [5, 6]]), items=6, valid=0.3, test=0.3, seed=0)
    >>> split.train.items, split.valid, split.test, split.history("test").of(3)
    (array([3, 4]), array([0, 2, 0, 0]), array([0, 0, 0, 6]), array([5]))
    """
    part = _drawn(histories.users, valid, test, seed)[histories.owners()]
    return _by_parts(histories, items, part, "last", f"users(valid={valid:g}, test={test:g}, seed={seed})")


def held_out_items(histories: Histories, items: int, valid: float = 0.1, test: float = 0.1, seed: int = 42) -> Split:
    """A random share of the items validates and another tests; no training history holds them: only text tells them.

    A user's target is her first valid or test item; known is what she did before it, without held-out items of either
    kind. With nothing known she is not evaluated there. What she did after a target, with other items, does train.

    >>> from longtail.data.histories import from_lists
    >>> split = held_out_items(from_lists([[4, 1, 2, 3], [3, 4]]), items=4, valid=0.25, test=0.25, seed=0)
    >>> split.train.items, split.valid, split.test, split.history("test").of(1), split.history("valid").of(1)
    (array([4, 2, 4]), array([0, 1, 0]), array([0, 3, 0]), array([4, 2]), array([4]))
    """
    part = _drawn(items, valid, test, seed)[histories.items]
    scheme = f"items(valid={valid:g}, test={test:g}, seed={seed})"
    return _by_parts(histories, items, part, "first", scheme, known=part == 0)


def held_out(config: SplitConfig, histories: Histories, timestamps: IntArray, items: int) -> Split:
    """The split that `config` describes."""
    shares = config.valid, config.test
    schemes: dict[Scheme, Callable[[], Split]] = {
        "leave_one_out": lambda: leave_one_out(histories, items),
        "time": lambda: time_split(histories, timestamps, items, *shares, config.target),
        "users": lambda: held_out_users(histories, items, *shares, config.seed),
        "items": lambda: held_out_items(histories, items, *shares, config.seed),
    }
    return schemes[config.scheme]()


def _by_parts(
    histories: Histories,
    items: int,
    part: IntArray,
    which: Which,
    scheme: str,
    known: BoolArray | None = None,
) -> Split:
    """From the part (n,) that each interaction belongs to. `known` (n,): those that contexts may hold; None for all."""
    found = (np.flatnonzero(part == held) for held in (VALID, TEST))
    chosen = [entries if which == "last" else entries[::-1] for entries in found]
    (valid, before_valid), (test, before_test) = (_target(histories, entries, known) for entries in chosen)
    contexts = Contexts(before_valid, before_test, histories)
    trains = part == 0
    return Split(histories.keep(trains), valid, test, items, contexts=contexts, scheme=scheme, trains=trains)


def _target(histories: Histories, entries: IntArray, known: BoolArray | None) -> tuple[IntArray, Histories]:
    """The item (U + 1,) of the last of each user's `entries`, and her history before it; 0 where that is empty."""
    owners = histories.owners()
    place = np.full(len(histories.lengths), -1)
    place[owners[entries]] = entries  # of several of a user, numpy keeps the one assigned last
    before = np.arange(len(owners)) < place[owners]
    context = histories.keep(before if known is None else before & known)
    target, evaluated = np.zeros_like(histories.lengths), np.flatnonzero(context.lengths)
    target[evaluated] = histories.items[place[evaluated]]
    return target, context


def _drawn(n: int, valid: float, test: float, seed: int) -> IntArray:
    """(n + 1,) the part of each of the ids 1..n; who tests does not depend on the share that validates.

    Internal ids ascend with external ones, so neither the order of rows nor that of the tables matters.
    """
    order = 1 + np.random.default_rng(seed).permutation(n)
    tests = round(test * n)
    part = np.zeros(n + 1, np.int64)
    part[order[:tests]] = TEST
    part[order[tests : tests + round(valid * n)]] = VALID
    return part
