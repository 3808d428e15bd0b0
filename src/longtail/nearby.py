"""Lists of many users among many items: candidates from cells of items and from edges, then their exact scores.

    score(u, i) = u . v_i + sum over the last items j of u of decay^age(j) w(j, i) - dial log(1 + n_i)

Without its edges a score is an inner product, and of points of one length those with the highest are the nearest
(Bachrach et al., RecSys 2014, sec. 3.2): q = (u, 1, 0), p_i = (v_i, -dial log(1 + n_i), r_i), all |p_i| alike by r_i.
An item that no edge reaches is in the list only if it is among the k with the highest of these products; items that
edges reach are all scored. So a list lacks only what the cells have missed.
"""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from longtail import cells
from longtail.data.histories import BoolArray, Histories, IntArray
from longtail.evaluation.protocol import blocks, score_rows
from longtail.keys import NOBODY
from longtail.lists import Lists, top
from longtail.methods.base import TrainedMethod
from longtail.nn.items import FloatArray, ItemVectors
from longtail.nn.served import Graphs
from longtail.terminal import watched

MANY = 200_000  # items from which on lists are made so by themselves
GOOD, LEAST = 0.99, 0.95  # of the exact lists, what is enough, and below which lists are made of all items
SAMPLE = 512  # users on whom that is measured
USERS = 2**18  # whose lists are made at once: of fewer, few look into a cell together
ROWS = 4096  # users whose candidates are scored together
MARK = 1e6  # added to what edges add to candidates, so that those they add nothing to are kept; doubles have room
MORE = 16  # candidates beside those that fill the list
SEEN = 16, 64  # candidates for items that are left out, of short histories and of long ones; if they are too few for a
# list, it is made of all items
log = logging.getLogger(__name__)


class Nearby:
    """The lists of a trained method.

    counts (I + 1,) of training, of which the dial takes off; sample: histories by which the number of cells is chosen;
    recall: what of their exact lists of k they have.
    """

    def __init__(self, method: TrainedMethod, counts: IntArray, sample: Histories, k: int) -> None:
        self.method = method.eval()
        with torch.no_grad():
            self.vectors = ItemVectors(method.item_vectors().detach(), None)
            dial = 0.0 if method.dial is None else float(method.dial)
            self.handicap = dial * torch.from_numpy(np.log1p(counts)).float()
            self.table = self.vectors.vectors.cpu()
            points = torch.cat([self.table, -self.handicap[:, None]], 1)
            lengths = points.norm(dim=1)
            radius = lengths[1:].max().clamp(min=1e-12)
            rest = (radius.square() - lengths.square()).clamp(min=0).sqrt()
            points = torch.cat([points, rest[:, None]], 1) / radius
        items = len(points) - 1
        with watched("cells of items", 2 * items) as tell:
            rows = np.arange(1, items + 1)
            self.cells = cells.build(lambda at: points[at], rows, items + 1, _dot, spherical=True, tell=tell)
        with warnings.catch_warnings():  # torch says of the first sparse tensor that these are in beta, and never again
            warnings.simplefilter("ignore")
            self._base(points[:0, :-2], np.zeros(0, np.int64), np.zeros(0, np.int64))
        graphs = method.graphs()
        self.edges = None if graphs is None else _Edges(graphs, items)
        self.P, self.recall = self._choose(sample, k)
        told = "%d cells of %d have %.1f%% of the exact lists of %d (of %d users)"
        log.info(told, self.P, len(self.cells.centres), 100 * self.recall, k, sample.users)

    def top(self, asked: Histories, k: int, exclude_seen: bool = True) -> Lists:
        """The k items with the highest scores, for users 1..n of `asked`."""
        if self.recall < LEAST:
            return self._exact(asked, k, exclude_seen)
        return self._near(asked, k, exclude_seen, self.P)

    def _choose(self, sample: Histories, k: int) -> tuple[int, float]:
        """The fewest cells that are GOOD, and what of the exact lists they have: what scores as much as the last."""
        kth = self._exact(sample, k, exclude_seen=True).scores[:, -1:]
        for P in cells.PROBES:
            found = self._near(sample, k, True, P).scores
            share = float((found >= kth - 1e-4 * np.abs(kth)).mean())
            if share >= GOOD or len(self.cells.centres) <= P:
                break
        if share < LEAST:
            log.warning("cells of items have %.1f%% of the exact lists: all items are scored, slower", 100 * share)
        return P, share

    def _exact(self, asked: Histories, k: int, exclude_seen: bool) -> Lists:
        score = self.method.scorer(score_rows(len(self.handicap) - 1))
        return top(lambda users, histories: score(histories), asked, k, exclude_seen)

    def _near(self, asked: Histories, k: int, exclude_seen: bool, P: int) -> Lists:
        found = Lists(np.zeros((asked.users, k), np.int64), np.full((asked.users, k), -np.inf, np.float32))
        lengths = asked.lengths[1:]
        for part in blocks(lengths, USERS):  # the shortest first
            few = int(np.searchsorted(lengths[part], SEEN[0], side="right"))
            for block, out in zip((part[:few], part[few:]), SEEN, strict=True):
                if len(block):
                    self._fill(found, block, asked.select(block + 1), exclude_seen, out if exclude_seen else 0, P)
        return found

    def _fill(self, found: Lists, block: IntArray, known: Histories, exclude_seen: bool, out: int, P: int) -> None:
        """The lists of users `block` (b,), whose histories are `known`, of which `out` may be among the candidates."""
        k, u = found.items.shape[1], self._encoded(known)
        queries = F.normalize(F.pad(torch.cat([u, torch.ones(len(u), 1)], 1), (0, 1)))
        keys = self.cells.search(queries, min(k + out + MORE, len(self.handicap) - 1), P)
        items = torch.where(keys > NOBODY, -keys % self.cells.n, 0)

        def scored(start: int) -> None:
            rows = slice(start, min(start + ROWS, len(block)))
            part = known.select(np.arange(rows.start, rows.stop) + 1)
            lists = self._scored(u[rows], items[rows], part, k, exclude_seen)
            found.items[block[rows]], found.scores[block[rows]] = lists

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # what numpy and scipy do takes one each
            for _ in threads.map(scored, range(0, len(block), ROWS)):
                pass
        short = np.isinf(found.scores[block, -1]) & (known.lengths[1:] > out)
        if exclude_seen and short.any():
            lists = self._exact(known.select(np.flatnonzero(short) + 1), k, exclude_seen)
            found.items[block[short]], found.scores[block[short]] = lists

    def _encoded(self, known: Histories) -> Tensor:
        u = self.method.user_vectors(known, np.arange(1, known.users + 1), self.vectors)
        with torch.no_grad():
            return self.method.served(u, torch.from_numpy(known.lengths[1:]).to(u.device)).cpu()

    def _scored(self, u: Tensor, items: Tensor, known: Histories, k: int, exclude_seen: bool) -> Lists:
        """The k best of candidates `items` (b, K), 0 where there are fewer, and of what edges reach."""
        owners, places = np.nonzero(items.numpy())
        found, more = items.numpy()[owners, places], np.zeros(1, np.float32)  # (c,)
        if self.edges is not None:
            starts = np.searchsorted(owners, np.arange(len(u) + 1))
            marked = self.edges.added(known)  # (b, I + 1)
            marked += csr_array((np.full(len(found), MARK), found, starts), marked.shape)
            owners, found = np.repeat(np.arange(len(u)), np.diff(marked.indptr)), marked.indices.astype(np.int64)
            more = np.where(marked.data > MARK / 2, marked.data - MARK, marked.data).astype(np.float32)
        scores = self._base(u, owners, found) + more
        scores[found == 0] = -np.inf
        if exclude_seen:
            seen = np.sort((known.owners() - 1) * self.cells.n + known.items)
            scores[_among(owners * self.cells.n + found, seen)] = -np.inf
        return _best(owners, found, scores, len(u), k)

    def _base(self, u: Tensor, owners: IntArray, items: IntArray) -> FloatArray:
        """(c,) scores without edges of items (c,) for the users `owners` (c,), which ascend."""
        starts = torch.from_numpy(np.searchsorted(owners, np.arange(len(u) + 1)))
        at, size = torch.from_numpy(items), (len(u), len(self.table))
        wanted = torch.sparse_csr_tensor(starts, at, -self.handicap[at], size, check_invariants=False)
        scores: FloatArray = torch.sparse.sampled_addmm(wanted, u, self.table.T).values().numpy()
        return scores


