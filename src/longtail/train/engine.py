"""Where a step runs: the device, the optimiser and the random numbers. Nothing else in the library knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch

from longtail.errors import ConfigError
from longtail.methods.base import Step, TrainedMethod
from longtail.nn.batch import SequenceBatch
from longtail.nn.layout import moved
from longtail.nn.shares import share
from longtail.train import distributed
from longtail.train.distributed import Shares
from longtail.train.prefetch import prefetch

Precision = Literal["float32", "bfloat16"]
State = Mapping[str, object]  # of a numpy generator


class Ahead(NamedTuple):
    """A step made in advance, on the device: this process's share of one.

    users: how many of the batch's; counts: what named losses are means over. drawn: states, once it was made, of the
    generators of batches, if it is known, and of plans.
    """

    step: Step
    users: int
    counts: Mapping[str, int]
    drawn: tuple[State | None, State]


@contextmanager
def seeded(*numbers: int, process: int = 0) -> Iterator[np.random.Generator]:
    """A numpy generator from these numbers, and torch's generators seeded with them inside the block only.

    Dropout and initialisation draw from torch's global generators; their state is restored on leaving, so the library
    leaves no trace in the caller's random numbers. Each `process` has its own for torch, and all the same for numpy.
    """
    sequence = np.random.SeedSequence(numbers)
    own = np.random.SeedSequence([*numbers, process]) if process else sequence
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(own.generate_state(1, np.uint64)[0] >> 1))
        yield np.random.default_rng(sequence)


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one, else the CPU; a ConfigError if CUDA is asked for and missing."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("train.device = 'cuda', but torch sees no CUDA device here; use 'auto' or 'cpu'")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


class Engine:
    """A method and its Adam on one device, a replica of it on each of several processes.

    In bfloat16, products are computed in that type and sums, weights and optimiser stay float32 (autocast). average:
    the decay a step of a running average of the weights, 0 for none; after t steps it is at most (1 + t) / (10 + t).
    """

    def __init__(
        self,
        method: TrainedMethod,
        device: torch.device,
        lr: float,
        precision: Precision = "float32",
        average: float = 0.0,
    ) -> None:
        self.method, self.device, self.average, self.done = method.to(device), device, average, 0
        wanted = distributed.size() > 1 and not method.rank_loss.whole_catalogue
        self.tables = [one for one in method.parameters() if wanted and len(one) == method.sizes.items + 1]
        self.parallel = distributed.replicated(method, self.tables)
        self.averages = [weight.detach().clone() for weight in method.parameters()] if average else []
        self.narrow = precision == "bfloat16" and device.type != "cpu"
        self.optimizer = torch.optim.Adam(method.parameters(), lr=lr, fused=True)

    def steps(self, batches: Iterable[SequenceBatch], generator: np.random.Generator | None = None) -> Iterator[Ahead]:
        """Each batch's step, made while the step before runs; `generator` is what the batches are drawn from."""
        return prefetch(self._made(batch, generator) for batch in batches)

    def _made(self, batch: SequenceBatch, generator: np.random.Generator | None) -> Ahead:
        rank, size = distributed.rank(), distributed.size()
        users = len(range(rank, len(batch.users), size))
        step = self.method.plan(batch if size == 1 else share(batch, rank, size))
        counts = {"rank": len(step.batch.targets)}
        if step.teachers is not None:
            counts["distillation"] = int(step.teachers.known.any(1).sum())
        if not users:
            counts = dict.fromkeys(counts, 0)
        drawn = None if generator is None else generator.bit_generator.state
        return Ahead(moved(step, self.device), users, counts, (drawn, self.method.draws.bit_generator.state))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The method with the averages for weights inside the block, if there are any."""
        pairs = list(zip(self.method.parameters(), self.averages, strict=True)) if self.averages else []
        for weight, average in pairs:
            weight.data, average.data = average.data, weight.data
        try:
            yield
        finally:
            for weight, average in pairs:
                weight.data, average.data = average.data, weight.data

    def shares(self, ahead: Ahead, due: bool) -> Shares:
        """How this process's share of a step counts; `due`: whether the leader wants a checkpoint after it."""
        rows = None if ahead.step.ids is None else len(ahead.step.ids)
        return distributed.shares(ahead.counts, ahead.users, rows, due)

    def step(self, ahead: Ahead, shares: Shares | None = None) -> dict[str, torch.Tensor]:
        """One update; the named losses, detached and still on the device, whose means over processes are the batch's.

        Every process takes the step of the whole batch, with gradients that are means over processes.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            losses = self.parallel(ahead.step)
        if shares is not None and shares.weights:
            losses = {name: loss * shares.weights.get(name, shares.weights[""]) for name, loss in losses.items()}
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        if shares is not None:
            distributed.exchange(self.tables, ahead.step.ids, shares.rows)
        self.optimizer.step()
        self.done += 1
        if self.averages:
            weight = 1 - min(self.average, (1 + self.done) / (10 + self.done))
            torch._foreach_lerp_(self.averages, [each.detach() for each in self.method.parameters()], weight)
        return {name: value.detach() for name, value in losses.items()}

    def random(self) -> dict[str, torch.Tensor]:
        """States of torch's generators, by the kind of device."""
        states = {"cpu": torch.get_rng_state()}
        return states | {"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else states

    def set_random(self, states: Mapping[str, torch.Tensor]) -> None:
        """Put torch's generators into these states."""
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)
