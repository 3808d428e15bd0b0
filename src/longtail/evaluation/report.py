"""A report: one rank a user and what follows from it, by group, with the facts and the protocol it came from."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from rich.console import Console

from longtail.data.groups import Groups, GroupsConfig, groups, members, user_members
from longtail.data.histories import IntArray
from longtail.data.ids import IdMap
from longtail.data.split import Split
from longtail.errors import RunError
from longtail.evaluation.candidates import listed, read_candidates
from longtail.evaluation.corrected import corrected
from longtail.evaluation.exposure import FloatArray, list_figures
from longtail.evaluation.fingerprint import Fact, fingerprint, terms_of
from longtail.evaluation.metrics import Figure, figures, gaps, means
from longtail.evaluation.protocol import ProtocolConfig, Ranked, Scorer, drawn_candidates, rank
from longtail.evaluation.tables import shown, tables
from longtail.files import read_json, read_parquet, write_json, write_parquet

__all__ = ["Catalogue", "Fact", "Model", "Report", "evaluate", "shown", "tables"]

FILE = "file"  # the protocol of protocol.candidates_file


class Catalogue(Protocol):
    """What a model knows of its data: external ids, the item table (a row an item) and the data set's hash."""

    @property
    def users(self) -> IdMap: ...

    @property
    def items(self) -> IdMap: ...

    @property
    def text(self) -> pl.DataFrame: ...

    @property
    def hash(self) -> str: ...


class Model(Protocol):
    """What can be evaluated: something that scores the catalogue, and says what it is."""

    def check(self, split: Split) -> None:
        """Raise a DataError if the split is of other data than the model's."""

    def scorer(self) -> Scorer:
        """Scores of users and their histories."""

    def facts(self) -> dict[str, Fact]:
        """Data, method, backbone, loss, seed, …: what a row of results needs to be understood."""

    def catalogue(self) -> Catalogue:
        """What is known of the data it was fitted on."""

    def item_embeddings(self) -> FloatArray | None:
        """(I + 1, E) LLM vectors of the items, row 0 zero, if it has them at hand."""