class _Edges:
    """What the graphs of a method add, as one sparse matrix W (I + 1, I + 1)."""

    def __init__(self, graphs: Graphs, items: int) -> None:
        self.recent, self.decay = graphs.recent, graphs.decay
        self.weights = csr_array((items + 1, items + 1), dtype=np.float32)
        for graph, gamma in zip((graphs.text, graphs.order), graphs.gamma, strict=True):
            ids, weights = graph.ids.cpu().numpy(), np.float32(gamma) * graph.weights.cpu().numpy()  # (I + 1, M)
            starts = np.arange(len(ids) + 1) * ids.shape[1]
            self.weights = self.weights + csr_array((weights.ravel(), ids.ravel(), starts), self.weights.shape)

    def added(self, known: Histories) -> csr_array:
        """(b, I + 1) for users 1..b of histories."""
        recent = known.last(self.recent)
        recency = (self.decay ** recent.ages()).astype(np.float32)
        asked = csr_array((recency, recent.items, recent.offsets[1:]), (known.users, self.weights.shape[0]))
        return asked @ self.weights


def _best(owners: IntArray, items: IntArray, scores: FloatArray, users: int, k: int) -> Lists:
    """The k items with the highest scores of each user, of items (c,) and scores (c,) of `owners` (c,), ascending.

    Ties go to the lower item; where fewer are left, item 0 and -inf.
    """
    counts = np.bincount(owners, minlength=users)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(int(counts.max(initial=0)), k)
    table, ids = np.full((users, width), -np.inf, np.float32), np.zeros((users, width), np.int64)
    table[owners, places], ids[owners, places] = scores, items
    if width > k:
        kept = np.argpartition(-table, k - 1, axis=1)[:, :k]
        table, ids = np.take_along_axis(table, kept, 1), np.take_along_axis(ids, kept, 1)
    ids[np.isinf(table)] = 0
    order = np.lexsort((ids, -table), axis=1)
    return Lists(np.take_along_axis(ids, order, 1), np.take_along_axis(table, order, 1))


def _among(values: IntArray, known: IntArray) -> BoolArray:
    """Which of `values` are among the ascending `known`."""
    if not len(known):
        return np.zeros(values.shape, np.bool_)
    found: BoolArray = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return found


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.mT
