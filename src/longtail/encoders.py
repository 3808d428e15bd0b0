"""Which text encoder? Several are ranked by what their vectors alone recommend, before anything is paid or trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from longtail.config import Value
from longtail.data.dataset import Dataset
from longtail.data.groups import groups
from longtail.data.split import Split
from longtail.errors import ConfigError, DataError
from longtail.evaluation.metrics import ndcg
from longtail.evaluation.protocol import rank_targets
from longtail.recommender import Recommender
from longtail.text.embed import embed_items, embed_users, encoder_for
from longtail.text.embedders.base import Embedder, Wrapper
from longtail.text.embeddings import Embeddings
from longtail.text.prompts import item_prompts
from longtail.text.vector_files import Floats

CHARS_PER_TOKEN = 4.0  # of English; what a text costs is told in tokens
By = Literal["tail_items", "all"]
Doubles = npt.NDArray[np.float64]


class Candidate(NamedTuple):
    """An encoder and what is done to its vectors."""

    model: str
    transform: tuple[str, ...] = ()


class Figures(NamedTuple):
    """NDCG@10 under full ranking: over all targets, and over those that are tail items."""

    overall: float
    tail_items: float


class Compared(NamedTuple):
    """What is known of one candidate.

    texts_per_second: None where all vectors came from the cache or a file. hours: to embed the items of the whole data
    set at that pace. behind: by how much its NDCG@10 on validation, in the group it is ranked by, is below the best
    one's, and half the width of the 95% interval of that paired difference over users. trained: on validation too.
    """

    candidate: Candidate
    width: int
    texts_per_second: float | None
    hours: float | None
    valid: Figures
    behind: float
    margin: float
    trained: Figures | None = None
    test: Figures | None = None

    def row(self) -> dict[str, Value]:
        """Flat, as tables and JSON show it."""
        figures = {"valid": self.valid, "trained": self.trained, "test": self.test}
        named: dict[str, Value] = {
            "model": self.candidate.model,
            "transform": " ".join(self.candidate.transform) or "-",
        }
        for name, found in figures.items():
            if found is not None:
                named |= {f"{name} tail": found.tail_items, f"{name} all": found.overall}
        named |= {"behind": self.behind, "±": self.margin, "width": self.width}
        return named | {"texts/s": self.texts_per_second, "hours for all": self.hours}


class Plan(NamedTuple):
    """How candidates are compared.

    template: of the item prompts. history: of text-kNN. train: epochs of `method` besides, 0 for none. test: also score
    the test targets; they choose nothing. by: the group whose validation NDCG@10 ranks them.
    """

    template: str = "generic"
    history: int = 1
    train: int = 0
    method: str = "llminit"
    test: bool = False
    by: By = "tail_items"
    cache: Path | None = None


class Scored(NamedTuple):
    """A candidate before it is set beside the others; gains (n,) NDCG@10 of the targets of the ranking group."""

    found: Compared
    gains: Doubles


class Timed(Wrapper):
    """An encoder that keeps how many texts it embedded in how many seconds; the first call, which loads it, apart."""

    def __init__(self, inner: Embedder) -> None:
        super().__init__(inner)
        self.calls: list[tuple[int, float]] = []

    def encode(self, texts: list[str]) -> Floats:
        begin = time.perf_counter()
        made = self.inner.encode(texts)
        self.calls.append((len(texts), time.perf_counter() - begin))
        return made

    @property
    def pace(self) -> float | None:
        """Texts a second, or None if none was embedded."""
        counted = self.calls[1:] or self.calls
        return sum(n for n, _ in counted) / max(sum(seconds for _, seconds in counted), 1e-9) if counted else None


def sample(data: Dataset, users: int | None = None, items: int | None = None, seed: int = 42) -> Dataset:
    """The data of users drawn at random: so many, or as many as touch that many items at most, or both."""
    if users is None and items is None:
        return data
    place = np.zeros(len(data.users) + 1, np.int64)
    place[np.random.default_rng(seed).permutation(len(data.users)) + 1] = np.arange(len(data.users))
    owner, item = (data.interactions[column].to_numpy() for column in ("user", "item"))
    most = len(data.users) if users is None else users
    if items is not None:
        first = np.full(len(data.items) + 1, len(data.users))
        np.minimum.at(first, item, place[owner])  # the user by whom an item comes in
        touched = np.cumsum(np.bincount(first[1:], minlength=len(data.users)))
        most = min(most, int(np.searchsorted(touched, items, side="right")))
    keep = place[owner] < most
    if not keep.any():
        raise DataError(f"no user touches {items:,} items or fewer; draw a larger sample with --items")
    return data.subset(keep, f"sample(users={users}, items={items}, seed={seed})")


def compare(
    data: Dataset,
    candidates: Sequence[Candidate],
    plan: Plan | None = None,
    *,
    whole: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[Compared]:
    """Every candidate on the same split, the best on validation first.

    whole: items of the data set that `data` is a sample of. watch: told after each candidate how many of how many are
    done. A ConfigError if one is named twice.
    """
    plan = plan or Plan()
    if len(set(candidates)) < len(candidates) or not candidates:
        raise ConfigError(f"give different encoders to compare, not {[one.model for one in candidates]}")
    split, scored = data.leave_one_out(), []
    for done, candidate in enumerate(candidates, start=1):
        scored.append(_score(data, split, candidate, plan, whole or len(data.items)))
        if watch is not None:
            watch(done, len(candidates))
    scored.sort(key=lambda one: -_key(one.found, plan.by))
    return [_beside(one, scored[0]) for one in scored]


def tokens(data: Dataset, template: str = "generic") -> int:
    """About how many tokens the item prompts have, each distinct one counted once."""
    return int(sum(len(text) for text in set(item_prompts(data.text, template))) / CHARS_PER_TOKEN)


def _score(data: Dataset, split: Split, candidate: Candidate, plan: Plan, whole: int) -> Scored:
    source = encoder_for(candidate.model, data.text, plan.template)
    timed = None if isinstance(source, Embeddings) else Timed(source)
    vectors = embed_items(data, timed or candidate.model, plan.template, plan.cache, candidate.transform)
    model = Recommender("text_knn", settings={"method": {"history": plan.history}}).fit(split, items=vectors)
    valid, gains = _figures(model, split, "valid", plan.by)
    test = _figures(model, split, "test", plan.by)[0] if plan.test else None
    trained = (
        _figures(_trained(data, split, candidate, vectors, plan), split, "valid", plan.by)[0] if plan.train else None
    )
    pace = timed.pace if timed else None
    hours = whole / pace / 3600 if pace else None
    return Scored(Compared(candidate, vectors.width, pace, hours, valid, 0.0, 0.0, trained, test), gains)


def _figures(model: Recommender, split: Split, name: str, by: By) -> tuple[Figures, Doubles]:
    ranks = rank_targets(model.scorer(), split, name)
    gains = ndcg(ranks["full"].to_numpy(), 10)
    tail = ~groups(split).head_items[ranks["target"].to_numpy()]
    of_tail = gains[tail]
    found = Figures(float(gains.mean()), float(of_tail.mean()) if len(of_tail) else 0.0)
    return found, of_tail if by == "tail_items" else gains


def _trained(data: Dataset, split: Split, candidate: Candidate, items: Embeddings, plan: Plan) -> Recommender:
    """A short training on these vectors; users are embedded where the method asks for them."""
    model, users = Recommender(plan.method, settings={"train": {"epochs": plan.train}}), None
    if model.config.needs_user_embeddings:
        users = embed_users(
            split.train,
            data.text,
            data.users,
            candidate.model,
            cache=plan.cache,
            data_hash=data.hash,
            transform=items.transform,
            item_template=plan.template,
        )
    return model.fit(split, items=items, users=users)


def _key(found: Compared, by: By) -> float:
    return found.valid.tail_items if by == "tail_items" else found.valid.overall


def _beside(one: Scored, best: Scored) -> Compared:
    """With the paired difference to the best."""
    differences = best.gains - one.gains
    n = max(len(differences), 1)
    margin = 1.96 * float(differences.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    return one.found._replace(behind=float(differences.sum()) / n, margin=float(margin))
