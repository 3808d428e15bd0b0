"""Similar users: time and memory of the exact search, of cells and of the index, beside a dense matrix of all cosines.

The vectors are made up, to be like those of user prompts: users lie near the mean of what they bought, items around 500
topics of unequal size, in directions of falling variance, and all share one direction. So neighborhoods, on which an
index depends, are as those of MiniLM's vectors of the 22,363 users of Amazon Beauty, where `likeness` measured: local
dimension 21, directions 44, cosine of two users .49 +- .12, of a user and her 10th neighbor .79.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from longtail.neighbors import approximate_users, exact_users, users_by_cells
from measure import Claim, console, finish, isolated, matrix_rate, parser, peak_memory, seconds, table

BEAUTY, WIDTH, K = 22_363, 384, 10
TOPICS, DECAY, SCATTER, MOST = 500, 0.45, 0.8, 5  # of items: topics, falling variance, spread; of users: items at most
BLOCK = 20_000

Floats = npt.NDArray[np.float32]


def vectors(users: int, width: int = WIDTH, seed: int = 0) -> Floats:
    """(users + 1, width) unit vectors, row 0 zero."""
    rng = np.random.default_rng(seed)
    scale = (1.0 + np.arange(width, dtype=np.float32)) ** -DECAY
    scale /= np.linalg.norm(scale)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    topics = rng.standard_normal((TOPICS, width), np.float32) * scale
    size = 1 / (10 + np.arange(TOPICS))
    size /= size.sum()
    common = rng.standard_normal(width, np.float32)
    common /= np.linalg.norm(common)
    made = np.zeros((users + 1, width), np.float32)
    for start in range(1, users + 1, BLOCK):
        n = min(BLOCK, users + 1 - start)
        favourite, items = rng.choice(TOPICS, n, p=size), rng.integers(2, MOST + 1, n)
        block = np.zeros((n, width), np.float32)
        for item in range(MOST):
            topic = np.where(rng.random(n) < 0.6, favourite, rng.choice(TOPICS, n, p=size))
            weight = ((item < items) / items).astype(np.float32)
            block += weight[:, None] * (topics[topic] + SCATTER * scale * rng.standard_normal((n, width), np.float32))
        block = (block / np.linalg.norm(block, axis=1).mean() + common) @ turn
        made[start : start + n] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return made


def likeness(made: Floats) -> dict[str, float]:
    """What tells whether made-up vectors are like real ones: see the head of this file.

    local_dimension: the median of the maximum-likelihood estimate of Levina and Bickel from 20 neighbors; directions:
    the participation ratio of the eigenvalues of the covariance.
    """
    unit, near = made[1:], exact_users(made, 20)[1:] - 1
    cosines = np.einsum("uke,ue->uk", unit[near], unit)
    distances = np.sqrt(np.maximum(2 - 2 * cosines, 1e-12))
    local = 1 / np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    eigenvalues = np.linalg.eigvalsh(np.cov(unit.T))
    pairs = np.random.default_rng(0).integers(len(unit), size=(2, 20_000))
    of_two = (unit[pairs[0]] * unit[pairs[1]]).sum(axis=1)
    return {
        "local_dimension": float(np.median(local)),
        "directions": float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        "cosine_of_two_users": float(of_two.mean()),
        "its_standard_deviation": float(of_two.std()),
        "cosine_to_the_10th_neighbor": float(np.median(cosines[:, 9])),
    }


def dense(made: Floats) -> torch.Tensor:
    """The reference: all cosines in one float32 matrix, then the k best of each row; ties as they fall."""
    unit = torch.nn.functional.normalize(torch.from_numpy(made[1:]))
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-torch.inf)
    return cosines.topk(K, dim=1).indices + 1


def agreement(made: Floats) -> float:
    """The share of users for whom the exact search gives neighbors as near, to 2e-6, as the reference gives."""
    both = [made[1:][found - 1] @ made[1:, :, None] for found in (exact_users(made, K)[1:], dense(made).numpy())]
    return float((np.abs(both[0] - both[1]) < 2e-6).all(axis=(1, 2)).mean())


def peak(search: str, users: int) -> float:
    """MB this process takes at most while it searches, its vectors included."""
    made = vectors(users)
    peak_memory(reset=True)
    SEARCHES[search](made)
    return peak_memory()


SEARCHES = {"exact": lambda made: exact_users(made, K), "dense": dense}


class Approximated(NamedTuple):
    """A search by cells or by the index among `users` users."""

    search: str
    users: int
    seconds: float
    peak_mb: float
    recall: float


BY = {"cells": users_by_cells, "index": approximate_users}


def approximated(search: str, users: int) -> Approximated:
    """One search, in a process of its own; recall on 1,000 users, whose exact search is in the time."""
    made = vectors(users)
    peak_memory(reset=True)
    recalls: list[float] = []
    took = seconds(lambda: recalls.append(BY[search](made, K).recall), repeats=1, warm=0)
    return Approximated(search, users, took, peak_memory(), recalls[0])


def growth(sizes: list[tuple[int, int]], rate: float, repeats: int) -> list[dict[str, object]]:
    """The exact search by number of users and width. Multiply-adds: each pair of users once."""
    rows: list[dict[str, object]] = []
    for users, width in sizes:
        made = vectors(users, width)
        took, products = seconds(lambda made=made: exact_users(made, K), repeats), users * (users + 1) / 2 * width
        rows.append(
            {
                "users": users,
                "width": width,
                "seconds": took,
                "giga_multiply_adds": products / 1e9,
                "share_of_matrix_rate": products / took / rate,
            }
        )
    return rows


def main() -> None:
    quick = parser(__doc__).parse_args().quick
    rate, made = matrix_rate(), vectors(BEAUTY)
    console.print(f"matrix rate: {rate / 1e9:.0f} giga multiply-adds a second (float32)")
    repeats = 3 if quick else 5
    exact = seconds(lambda: exact_users(made, K), repeats)
    reference = seconds(lambda: dense(made), 1 if quick else 3, warm=0 if quick else 1)
    peaks = {search: isolated(peak, search, BEAUTY) for search in SEARCHES}
    cells, many = (isolated(approximated, search, 30_000 if quick else 1_000_000) for search in BY)
    widths = [96, 192, 768] if quick else [96, 192, 768, 1536]
    users = [2_000, 4_000, 8_000] if quick else [5_000, 10_000, 20_000, 40_000, 80_000]
    at = 8_000 if quick else 20_000
    grown = growth([(n, WIDTH) for n in users] + [(at, width) for width in widths], rate, 1 if quick else 3)
    table("exact search", grown)
    table("cells and index", [cells._asdict(), many._asdict()])
    alike = likeness(made[: 6_001 if quick else None])
    table("made-up vectors", [alike])
    size = f"{BEAUTY:,} x {WIDTH}"
    claims = [
        Claim(f"exact search of {size}", exact, "s", 3.0),
        Claim("dense matrix and top-k, the same", reference, "s"),
        Claim("dense time / exact time", reference / exact, "x", 1.0, at_most=False),
        Claim("users with equally near neighbors in both", agreement(made), "share", 1.0, at_most=False),
        Claim("peak memory of the exact search", peaks["exact"], "MB"),
        Claim("peak memory of the dense search", peaks["dense"], "MB"),
        Claim(f"cells of {cells.users:,} x {WIDTH}: peak memory", cells.peak_mb, "MB", 8192),
        Claim("cells: recall@10 on 1,000 users", cells.recall, "share", 0.95, at_most=False),
        Claim("cells: time", cells.seconds / 60, "min"),
        Claim(f"index of {many.users:,} x {WIDTH}: peak memory", many.peak_mb, "MB", 8192),
        Claim("index: recall@10 on 1,000 users", many.recall, "share", 0.95, at_most=False),
        Claim("index: time", many.seconds / 60, "min"),
        Claim("exact search of as many, by the largest measured", _scaled(grown, users[-1], many.users) / 60, "min"),
    ]
    details = {
        "k": K,
        "matrix_rate": rate,
        "made_up": alike,
        "growth": grown,
        "approximate": [cells._asdict(), many._asdict()],
    }
    details["approximate"] = [cells._asdict(), many._asdict()]
    finish("similar_users", claims, details, quick=quick)


def _scaled(grown: list[dict[str, object]], measured: int, users: int) -> float:
    """Seconds of the exact search for `users`, from those for `measured`: it grows by their square."""
    took = next(row["seconds"] for row in grown if (row["users"], row["width"]) == (measured, WIDTH))
    assert isinstance(took, float)
    return took * (users / measured) ** 2


if __name__ == "__main__":
    main()
