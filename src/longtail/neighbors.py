"""Similar users: the nearest other users by cosine, exact, by blocks; a U x U matrix never exists."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from longtail.data.histories import IntArray

GROUP = 32  # columns whose maximum is looked at first
DIGITS = 1e6  # cosines equal to six digits are ties, and the lower id wins
NOBODY = -2.0  # below every cosine


def similar_users(vectors: npt.NDArray[np.float32], k: int = 10, block: int = 1024) -> IntArray:
    """The `k` users nearest to each by cosine, best first, ties by lower id (LLM-ESR, sec. 3.4).

    vectors: (U + 1, E), finite; row 0 is padding. Returns (U + 1, k) internal ids, 0 where there is nobody left.
    A user is never her own neighbour, though an identical one may be. Users whose vector is zero have nothing to
    say: they get no neighbours and are nobody's.
    block: users scored at a time; memory is block x U.
    """
    norms = np.linalg.norm(vectors, axis=1)
    norms[0] = 0.0
    users = np.flatnonzero(norms > 0)
    found = np.zeros((len(vectors), k), dtype=np.int64)
    if len(users) < 2 or not k:
        return found
    groups = -(-len(users) // GROUP)
    table = torch.zeros(groups * GROUP, vectors.shape[1])  # unit vectors, then padding to whole groups
    table[: len(users)] = torch.from_numpy(vectors[users] / norms[users, None])
    ids = np.append(users, 0)
    for start in range(0, len(users), block):
        rows = torch.arange(start, min(start + block, len(users)))
        cosines = table[rows[0] : rows[-1] + 1] @ table.T  # (b, groups * GROUP)
        cosines[:, len(users) :] = NOBODY
        cosines[rows - start, rows] = NOBODY
        nearest = _top(cosines.view(len(rows), groups, GROUP), min(k, groups * GROUP))
        found[users[rows.numpy()], : nearest.shape[1]] = ids[nearest.numpy()]
    return found


def _top(cosines: torch.Tensor, k: int) -> torch.Tensor:
    """(b, groups, GROUP) to (b, k): the columns of the k best, -1 for those that are nobody.

    Each of the k best lies in one of the k groups with the best maxima, so only those groups are sorted; and as
    groups are ranges of ids, breaking ties by the lower group agrees with breaking them by the lower id.
    """
    b, groups, _ = cosines.shape
    best = _keys(cosines.amax(2)).topk(min(k, groups), dim=1).indices.sort(dim=1).values  # (b, <= k)
    flat = best + groups * torch.arange(b)[:, None]
    entries = cosines.view(b * groups, GROUP)[flat.flatten()].view(b, -1)  # (b, <= k * GROUP), ids ascending
    columns = (best[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
    order = _keys(entries).topk(min(k, entries.shape[1]), dim=1).indices
    return columns.gather(1, order).masked_fill(entries.gather(1, order) == NOBODY, -1)


def _keys(scores: torch.Tensor) -> torch.Tensor:
    """(b, n) float64, all different in a row: rounded scores first, then the lower column."""
    n = scores.shape[1]
    return scores.double().mul_(DIGITS).round_().mul_(n).sub_(torch.arange(n))
