"""Dropout whose random numbers do not cost more than the rest of the layer on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16  # a value is kept or dropped by 16 random bits


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each value of `x` with probability `p`, rounded to 1 / 65536, and scale the rest by 1 / (1 - p)."""
    return F.dropout(x, p) if x.device.type != "cpu" else x * kept(x, p)


def kept(x: Tensor, p: float) -> Tensor:
    """What `dropout` multiplies each value of `x` by: 0 with probability `p`, else 1 / (1 - p). On a CPU.

    Torch draws one Bernoulli number a value there, one after another: on Amazon Beauty that was a fifth of a step.
    Here one 64-bit draw serves four values.
    """
    dropped = round(p * STEPS)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)  # -32768 ... 32767, uniform
    ones = bits.to(x.dtype).ge_(dropped - STEPS // 2) if x.dtype == torch.float32 else bits.ge(dropped - STEPS // 2)
    return ones.to(x.dtype).mul_(STEPS / (STEPS - dropped))


class Dropout(nn.Module):
    """`dropout` while training, nothing otherwise."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return dropout(x, self.p) if self.training and self.p else x