@dataclass(frozen=True, eq=False)
class Report:
    """One evaluation of one model.

    ranks: user, target, full, sampled<N>, …, internal ids and ranks from 0. figures: by protocol, group and metric.
    terms: the protocol, field by field. repeats: how many targets are in the history of their user, kept or dropped.
    lists: (n, K) the first items of each row of `ranks`, if the protocol keeps them. With the training histories,
    the item table and the fields `groups.*` of the terms, ranks and lists give every figure again.
    """

    facts: dict[str, Fact]
    split: str
    ranks: pl.DataFrame
    groups: Groups
    figures: list[Figure]
    terms: dict[str, Fact] = field(default_factory=dict)
    repeats: int = 0
    lists: IntArray | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of the terms: figures compare where it is the same."""
        return fingerprint(self.terms)

    def value(self, metric: str, group: str = "all", protocol: str = "full") -> float | None:
        """One figure, e.g. value("ndcg@10", "tail_items"); None for an empty group, or where it was not computed."""
        wanted = (metric, group, protocol)
        found = [one.value for one in self.figures if (one.metric, one.group, one.protocol) == wanted]
        return found[0] if found else None

    def rows(self) -> list[dict[str, Fact | None]]:
        """Every figure as a row: the facts and the fingerprint, protocol, split, group, metric, n, value."""
        return [
            {
                **self.facts,
                "protocol": figure.protocol,
                "split": self.split,
                "group": figure.group,
                "metric": figure.metric,
                "n": figure.n,
                "value": figure.value,
            }
            for figure in self.figures
        ]

    def save(self, folder: Path) -> None:
        """Write ranks.parquet, lists.parquet and metrics.json into a run folder; the other split's figures stay.

        A report.html of earlier figures is removed; longtail.reporting writes it.
        """
        ranks, rows, protocols = self.ranks.with_columns(split=pl.lit(self.split)), self.rows(), {}
        if (folder / "metrics.json").exists() and (folder / "ranks.parquet").exists():
            other = read_parquet(folder / "ranks.parquet").filter(pl.col("split") != self.split)
            ranks = pl.concat([other, ranks], how="diagonal")
            stored = read_json(folder / "metrics.json")
            if not isinstance(stored, dict) or "figures" not in stored:
                raise RunError(f"{folder / 'metrics.json'} is corrupt; delete it and evaluate again")
            rows = [row for row in stored["figures"] if row["split"] != self.split] + rows
            protocols = stored.get("protocols", {})
        mine = {"fingerprint": self.fingerprint, "repeats": self.repeats, "terms": self.terms}
        protocols = {**protocols, self.split: mine}
        write_parquet(folder / "ranks.parquet", ranks)
        self._save_lists(folder / "lists.parquet")
        write_json(folder / "metrics.json", {"format": 1, "protocols": protocols, "figures": rows})
        (folder / "report.html").unlink(missing_ok=True)

    def _save_lists(self, path: Path) -> None:
        """user, items (a list, best first), split: beside the other split's; those of an earlier report are removed."""
        kept = [read_parquet(path).filter(pl.col("split") != self.split)] if path.exists() else []
        if self.lists is not None:
            items = pl.Series("items", self.lists).cast(pl.List(pl.UInt32))
            kept.append(self.ranks.select("user").with_columns(items, split=pl.lit(self.split)))
        if any(len(one) for one in kept):
            write_parquet(path, pl.concat(kept))
        else:
            path.unlink(missing_ok=True)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=140)
        for table in tables([self]):
            console.print(table)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def evaluate(
    model: Model,
    split: Split,
    *,
    name: str = "test",
    protocol: ProtocolConfig | None = None,
    by: GroupsConfig | None = None,
    vectors: FloatArray | None = None,
) -> Report:
    """Rank the held-out targets of `name` ('valid' or 'test') under the protocol and report by group.

    Groups come from training counts alone. Sampled figures are printed beside the full ranking, never instead of it.
    vectors: (I + 1, E) LLM vectors of the items for the diversity of lists; the model's own where they are not given.
    """
    config, by = protocol or ProtocolConfig(), by or GroupsConfig()
    model.check(split)
    known = model.catalogue()
    found = groups(split, by, known.text)
    kinds = drawn_candidates(split, name, config)
    if config.candidates_file:
        lists = read_candidates(config.candidates_file, known.users, known.items)
        kinds[FILE] = listed(lists, split.targets(name), known.users)
    ranked = rank(model.scorer(), split, name, config, kinds)
    vectors = model.item_embeddings() if vectors is None and config.lists else vectors
    terms = terms_of(known.hash, split, name, config, by, found, ranked.candidates)
    made = _figures(split, config, found, ranked, vectors)
    facts = {**model.facts(), "fingerprint": fingerprint(terms)}
    return Report(facts, name, ranked.ranks, found, made, terms, ranked.repeats, ranked.lists)


def _figures(
    split: Split, config: ProtocolConfig, found: Groups, ranked: Ranked, vectors: FloatArray | None
) -> list[Figure]:
    """By protocol and group, with the gaps between users; corrected ones of uniform candidates; those of the lists."""
    users, targets = (ranked.ranks[column].to_numpy() for column in ("user", "target"))
    inside, of_users = members(found, users, targets), user_members(found, users)
    made: list[Figure] = []
    for kind in ("full", *ranked.candidates):
        ranks = ranked.ranks[kind].to_numpy()
        one = figures(kind, ranks, inside, config.ks)
        made += [*one, *gaps(one, of_users)]
        if kind.startswith("sampled"):
            estimates = corrected(ranks, _pool(split, users), config.sampled, config.ks)
            for estimator, values in estimates.items():
                made += means(f"{kind}-{estimator}", values, inside)
    if ranked.lists is not None:
        counts = split.train.counts(split.items)
        made += list_figures(ranked.lists, counts, found.head_items, vectors, of_users, config.ks)
    return made


def _pool(split: Split, users: IntArray) -> IntArray:
    """(n,) how many items each user's uniform candidates are drawn from, the target included."""
    everything = split.select(users).everything()
    touched = np.unique(everything.owners() * (split.items + 1) + everything.items) // (split.items + 1)
    return split.items - np.bincount(touched, minlength=len(users) + 1)[1:] + 1
