"""Re-ranking: what each way of it costs in NDCG@10 and gains in diversity, on Amazon Beauty, and its time a request.

Every list is made as `longtail serve` makes it: the best hundred by the run's scores, re-ranked to ten, MMR and DPP
over the run's own item vectors. Validation is where a strength is to be chosen; the test figures of every strength
stand beside, and nothing was chosen by them. A distance is the mean of 1 - cosine over the pairs of a list: `distance`
of the vectors that were re-ranked by, `text distance` of MiniLM's vectors of the items' texts, which no re-ranker saw.
`share off` is how far the list's tail share is from the history's, in the mean; `se` the standard error over users of
the difference of NDCG@10 from the plain list's. `--quick` fits a small model on the bundled data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import longtail as lt
from longtail import rerank
from longtail.config import Value
from longtail.data.groups import groups
from longtail.evaluation import exposure, metrics
from longtail.evaluation.protocol import blocks, mask_history
from longtail.recommender import Recommender
from longtail.text.embedders.file import load_vectors
from longtail.text.embeddings import Embeddings
from measure import HERE, SHARED, Claim, console, finish, parser, small_tables, table

BEAUTY = SHARED / "amazon_beauty_2014"
RUN = HERE.parent / "runs" / "out" / "beyond" / "beauty-longtail-42"
COMMAND = "longtail run runs/beyond.toml --out runs/out/beyond --cells beauty-longtail-42"
K, USERS = 10, 1024
POOL = rerank.candidates(K)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Dial = Callable[[float | None], None]


class Pool(NamedTuple):
    """Candidates of n users: items, scores (n, POOL), best first; targets (n,); histories' tail, head shares (n, 2)."""

    items: Ints
    scores: Floats
    targets: Ints
    wanted: npt.NDArray[np.float64]


class Catalogue(NamedTuple):
    """Of items, (I + 1, ...): vectors that are re-ranked by, vectors of texts, counts, whether head."""

    vectors: Floats
    texts: Floats
    counts: Ints
    head: npt.NDArray[np.bool_]


Reranker = Callable[[Pool, int, Catalogue, np.random.Generator], Ints]


def pool(model: Recommender, name: str, users: Ints, head: npt.NDArray[np.bool_]) -> Pool:
    """The first POOL items of each user's whole ranking, without the history's."""
    assert model.known is not None
    split, score = model.known.split, model.scorer()
    items, scores = np.zeros((len(users), POOL), np.int64), np.zeros((len(users), POOL), np.float32)
    wanted, history = np.zeros((len(users), 2)), split.history(name)
    for block in blocks(history.lengths[users], USERS):
        known = split.select(users[block]).history(name)
        for rows, found in score(users[block], known):
            mask_history(found, known, rows)
            best, places = found.topk(POOL, dim=1)
            items[block[rows]], scores[block[rows]] = places.cpu().numpy(), best.cpu().numpy()
    for at, user in enumerate(users.tolist()):
        wanted[at] = rerank.shares(head[history.of(user)].astype(np.int64), 2)
    return Pool(items, scores, split.targets(name)[users], wanted)


def diverse(by: rerank.Reranker, strength: float) -> Reranker:
    """MMR or DPP."""
    return lambda made, at, all_, rng: rerank.diverse(made.scores[at], all_.vectors[made.items[at]], K, strength, by)


def calibrated(strength: float) -> Reranker:
    """Head and tail in the shares of the history."""
    return lambda made, at, all_, rng: rerank.calibrated(
        made.scores[at], all_.head[made.items[at]].astype(np.int64), made.wanted[at], K, strength
    )


def epsilon(strength: float) -> Reranker:
    """Epsilon-greedy, one draw a user."""
    return lambda made, at, all_, rng: rerank.epsilon_greedy(made.scores[at], K, strength, rng).indices


def ucb(strength: float) -> Reranker:
    """Randomised upper confidence bounds, one draw a user."""
    return lambda made, at, all_, rng: (
        rerank.ucb(made.scores[at], all_.counts[made.items[at]], K, strength, rng).indices
    )


WAYS: dict[str, tuple[Callable[[float], Reranker], tuple[float, ...]]] = {
    "MMR": (partial(diverse, "mmr"), (0.1, 0.2, 0.3, 0.5, 0.7)),
    "DPP": (partial(diverse, "dpp"), (0.05, 0.1, 0.2, 0.3, 0.5)),
    "calibration": (calibrated, (0.2, 0.5, 0.8)),
    "epsilon-greedy": (epsilon, (0.05, 0.1, 0.2)),
    "UCB": (ucb, (0.05, 0.1, 0.2)),
}
DIALS = (0.0, 0.5, 1.0)


def gained(lists: Ints, targets: Ints) -> npt.NDArray[np.float64]:
    """(n,) the NDCG of each list."""
    return metrics.ndcg(np.where((hits := lists == targets[:, None]).any(1), hits.argmax(1), K), K)


def row(
    part: str, way: str, strength: float | None, made: Pool, lists: Ints, plain: Ints, all_: Catalogue
) -> dict[str, object]:
    """Figures of lists (n, K), beside the plain ones (n, K) of the same users."""
    gains, tail = gained(lists, made.targets), ~all_.head[made.targets]
    differences = gains - gained(plain, made.targets)
    shares = np.stack([1 - (share := all_.head[lists].mean(1)), share], axis=1)
    return {
        "part": part,
        "re-ranked by": way,
        "strength": strength,
        "NDCG@10": float(gains.mean()),
        "se": None if way == "plain" else float(differences.std(ddof=1) / np.sqrt(len(differences))),
        "of tail items": float(gains[tail].mean()),
        "distance": float(exposure.diversity(lists, all_.vectors).mean()),
        "text distance": float(exposure.diversity(lists, all_.texts).mean()),
        "coverage": exposure.coverage(lists, len(all_.counts) - 1),
        "tail share": float(exposure.tail_share(lists, all_.head).mean()),
        "share off": float(np.abs(shares - made.wanted)[:, 0].mean()),
    }


