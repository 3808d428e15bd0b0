"""The one stateful object a user meets: fit, recommend, save, load."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from longtail import lists, nearby, run_folder
from longtail.config import Value, build, merge
from longtail.data.dataset import Dataset
from longtail.data.histories import Histories
from longtail.data.ids import Externals
from longtail.data.split import Split
from longtail.errors import ConfigError, DataError, EmbeddingError, RunError
from longtail.evaluation.protocol import Scorer, score_rows, validate
from longtail.evaluation.report import Fact
from longtail.files import ENDING, locked, sweep, write_json
from longtail.methods.base import Knowledge, Method, TrainedMethod, Validation
from longtail.model import ModelConfig, build_method, sizes_of
from longtail.nearby import Nearby
from longtail.nn.items import FloatArray
from longtail.nn.losses import sampler
from longtail.rerank import Reranker
from longtail.retrieval import of_trained, retrieve
from longtail.run_folder import Known, lock_of
from longtail.text.embeddings import Embeddings
from longtail.train import distributed
from longtail.train.engine import seeded
from longtail.train.loop import Place, train
from longtail.train.tracking import tracking
from longtail.train.warm import Warm

log = logging.getLogger(__name__)


class Recommender:
    """A method on a backbone, by name; `settings` is laid over the defaults, e.g. {"train": {"loss": "softmax"}}.

    The backbone is sasrec if none is named; methods that are not trained ("popular", "item_knn", ...) have none.

    >>> Recommender("plain", "sasrec", {"train": {"lr": 5e-4}}).config.train.lr
    0.0005
    """

    def __init__(
        self, method: str = "longtail", backbone: str | None = None, settings: Mapping[str, Value] | None = None
    ) -> None:
        names: dict[str, Value] = {"method": {"name": method}}
        if backbone is not None:
            names["backbone"] = {"name": backbone}
        self.config = build(ModelConfig, merge(settings or {}, names))
        self.method: Method | None = None
        self.known: Known | None = None
        self.items: Embeddings | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> Recommender:
        """From a validated config."""
        model = cls(config.method.name)
        model.config = config
        return model

    def fit(
        self,
        split: Split,
        *,
        items: Embeddings | None = None,
        users: Embeddings | None = None,
        run: str | Path | None = None,
        resume: bool = False,
        facts: Mapping[str, Value] | None = None,
        warm: Warm | None = None,
    ) -> Recommender:
        """Train on `split`, keeping the weights of the best validation NDCG@10 (full ranking).

        items, users: embeddings of item texts and of users' training histories, for methods that use them. With `run`,
        a log and checkpoints are written there, and the model at the end; `resume` continues from the last of them.
        Processes of one group (`longtail.train.distributed`) train together, and the first of them writes.
        `facts` are kept beside it as run.json: how the data came to be, and how to evaluate. warm: what to update.
        """
        if split.data is None:
            raise DataError("this split knows no data set; make it with Dataset.leave_one_out() or split()")
        data = split.data
        knowledge, self.items = self._knowledge(split, data, items, users), items
        self.known, self.method = Known(data.users, data.items, data.text, split, data.name, data.hash), None
        if run is None:
            if self.config.train and self.config.train.track:
                raise ConfigError(f"train.track = {list(self.config.train.track)} needs a run folder; pass run=...")
            return self._train(knowledge, None)
        if not distributed.leads():  # one process writes; the others know where, to go on from it
            return self._train(knowledge, _paths(Path(run), self._identity(items, users), resume))
        with locked(lock_of(Path(run)), Path(run), ENDING if resume else 0.0):
            sweep(Path(run))
            identity = self._identity(items, users) + (f" {warm.identity}" if warm else "")
            place = self._place(Path(run), identity, resume, facts)
            if facts is not None:
                write_json(Path(run) / "run.json", dict(facts))
            self._train(knowledge, place, warm)
            self.save(run)
        return self

    def _train(self, knowledge: Knowledge, place: Place | None, warm: Warm | None = None) -> Recommender:
        split, config = self._fitted().split, self.config.train
        sizes = sizes_of(self.config, split.train, split.items, knowledge, warm.max_len if warm else None)
        with seeded(self.config.seed, 0):
            method = self.method = build_method(self.config, sizes)
            method.prepare(split.train, knowledge)
        if config is None or not isinstance(method, TrainedMethod):
            return self
        # what is held out, or nobody touched yet, is no negative either: training would push it down
        others = split.contexts is not None or (warm is not None and warm.cold)
        wanted = (config.negatives, config.proposal, config.correction)
        drawn = sampler(config.loss, split.train, split.items, *wanted, trained_only=others)
        if warm is not None:
            warm.train(method, split.train, drawn, config, self.config.seed, place, self.validate)
            return self
        batches = method.batches(split.train, drawn, config.batch_size, prefixes=config.rows == "prefixes")
        choosing = split.validating(config.validation_users, self.config.seed)
        train(method, batches, lambda: self.validate(choosing).overall, config, self.config.seed, place)
        method.choose(lambda: self.validate(choosing))
        return self

    def recommend(
        self,
        users: Externals | None = None,
        histories: Sequence[Externals] | None = None,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        diversity: float = 0.0,
        reranker: Reranker = "mmr",
    ) -> pl.DataFrame:
        """The best k items for known users (external ids) or for bare histories (lists of external item ids).

        Columns: user (the id, or the position in `histories` from 0), rank from 1, item, score, then the items' title
        if there is one. Known users are served after all they did in train, valid and test. Seen items are left out
        unless told otherwise; where fewer than k remain there are fewer rows. diversity: from 0, by score alone, to 1;
        then the first max(10 k, 100) items, at most 1,000, are re-ranked by "mmr" or "dpp" (`longtail.rerank`).
        """
        known = self._fitted()
        if (users is None) == (histories is None):
            raise DataError("pass either users=[...] or histories=[[...], ...]")
        if k < 1:
            raise DataError(f"k = {k}: ask for at least one recommendation")
        if users is not None:
            internal = known.users.internal(users)
            asked, labels = known.split.select(internal).everything(), known.users.external(internal)
        else:
            asked = self._bare(histories or [])
            labels = pl.Series(range(asked.users))
        score, method, k = self.scorer(), self._trained(), min(k, known.split.items)
        if diversity:
            found = lists.diverse(score, method, asked, k, exclude_seen, diversity, reranker)
        else:
            found = lists.top(score, asked, k, exclude_seen)
        if np.isinf(found.scores).all():
            log.warning("nothing to recommend: all that method %r scores was seen", self.config.method.name)
        return lists.frame(found, labels, known.items, known.text)

    def nearby(self, k: int = 10) -> Nearby:
        """What makes lists of k from cells of items, for many users and items; chosen on some of the known users.

        A DataError for a method without item vectors.
        """
        method, split = self._trained(), self.split
        if not isinstance(method, TrainedMethod):
            raise DataError(
                f"method {self.config.method.name!r} has no item vectors to make cells of; leave search out"
            )
        chosen = np.random.default_rng(0).choice(np.flatnonzero(split.train.lengths), nearby.SAMPLE)
        return Nearby(method, split.train.counts(split.items), split.select(chosen).everything(), k)

    def scorer(self) -> Scorer:
        """Scores of users after their histories, with what is the same for all users computed once."""
        score = self._trained().eval().scorer(score_rows(self.split.items))
        return lambda users, histories: score(histories)

    def validate(self, split: Split | None = None) -> Validation:
        """NDCG@10 of the validation targets, its own or a split's, under full ranking: all of them and tail items."""
        return validate(self.scorer(), split or self.split)

    @property
    def split(self) -> Split:
        """The split it was fitted on."""
        return self._fitted().split

    def check(self, split: Split) -> None:
        """A DataError if the split is of other data, or another split of it, than the model was fitted on."""
        self._fitted().check(split)

    def catalogue(self) -> Known:
        """Ids, item table and hash of the data it was fitted on."""
        return self._fitted()

    def item_embeddings(self) -> FloatArray | None:
        """(I + 1, E) the LLM vectors it was fitted with; None without any, and after loading, as they are not saved."""
        return None if self.items is None else self.items.matrix(self._fitted().items, "items")

    def facts(self) -> dict[str, Fact]:
        """Data, method, backbone, loss and seed; "-" for what the method has not."""
        backbone, settings = self.config.backbone, self.config.train
        return {
            "data": self._fitted().name,
            "method": self.config.method.name,
            "backbone": backbone.name if backbone else "-",
            "loss": settings.loss if settings else "-",
            "seed": self.config.seed,
        }

    def save(self, run: str | Path) -> None:
        """Write a run folder: config.json, model.safetensors, items, users and histories; no pickle."""
        run_folder.write(Path(run), self.config, self._fitted(), self._trained())

    def _knowledge(self, split: Split, data: Dataset, items: Embeddings | None, users: Embeddings | None) -> Knowledge:
        wants, settings = self.config.method, self.config.neighbors
        by_items = wants.needs_neighbors and settings.by_items
        if (wants.needs_embeddings or by_items) and items is None:
            raise EmbeddingError(f"method {wants.name!r} needs item embeddings; pass items=embed_items(data)")
        if self.config.needs_user_embeddings and users is None:
            raise EmbeddingError(
                f"method {wants.name!r} needs user embeddings; pass users=embed_users(split.train, ...)"
            )
        matrix = items.matrix(data.items, "items") if items and (wants.needs_embeddings or by_items) else None
        vectors = None
        if users is not None and wants.needs_user_embeddings:
            vectors = of_trained(split.train, users.matrix(data.users, "users"))
        neighbors = None
        if wants.needs_neighbors:
            compared = matrix if by_items else vectors
            assert compared is not None
            neighbors = retrieve(settings, split.train, compared)
        views = items.views_of(data.items) if items and wants.needs_embeddings else None
        return Knowledge(matrix if wants.needs_embeddings else None, neighbors, vectors, views)

    def _bare(self, histories: Sequence[Externals]) -> Histories:
        known = self._fitted()
        empty = [position for position, one in enumerate(histories) if len(one) == 0]
        if not len(histories) or empty:
            where = f"history {empty[0]} is empty" if empty else "no histories were given"
            raise DataError(f"{where}; give each at least one item id, oldest first")
        flat = np.concatenate([known.items.internal(one) for one in histories])
        return Histories(flat, np.concatenate([[0, 0], np.cumsum([len(one) for one in histories])]))

    def _place(self, folder: Path, identity: str, resume: bool, facts: Mapping[str, Value] | None) -> Place:
        """Where to write; a folder that already holds a run is only gone on with, never overwritten."""
        track, config = self.config.train.track if self.config.train else (), self.config.model_dump(mode="json")
        place = _paths(folder, identity, resume)._replace(tracking=tracking(track, folder, facts or config))
        trained = (folder / "model.safetensors").exists()
        if not resume and (place.checkpoint.exists() or trained):
            raise RunError(f"{folder} already holds a run; pass resume=True (--resume), or choose another folder")
        if trained and not place.checkpoint.exists() and self.config.train:
            raise RunError(f"{folder} holds a model without a checkpoint to go on from; choose another folder")
        run_folder.claim_for(folder, self.config, self._fitted())
        if not (folder / "config.json").exists():
            run_folder.write_facts(folder, self.config, self._fitted(), None)
        return place

    def _identity(self, *embeddings: Embeddings | None) -> str:
        """What a checkpoint must agree with to be gone on from: data, split, vectors, config and seed."""
        config = self.config.model_dump_json(exclude=run_folder.UNTRAINED)
        made = [(one.provenance, one.width) for one in embeddings if one]
        vectors = [f"{was.identity} {was.texts} {width}{was.transform and ' ' + was.transform}" for was, width in made]
        split = self._fitted().split
        scheme = [split.scheme] if split.contexts else []  # checkpoints that know of no other split stay good
        return " ".join([self._fitted().hash, *vectors, config, *scheme])

    def _fitted(self) -> Known:
        if self.known is None:
            raise RunError("this recommender has not been fitted; call fit(split, ...) or longtail.load(run) first")
        return self.known

    def _trained(self) -> Method:
        self._fitted()
        if self.method is None:
            raise RunError("the training did not end; call fit(split, ...) again, or load a finished run")
        return self.method


def _paths(folder: Path, identity: str, resume: bool) -> Place:
    return Place(folder / "checkpoint" / "last.safetensors", folder / "log.jsonl", identity, resume)


def load(run: str | Path) -> Recommender:
    """The recommender of a run folder; a RunError says what is missing, corrupt or newer."""
    config, known, sizes, weights = run_folder.read(Path(run))
    model = Recommender.of(build(ModelConfig, config, f"{run}/config.json"))
    with seeded(0):  # the weights that are built are replaced at once, and the caller's generators stay as they are
        model.known, model.method = known, build_method(model.config, sizes)
    try:
        model.method.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"the weights in {run} do not fit its config ({error}); fit again") from None
    model.method.eval()
    return model
