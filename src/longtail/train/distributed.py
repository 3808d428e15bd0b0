"""Training on several processes that torchrun starts, by its environment variables: all that goes between them.

Each process has the whole model and takes its share of the users of every batch. What a loss is a mean over is counted
over all of them, so that the processes' gradients add up to the gradient of the whole batch, and all take the same
step. Without torchrun there is one process, and nothing here costs anything.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from longtail.data.histories import IntArray
from longtail.errors import ConfigError, RunError

LOST = ("gloo", "nccl", "connection", "peer", "timed out", "timeout")  # in errors of torch about a lost process
STEP = timedelta(minutes=30)  # the longest that a process waits for the others; one that is killed is noticed at once
PREPARATION = timedelta(days=7)  # the longest that it waits for texts to be embedded
DENSE = 0.25  # of an item table's rows: where all processes together touch more, all are sent (benchmarks/wire.py)


class Shares(NamedTuple):
    """How this process's losses count among those of all, by name; how many rows of item tables each process touches,
    None for all of them; whether the leader says that a checkpoint is due."""

    weights: Mapping[str, float]
    rows: Sequence[int | None]
    due: bool


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def restarted() -> bool:
    """Whether torchrun started this process in the place of one that failed (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def command(arguments: Sequence[str]) -> str:
    """The command that goes on with a training."""
    again = shlex.join([argument for argument in arguments if argument != "--resume"])
    local, machines = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if local is None:
        return f"longtail {again} --resume"
    more = "" if machines == "1" else f"--nnodes {machines} "
    return f"torchrun {more}--nproc-per-node {local} -m longtail {again} --resume"


@contextmanager
def together() -> Iterator[None]:
    """The process group that torchrun's variables name, inside the block; without them, or in it already, nothing.

    A RunError says that another process was lost. A process that is told to stop (SIGTERM), as torchrun does with what
    is left of a group, raises KeyboardInterrupt.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        local, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= cards:
            raise ConfigError(f"{os.environ['LOCAL_WORLD_SIZE']} processes for {cards} GPUs; --nproc-per-node {cards}")
        torch.cuda.set_device(local)
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        stay_here()
    log, before = logging.getLogger("longtail"), signal.signal(signal.SIGTERM, _interrupt)
    _end_with_torchrun()
    level = log.level
    try:
        store, ours, every = next(iter(rendezvous("env://", timeout=STEP)))
        # what a group that failed has left in torchrun's store would lead its successor to dead addresses
        store = PrefixStore(f"longtail/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=ours, world_size=every, timeout=STEP)
        if not leads():
            log.setLevel(logging.ERROR)
        yield
    except BaseException as error:
        before = signal.SIG_IGN  # torchrun stops all when one ends: not before this one has said what is wrong
        text = str(error)
        if not isinstance(error, RuntimeError) or not any(word in text.lower() for word in LOST):
            raise
        raise RunError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} lost another one, whose own message, if it "
            f"had time for one, says why ({text.splitlines()[0].split('. ')[0]}); go on with: {command(sys.argv[1:])}"
        ) from None
    finally:
        log.setLevel(level)
        signal.signal(signal.SIGTERM, before)
        if dist.is_initialized():
            dist.destroy_process_group()


def stay_here() -> None:
    """Let gloo and NCCL, in a group of this machine alone, listen on its loopback, where no interface was named."""
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # all of the name, not its beginning


def _end_with_torchrun() -> None:
    """Let Linux tell this process to stop when torchrun is killed, which leaves nobody who looks after the group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def leader_first() -> Iterator[None]:
    """The block, which the leader goes through before the others begin it: they find what it left in a cache."""
    if size() == 1:
        yield
        return
    patient = dist.new_group(backend="gloo", timeout=PREPARATION)
    if not leads():
        dist.barrier(patient)
    yield
    if leads():
        dist.barrier(patient)


def agreed(answer: bool) -> bool:
    """What the leader answers."""
    if size() == 1:
        return answer
    told = torch.tensor([answer])
    dist.broadcast(told, 0)
    return bool(told)


def joined(share: IntArray) -> IntArray:
    """The values (n,) of which each process has every `size`-th, from its rank on: each comes once."""
    if size() == 1:
        return share
    total = torch.tensor([len(share)])
    dist.all_reduce(total)
    whole = torch.zeros(int(total), dtype=torch.int64)
    whole[rank() :: size()] = torch.tensor(share)
    dist.all_reduce(whole)
    return whole.numpy()


def averaged(totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The means over processes of numbers that all have by the same names."""
    if size() == 1:
        return dict(totals)
    values = torch.stack(list(totals.values())).cpu() if totals else torch.zeros(0)
    dist.all_reduce(values)
    return dict(zip(totals, values / size(), strict=True))


def of_each(row: Tensor) -> list[Tensor]:
    """The rows of all processes, each of one length (n,) and type, on the CPU."""
    if size() == 1:
        return [row]
    rows = [torch.empty_like(row) for _ in range(size())]
    dist.all_gather(rows, row)
    return rows


def shares(counts: Mapping[str, int], users: int, rows: int | None, due: bool) -> Shares:
    """What the processes agree on before a step. counts: what named losses are means over; others are over users."""
    if size() == 1:
        return Shares({}, [rows], due)
    mine = torch.tensor([due, -1 if rows is None else rows, users, *counts.values()], dtype=torch.float64)
    table = torch.stack(of_each(mine))  # (size, ...)
    own = size() * mine[2:] / table[:, 2:].sum(0).clamp(min=1)
    weights = dict(zip(("", *counts), own.tolist(), strict=True))
    return Shares(weights, [None if n < 0 else int(n) for n in table[:, 1].tolist()], bool(table[0, 0]))


class _Replica(nn.Module):
    """A method, and a weight that no loss depends on: where there is none such, torch warns that it has looked for it.

    Which of the others a process's share touches, changes from stage to stage and from step to step.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method, self.unused = method, nn.Parameter(torch.zeros(1))

    def forward(self, step: object) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.method(step)
        return losses


def replicated(method: nn.Module, tables: Sequence[nn.Parameter]) -> nn.Module:
    """The method in `DistributedDataParallel`, with the leader's weights; gradients of `tables` are for `exchange`."""
    if size() == 1:
        return method
    for tensor in method.state_dict().values():
        dist.broadcast(tensor, 0)
    for table in tables:  # what wants no gradient now is not the wrapper's to reduce
        table.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newest name of broadcast_buffers is not yet that of all
        wrapped = DistributedDataParallel(
            _Replica(method).to(next(method.parameters()).device),
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
        )
    for table in tables:
        table.requires_grad_(True)
    return wrapped


def exchange(tables: Sequence[nn.Parameter], ids: Tensor | None, rows: Sequence[int | None]) -> None:
    """Make the gradients of item tables (I + 1, d) their means over processes.

    ids (n,): the rows that have one here, `rows` how many that are in each process. Where they are few, only they are
    sent; else, or if a process touches all, the whole table.
    """
    for table in tables:
        if table.grad is None:
            continue
        table.grad /= size()
        known = [n for n in rows if n is not None]
        if ids is None or len(known) < len(rows) or sum(known) > DENSE * len(table):
            dist.all_reduce(table.grad)
        else:
            _exchange_rows(table.grad, ids, known)


def _exchange_rows(grad: Tensor, ids: Tensor, rows: Sequence[int]) -> None:
    """Sum the rows that processes have, in the same order in each of them. What is padded adds zeros to row 0."""
    own, own_ids = grad.new_zeros(max(rows), grad.shape[1]), ids.new_zeros(max(rows))
    own[: len(ids)], own_ids[: len(ids)] = grad[ids], ids
    every, every_ids = ([torch.empty_like(one) for _ in rows] for one in (own, own_ids))
    dist.all_gather(every_ids, own_ids)
    dist.all_gather(every, own)
    grad.index_fill_(0, ids, 0.0)
    for part, at in zip(every, every_ids, strict=True):
        grad.index_add_(0, at, part)


def texts_of_each(text: str, length: int = 1024) -> list[str]:
    """The short texts of all processes."""
    row = np.frombuffer(text.encode().ljust(length), np.uint8)
    return [bytes(each.numpy()).decode().rstrip() for each in of_each(torch.from_numpy(row.copy()))]
