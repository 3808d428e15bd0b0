"""One rank a user, in full and among a few candidates, and the top of the list, from one scoring pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from longtail.config import Config
from longtail.data.groups import groups
from longtail.data.histories import Histories, IntArray
from longtail.data.split import Split
from longtail.errors import RunError
from longtail.evaluation.candidates import Candidates, Draw, by_popularity, check_enough, content_hash, uniform
from longtail.evaluation.metrics import ndcg
from longtail.methods.base import Validation
from longtail.train import distributed

USERS = 8192  # users encoded at once
SCORES = 2**20  # scores held at once: 4 MB of float32, which stay in cache
ROWS = 64  # users scored at once, or a multiple: fewer cost as much, because every item vector is read for each block
CHUNK = 64  # items of whose scores only the best is looked at first, when the top of a list is sought

Scorer = Callable[[IntArray, Histories], Iterator[tuple[slice, Tensor]]]
"""Users (n,) and their histories (users 1..n) to slices of 0..n and their scores (b, I + 1); column 0 is unused. The
caller may overwrite them, and the next slice may. `score_rows` tells how many rows to score at once."""


def score_rows(items: int) -> int:
    """How many users' scores of `items` items are held at once: SCORES in all, but ROWS users at least."""
    return max(SCORES // (items + 1) // ROWS, 1) * ROWS


class ProtocolConfig(Config):
    """How targets are ranked."""

    ks: tuple[PositiveInt, ...] = (5, 10, 20)
    """Cut-offs of HR, NDCG and MRR; 10, by which runs are compared, must be among them."""
    seen: Literal["exclude", "allow"] = "exclude"
    """Whether the items of the history are taken out of the ranking, or compete with the target like any other."""
    repeats: Literal["keep", "drop"] = "keep"
    """Targets that are in the history: they stay candidates, or are left out of the evaluation."""
    sampled: NonNegativeInt = 100
    """Uniform candidates besides the target in the sampled protocol (LLM-ESR, sec. 4.1: 100); 0 leaves it out."""
    popular: NonNegativeInt = 0
    """Candidates drawn without replacement with probability ~ training count, in a protocol of its own; 0: none."""
    candidates_file: str | None = None
    """A table of user and item ids, a row a candidate, to rank each target among, in a protocol of its own."""
    lists: bool = False
    """Also keep the first max(ks) items of every user, and report coverage, exposure, novelty and diversity."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Draws the candidates, together with the split and the user; not the seed of training."""

    @field_validator("ks")
    @classmethod
    def _compared_at_ten(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if 10 not in ks:
            raise ValueError("add 10, the cut-off by which runs are compared")
        return ks


FULL = ProtocolConfig(sampled=0)


class Ranked(NamedTuple):
    """What one pass over the scores gives.

    ranks: columns user, target, full and one a kind of candidates, internal ids and ranks from 0. lists: (n, K) the
    first K items of each row of `ranks`, best first, 0 where fewer are left, or None. candidates: kind to the hash of
    who was ranked among what. repeats: how many targets are in the history of their user.
    """

    ranks: pl.DataFrame
    lists: IntArray | None
    candidates: dict[str, str]
    repeats: int


def rank_targets(scorer: Scorer, split: Split, name: str, config: ProtocolConfig | None = None) -> pl.DataFrame:
    """The ranks alone, among candidates that need no file; without config, those of the full ranking."""
    config = config or FULL
    return rank(scorer, split, name, config, drawn_candidates(split, name, config)).ranks


def validate(scorer: Scorer, split: Split) -> Validation:
    """What chooses an epoch, and other things: NDCG@10 of the validation targets under full ranking.

    Processes that train together rank a share of the users each.
    """
    mine = slice(distributed.rank(), None, distributed.size())
    ranks = rank(scorer, split, "valid", FULL, among=mine).ranks
    gains = ndcg(distributed.joined(ranks["full"].to_numpy()), 10)
    tail = ~groups(split).head_items[distributed.joined(ranks["target"].to_numpy())]
    return Validation(float(gains.mean()), float(gains[tail].mean()) if tail.any() else 0.0)


def rank(
    scorer: Scorer,
    split: Split,
    name: str,
    config: ProtocolConfig,
    kinds: dict[str, Candidates] | None = None,
    among: slice | None = None,
) -> Ranked:
    """Rank each evaluated user's target, or those `among` these users. `name` is 'valid' or 'test'; kinds: more
    candidates by the name of a column.

    full: among all items but the user's history (or with it, as `seen` says); a target that is itself in the history
    stays a candidate. Others: among the candidates and the target. Ties count against the model:
    rank = #(score >= the target's) - 1.
    """
    kinds, (users, repeats) = kinds or {}, evaluated(split, name, config)
    users = users if among is None else users[among]
    ranks = {kind: np.zeros(len(users), np.int64) for kind in ("full", *kinds)}
    lists = np.zeros((len(users), min(max(config.ks), split.items)), np.int64) if config.lists else None
    hashes = dict.fromkeys(kinds, 0)
    for block in blocks(split.history(name).lengths[users], USERS):
        part = split.select(users[block])
        known, targets = part.history(name), torch.from_numpy(part.targets(name)[1:, None])
        masked = known if config.seen == "exclude" else _nothing(len(block))
        drawn = {kind: candidates(users[block]) for kind, candidates in kinds.items()}
        for kind, some in drawn.items():
            hashes[kind] = (hashes[kind] + content_hash(users[block], some)) % 2**64
        for rows, scores in scorer(users[block], known):
            goal = mask_history(scores, masked, rows, targets[rows].to(scores.device))
            for kind, some in drawn.items():
                ranks[kind][block[rows]] = _above(scores, goal, some, rows)
            if lists is not None:
                lists[block[rows]] = top_items(scores, lists.shape[1]).cpu().numpy()
            ranks["full"][block[rows]] = _count(scores.ge_(goal)).cpu().numpy() - 1
    frame = pl.DataFrame({"user": users, "target": split.targets(name)[users], **ranks})
    return Ranked(frame, lists, {kind: f"{value:016x}" for kind, value in hashes.items()}, repeats)


def drawn_candidates(split: Split, name: str, config: ProtocolConfig) -> dict[str, Candidates]:
    """sampled<N> and popular<N>, as far as asked for; a DataError if there are not so many for every user."""
    users, _ = evaluated(split, name, config)
    made: dict[str, Candidates] = {}
    for kind, N, make in (("sampled", config.sampled, uniform), ("popular", config.popular, by_popularity)):
        if N:
            check_enough(split, users, N, popular=kind == "popular")
            made[f"{kind}{N}"] = make(split, Draw(N, config.seed, name))
    return made


def evaluated(split: Split, name: str, config: ProtocolConfig) -> tuple[IntArray, int]:
    """(n,) the users whose target is ranked, and how many have one that is in their history."""
    targets, history = split.targets(name), split.history(name)
    owners = history.owners()
    repeated = np.zeros(len(targets), np.bool_)
    repeated[owners[history.items == targets[owners]]] = True
    wanted = targets > 0 if config.repeats == "keep" else (targets > 0) & ~repeated
    return np.flatnonzero(wanted), int(repeated.sum())


def mask_history(scores: Tensor, known: Histories, rows: slice, target: Tensor | None = None) -> Tensor:
    """Set padding and the histories of users `rows` (from 0) to -inf in place; return the targets' scores (b, 1).

    scores (b, I + 1) of these users; `target` (b, 1) keeps its score even where it is in the history.
    """
    if bool(torch.isnan(scores.sum())):
        raise RunError("the model's scores are not numbers: training diverged; fit again with a lower train.lr")
    goal = scores.gather(1, target) if target is not None else scores[:, :0]
    owners, items = _pairs(known, rows, scores.device)
    scores[:, 0] = -torch.inf
    scores[owners, items] = -torch.inf
    if target is not None:
        scores.scatter_(1, target, goal)
    return goal


def top_items(scores: Tensor, K: int) -> Tensor:
    """(b, I + 1) scores to the K best items of each row, (b, K), best first; 0 where only -inf is left.

    The K best items lie in the K chunks with the best maximum: the maxima take one fast pass, and only those chunks
    are sorted, which is several times as fast as sorting all.
    """
    width = scores.shape[1]
    whole = width // CHUNK * CHUNK
    if whole // CHUNK > K:
        # Reduced the way the scores lie in memory, items by users: the other way takes thirty times as long.
        maxima = scores.T[:whole].view(whole // CHUNK, CHUNK, -1).amax(1).T  # (b, chunks)
        chunks = maxima.topk(K, dim=1, sorted=False).indices[:, :, None] * CHUNK
        ids = (chunks + torch.arange(CHUNK, device=scores.device)).flatten(1)
        ids = torch.cat([ids, torch.arange(whole, width, device=scores.device).expand(len(ids), -1)], dim=1)
    else:
        ids = torch.arange(width, device=scores.device).expand(len(scores), -1)
    values, places = scores.gather(1, ids).topk(K, dim=1)
    return ids.gather(1, places).where(values > -torch.inf, 0)


def _pairs(lists: Histories, rows: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """All items of users `rows` (from 0), and which of these users, from 0, each belongs to."""
    offsets = lists.offsets[rows.start + 1 : rows.stop + 2]
    owners = torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))).to(device)
    return owners, torch.from_numpy(lists.items[offsets[0] : offsets[-1]]).to(device)


def _above(scores: Tensor, goal: Tensor, candidates: Histories, rows: slice) -> npt.NDArray[np.int64]:
    """(b,) how many candidates of users `rows` score at least as their target, whose score is `goal` (b, 1)."""
    owners, items = _pairs(candidates, rows, scores.device)
    ahead = owners[scores[owners, items] >= goal[owners, 0]]
    return torch.bincount(ahead, minlength=len(scores)).cpu().numpy()


def _nothing(users: int) -> Histories:
    return Histories(np.zeros(0, np.int64), np.zeros(users + 2, np.int64))


def _count(ones: Tensor) -> Tensor:
    """(b, n) zeros and ones as floats to (b,) int64 sums: far faster than summing booleans, and exact in parts."""
    return torch.stack([part.sum(1).long() for part in torch.split(ones, 2**23, dim=1)]).sum(0)


def blocks(lengths: IntArray, rows: int) -> Iterator[IntArray]:
    """Positions in blocks of `rows`, shortest histories first, so that a block pads little."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), rows):
        yield order[start : start + rows]