def measured(part: str, made: Pool, all_: Catalogue) -> list[dict[str, object]]:
    """A row for the plain list, and one a way and strength, with its microseconds of processor a request."""
    plain = made.items[:, :K]
    rows = [row(part, "plain", None, made, plain, plain, all_)]
    for way, (build, strengths) in WAYS.items():
        for strength in strengths:
            by, rng = build(strength), np.random.default_rng(42)
            started = time.thread_time()
            places = np.stack([by(made, at, all_, rng) for at in range(len(made.items))])
            took = (time.thread_time() - started) / len(made.items) * 1e6
            lists = np.take_along_axis(made.items, places, axis=1)
            rows.append({**row(part, way, strength, made, lists, plain, all_), "us": took})
    return rows


def dialled(model: Recommender, part: str, users: Ints, plain: Ints, all_: Catalogue) -> list[dict[str, object]]:
    """A row a value of the tail dial, which is in the scores and re-ranks nothing."""
    dial = model.method.dial if model.method is not None else None
    if dial is None:
        return []
    kept, rows = dial.clone(), []
    for value in DIALS:
        dial.fill_(value)
        made = pool(model, part, users, all_.head)
        rows.append(row(part, "tail dial", value, made, made.items[:, :K], plain, all_))
    dial.copy_(kept)
    return rows


def of_run(run: Path, items: Path | None) -> tuple[Recommender, Embeddings]:
    """A trained run, and MiniLM's vectors of its items: those of a folder, or made now."""
    if not run.is_dir():
        sys.exit(f"no run {run}; make it with: {COMMAND}; or name another with --run")
    if items is not None:
        found = load_vectors(str(items))
        if found.provenance.spec != "minilm":
            sys.exit(f"--items {items}: vectors of {found.provenance.spec!r}, not of minilm")
        return lt.load(run), found
    return lt.load(run), lt.embed_items(lt.Dataset.read(BEAUTY / "interactions.parquet", BEAUTY / "items.parquet"))


def of_bundled_data() -> tuple[Recommender, Embeddings]:
    """A longtail after one epoch on a part of the bundled data, and MiniLM's vectors of its items."""
    data = lt.Dataset.read(*small_tables()).filter(min_user=3, min_item=3)
    items = lt.embed_items(data)
    settings: dict[str, Value] = {"backbone": {"max_len": 30}, "train": {"loss": "softmax", "epochs": 1}}
    return lt.Recommender("longtail", "sasrec", settings).fit(data.leave_one_out(), items=items), items


def catalogue(model: Recommender, made: Embeddings) -> Catalogue:
    """What is known of the items; made: vectors of their texts."""
    assert model.known is not None and model.method is not None
    vectors = model.method.item_vectors().detach().numpy()
    texts = made.matrix(model.known.items, "items")
    split = model.known.split
    return Catalogue(vectors, texts, split.train.counts(split.items), groups(split).head_items)


def main() -> None:
    """Measure all ways on validation and test."""
    options = parser(__doc__)
    options.add_argument("--run", type=Path, default=RUN, help=f"a trained run; made by `{COMMAND}`")
    options.add_argument("--items", type=Path, help="a folder of the items' MiniLM vectors; made again if not given")
    options.add_argument("--users", type=int, help="so many users, drawn with seed 0; all if not given, or if fewer")
    asked = options.parse_args()
    model, texts = of_bundled_data() if asked.quick else of_run(asked.run, asked.items)
    all_ = catalogue(model, texts)
    rows: list[dict[str, object]] = []
    counts: dict[str, int] = {}
    for part in ("valid", "test"):
        users = np.flatnonzero(model.known.split.targets(part) > 0) if model.known else np.zeros(0, np.int64)
        if asked.users is not None and asked.users < len(users):
            users = np.random.default_rng(0).choice(users, asked.users, replace=False)
        made, counts[part] = pool(model, part, users, all_.head), len(users)
        found = [*measured(part, made, all_), *dialled(model, part, users, made.items[:, :K], all_)]
        table(f"{part}: {len(users):,} users", [{**one, "us": one.get("us")} for one in found])
        rows += found
    console.print("validation chooses a strength; test figures stand beside and chose nothing")
    details: dict[str, object] = {"run": asked.run.name, "users": counts["valid"], "rows": rows}
    finish("rerank", claims(rows), details, quick=asked.quick)


def claims(rows: list[dict[str, object]]) -> list[Claim]:
    """What the two diverse ways keep of NDCG@10 on validation, and gain, at one strength each."""
    of = {(one["part"], one["re-ranked by"], one["strength"]): one for one in rows}
    plain, found = of["valid", "plain", None], []
    for way, strength in (("MMR", 0.2), ("DPP", 0.1)):
        for figure in ("NDCG@10", "text distance"):
            ratio = float(str(of["valid", way, strength][figure])) / float(str(plain[figure]))
            found.append(Claim(f"{figure} of {way} at {strength} over plain, validation", ratio, "x"))
    return found


if __name__ == "__main__":
    main()
