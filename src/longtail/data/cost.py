"""What a training will take: an estimate of seconds and memory on a CPU, from sizes and this machine's matrix rate.

Seconds = multiply-adds / rate + values that pass through a layer and steps, each at a cost measured once on the
reference machine (benchmarks/results/train_epoch.json, 2 cores) and scaled by the two machines' rates. Memory is
counted from the arrays. Both are for SASRec-like backbones; expect to be off by a factor of two, up to three.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

REFERENCE = 8.8e10  # float32 multiply-adds a second of the reference machine
TRAINED = 4.9e-8  # seconds a value (token x width x layer) trained, there: dropout, norms, both directions
ENCODED = 1.0e-8  # seconds a value encoded only
LOGIT = 3.1e-9  # seconds a logit of a softmax, in both directions, besides the products
DRAWN = 5.4e-9  # seconds a value of a gathered negative, in both directions
SCORE = 3.4e-9  # seconds a score that is ranked, besides the products
STEP = 0.01  # seconds a step
BASE = 450e6  # bytes of the process before it has any data: Python, torch, polars
CHUNK = 2**23  # logits held at once
RUN = 2**14  # tokens encoded at once where nothing is trained
KEPT = 30  # values that a layer keeps for its backward pass, a value that enters it


class Work(NamedTuple):
    """The training to come.

    parameters: trained numbers. width: D, of the final vectors. d, views, layers: width of a view, how many of them a
    token has, and what each passes: blocks, and the fusion. embedding_width: E, 0 without embeddings. teachers: similar
    users a user, 0 without; exact: whether they are encoded at every step. negatives: a target, or a step if shared;
    0 is the whole catalogue. masked: the share of items that training hides, if any: then a user is encoded twice, and
    once more as a student.
    """

    parameters: int
    width: int
    d: int
    views: int
    layers: int
    max_len: int
    batch_size: int
    epochs: int
    negatives: int
    shared: bool = False
    embedding_width: int = 0
    teachers: int = 0
    exact: bool = False
    masked: float | None = None


class Size(NamedTuple):
    """Of the training histories: users and items, tokens when cut to max_len, and interactions in all."""

    users: int
    items: int
    tokens: int
    interactions: int
    evaluated: int


class Cost(NamedTuple):
    """Seconds of an epoch and of the validation after it, and the most bytes at a time."""

    epoch: float
    validation: float
    bytes: float


def machine_rate(size: int = 512, repeats: int = 60) -> float:
    """Float32 multiply-adds a second of this machine: a square matrix product, the best of a few."""
    matrix = np.random.default_rng(0).random((size, size), dtype=np.float32)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return float(size**3 / min(times))


def estimate(work: Work, size: Size, rate: float) -> Cost:
    """The cost on a machine of that many multiply-adds a second."""
    slower = REFERENCE / rate
    steps = math.ceil(size.users / work.batch_size)
    trained = size.tokens * (1 if work.masked is None else 2 + (work.teachers > 0))
    batch = trained / max(steps, 1)
    taught = _taught(work, size, steps)
    asked = size.tokens - size.users if work.masked is None else work.masked * size.tokens + size.users
    targets, against = max(asked, 0), work.negatives or size.items
    layers = work.views * work.layers
    adds = (3 * trained + taught) * (layers * 6 * work.d**2 + work.views * work.d * _context(size))
    elementwise = (trained * TRAINED + taught * ENCODED) * layers * work.d + steps * STEP
    if work.negatives and not work.shared:
        elementwise += targets * (work.negatives + 1) * work.width * DRAWN
    else:
        adds += 3 * targets * against * work.width
        elementwise += targets * against * LOGIT
    if E := work.embedding_width:
        touched = 2 * _distinct(2 * batch, size.items) + _distinct(taught / max(steps, 1), size.items)
        adds += steps * E * work.d * (3 * E / 2 + touched)
    ranked = size.evaluated * size.items
    validation = ranked * work.width / rate + ranked * SCORE * slower
    validation += size.tokens * layers * work.d * ENCODED * slower
    return Cost(adds / rate + elementwise * slower, validation, _memory(work, size, batch))


def _taught(work: Work, size: Size, steps: int) -> float:
    """Tokens of teachers encoded in an epoch: of the distinct ones of each step, or of all users once."""
    if not work.teachers:
        return 0.0
    if not work.exact:
        return float(size.tokens)
    return steps * _distinct(work.batch_size * work.teachers, size.users) * size.tokens / max(size.users, 1)


def _distinct(draws: float, of: int) -> float:
    """How many different ones so many uniform draws give."""
    return of * -math.expm1(-draws / of) if of else 0.0


def _context(size: Size) -> float:
    """Items that a position attends to, on average, twice: for the products with keys and with values."""
    return size.tokens / max(size.users, 1)


def _memory(work: Work, size: Size, batch: float) -> float:
    """Bytes: weights, gradients, Adam and the best weights; embeddings; tables; a step or a block of scores."""
    weights = 5 * 4 * work.parameters
    known = 4 * work.embedding_width * size.items
    users = 2 * 4 * work.embedding_width * size.users if work.teachers else 0  # and their unit vectors
    tables = 60 * size.interactions
    step = 4 * KEPT * batch * work.views * work.layers * work.d + 2 * 4 * size.items * work.width
    if work.negatives and not work.shared:
        step += 3 * 4 * batch * (work.negatives + 1) * work.width
    else:
        step += 3 * 4 * min(CHUNK, batch * (work.negatives or size.items))
    if work.teachers:
        step += 12 * 4 * min(RUN, size.tokens) * work.views * work.d
    scores = 4 * (2 * CHUNK + size.users * work.width + size.items * work.width)
    return BASE + weights + known + tables + max(step, scores, users)
