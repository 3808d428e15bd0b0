"""Where a step runs: the device, the optimiser and the random numbers. Nothing else in the library knows of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from longtail.errors import ConfigError
from longtail.methods.base import Method
from longtail.nn.batch import SequenceBatch


@contextmanager
def seeded(*numbers: int) -> Iterator[np.random.Generator]:
    """A numpy generator from these numbers, and torch's generators seeded with them inside the block only.

    Dropout and initialisation draw from torch's global generators; their state is restored on leaving, so the library
    leaves no trace in the caller's random numbers.
    """
    sequence = np.random.SeedSequence(numbers)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        yield np.random.default_rng(sequence)


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one, else the CPU; a ConfigError if CUDA is asked for and missing."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("train.device = 'cuda', but torch sees no CUDA device here; use 'auto' or 'cpu'")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


class Engine:
    """A method and its Adam on one device."""

    def __init__(self, method: Method, device: torch.device, lr: float) -> None:
        self.method, self.device = method.to(device), device
        self.optimizer = torch.optim.Adam(method.parameters(), lr=lr, fused=True)

    def step(self, blocks: Sequence[SequenceBatch]) -> dict[str, torch.Tensor]:
        """One update; the named losses, detached and still on the device."""
        losses = self.method([block.to(self.device) for block in blocks])
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}
