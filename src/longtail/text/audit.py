"""Auditing vectors: what is wrong, doubtful or good to know before a model is trained on them. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from longtail.data.findings import LEVELS, Facts, Finding, Level, share
from longtail.data.histories import BoolArray, IntArray
from longtail.errors import some
from longtail.text.transform import principal
from longtail.text.vector_files import Floats

SAMPLE = 20_000  # vectors looked at where all pairs or directions are the question
WIDE = 512  # directions of wider vectors that the linear map reads: the first principal ones
FOLDS, PENALTIES = 5, np.geomspace(1e-4, 1e4, 9)  # of the linear map; penalties in units of the mean variance
MANY_SAME, MANY_ALIKE = 0.05, 0.005  # shares of equal vectors, and of those of different texts, that are a warning
NARROW, CROWDED, KNOWS = 0.02, 0.5, 0.5  # share of the width, mean cosine and R2 from which there is a warning


@dataclass(frozen=True, eq=False)
class Vectors:
    """What is audited.

    vectors (n, E) and their ids (n,), as they are; has_text (n,): None if it is not known. wanted: the ids of the data
    set, if there is one; counts, texts: of each of `wanted`, training interactions and what the encoder reads. noun:
    "items" or "users".
    """

    vectors: Floats
    ids: pl.Series
    has_text: BoolArray | None = None
    wanted: pl.Series | None = None
    counts: IntArray | None = None
    texts: Sequence[str] | None = None
    noun: str = "items"

    @cached_property
    def finite(self) -> BoolArray:
        """(n,) of each vector, whether all its numbers are."""
        finite: BoolArray = np.isfinite(self.vectors.sum(axis=1, dtype=np.float64))
        return finite

    @cached_property
    def norms(self) -> npt.NDArray[np.float64]:
        """(n,) lengths; of vectors that are not finite, 0."""
        rows = np.where(self.finite[:, None], self.vectors, 0)
        lengths: npt.NDArray[np.float64] = np.linalg.norm(rows.astype(np.float64), axis=1)
        return lengths

    @cached_property
    def sound(self) -> IntArray:
        """Rows of vectors that are finite and not zero, at most SAMPLE of them, drawn by a fixed seed."""
        rows = np.flatnonzero(self.finite & (self.norms > 0))
        if len(rows) <= SAMPLE:
            return rows
        return np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))

    @cached_property
    def unit(self) -> Floats:
        """Of `sound`, as unit vectors."""
        unit: Floats = (self.vectors[self.sound] / self.norms[self.sound, None]).astype(np.float32)
        return unit

    @cached_property
    def places(self) -> IntArray:
        """(n,) the place of each id in `wanted`, from 0; -1 where it is not there."""
        if self.wanted is None:
            return np.full(len(self.ids), -1)
        known = self.wanted.to_frame("id").with_row_index("place")
        ids = self.ids.cast(self.wanted.dtype, strict=False).to_frame("id")
        found = ids.join(known, on="id", how="left", maintain_order="left")["place"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()

    def name(self, rows: npt.NDArray[np.integer]) -> str:
        """The ids of some rows, as examples."""
        return some(self.ids.gather(pl.Series(rows, dtype=pl.Int64)).to_list(), 3)


def values(given: Vectors) -> list[Finding]:
    """NaN and infinity."""
    bad = np.flatnonzero(~given.finite)
    facts: Facts = {"vectors": len(bad)}
    if len(bad):
        text = f"{len(bad):,} vectors hold NaN or infinity ({given.name(bad)}): embed these texts again"
        return [Finding("error", "values", text, facts)]
    return [
        Finding("ok", "values", f"all {len(given.ids):,} vectors, {given.vectors.shape[1]:,} wide, are finite", facts)
    ]


def coverage(given: Vectors) -> list[Finding]:
    """Ids that repeat, are missing, or belong to nothing."""
    found = []
    if repeated := given.ids.filter(given.ids.is_duplicated()).unique(maintain_order=True).to_list():
        text = f"ids with more than one vector: {some(repeated, 3)}; keep one vector an id"
        found.append(Finding("error", "ids", text, {"repeated": len(repeated)}))
    if given.wanted is None:
        return found
    there = np.zeros(len(given.wanted), dtype=np.bool_)
    there[given.places[given.places >= 0]] = True
    extra = int((given.places < 0).sum())
    facts: Facts = {"missing": int((~there).sum()), "unused": extra}
    if not there.all():
        missing = given.wanted.filter(pl.Series(~there)).to_list()
        text = f"{len(missing):,} of {len(there):,} {given.noun} have no vector ({some(missing, 3)}): embed them too"
        return [*found, Finding("error", "ids", text, facts)]
    note = f"; {extra:,} vectors are of none of them" if extra else ""
    return [*found, Finding("ok", "ids", f"every one of {len(there):,} {given.noun} has a vector{note}", facts)]


def zeros(given: Vectors) -> list[Finding]:
    """Vectors of zeros: where there was a text, the encoder read nothing of it."""
    empty = given.finite & (given.norms == 0)
    odd = empty & given.has_text if given.has_text is not None else empty
    facts: Facts = {"zeros": int(empty.sum()), "of_texts": int(odd.sum())}
    found = []
    if odd.any():
        text = (
            f"{odd.sum():,} vectors are zero ({given.name(np.flatnonzero(odd))}): their cosine to anything is "
            "undefined, and text-kNN and similar users never find them; look at their texts"
        )
        found.append(Finding("warning", "zeros", text, facts))
    if given.has_text is not None and not given.has_text.all():
        bare = np.flatnonzero(~given.has_text)
        what = "the mean of the others" if given.noun == "items" else "zeros"
        text = f"{len(bare):,} {given.noun} ({share(len(bare), len(given.ids))}) had no text and got {what}"
        found.append(Finding("note", "no text", f"{text} ({given.name(bare)})", {"without_text": len(bare)}))
    return found or [Finding("ok", "zeros", "no vector is zero", facts)]


def duplicates(given: Vectors) -> list[Finding]:
    """Vectors that are equal to another's, bit for bit."""
    rows = np.flatnonzero(given.finite if given.has_text is None else given.finite & given.has_text)
    kept = np.ascontiguousarray(given.vectors[rows])
    if not len(kept):
        return []
    bits = kept.view(np.dtype((np.void, kept.itemsize * kept.shape[1]))).ravel()
    _, first, group, sizes = np.unique(bits, return_index=True, return_inverse=True, return_counts=True)
    same = sizes[group] > 1
    facts: Facts = {"vectors": int(same.sum()), "distinct": len(first)}
    if not same.any():
        return [Finding("ok", "duplicates", "no two vectors are equal", facts)]
    biggest = rows[group == sizes.argmax()]
    text = (
        f"{same.sum():,} of {len(rows):,} vectors ({share(same.sum(), len(rows))}) equal another's; the largest group "
        f"has {sizes.max():,} ({given.name(biggest)})"
    )
    if given.texts is not None:
        known = given.places[rows]
        read = pl.DataFrame({"group": group, "place": known}).filter(pl.col("place") >= 0)
        read = read.with_columns(text=pl.Series(given.texts, dtype=pl.String).gather(read["place"]))
        differing = int(read.select((pl.col("text").n_unique().over("group") > 1).sum()).item())
        facts["of_different_texts"] = differing
        text += f"; of {differing:,} the texts differ: the encoder cuts them off before they do, or cannot tell (case?)"
    much = same.mean() > MANY_SAME or int(facts.get("of_different_texts", 0)) > MANY_ALIKE * len(rows)
    level: Level = "warning" if much else "note"
    return [Finding("error" if len(first) == 1 else level, "duplicates", text, facts)]


def norms(given: Vectors) -> list[Finding]:
    """Lengths, which a dot product would take for importance."""
    lengths = given.norms[given.sound]
    if not len(lengths):
        return [Finding("error", "norms", "no vector has a length: there is nothing to learn from", {})]
    low, middle, high = (float(part) for part in np.quantile(lengths, [0, 0.5, 1]))
    facts: Facts = {"least": low, "median": middle, "most": high}
    if high - low < 0.01 * middle:
        return [Finding("ok", "norms", f"all lengths are {middle:.3g}", facts)]
    text = f"lengths go from {low:.3g} to {high:.3g}, median {middle:.3g}"
    if high > 10 * middle:
        text += (
            f": the longest ({given.name(given.sound[lengths.argmax() : lengths.argmax() + 1])}) outweigh the others"
        )
        return [Finding("warning", "norms", text + '; add "l2" to text.transform', facts)]
    return [Finding("note", "norms", text, facts)]


def anisotropy(given: Vectors) -> list[Finding]:
    """The mean cosine of two vectors: near 1, all point the same way, and what they share drowns what differs."""
    n = len(given.unit)
    if n < 2:
        return []
    total = given.unit.sum(axis=0, dtype=np.float64)
    mean = float((total @ total - n) / (n * (n - 1)))
    text = f"the mean cosine of two vectors is {mean:.3f}"
    if mean > CROWDED:
        text += ': they crowd in a narrow cone; try "center" first in text.transform'
        return [Finding("warning", "anisotropy", text, {"mean_cosine": mean})]
    return [Finding("ok", "anisotropy", text, {"mean_cosine": mean})]


def dimension(given: Vectors) -> list[Finding]:
    """Effective dimension (sum l)^2 / sum l^2 of the variances l along principal axes, and how many hold 90%."""
    variances = principal(given.unit).variances if len(given.unit) > 1 else np.zeros(1)
    if not variances.sum():
        return [Finding("error", "dimension", "the vectors do not differ: there is nothing to learn from", {})]
    effective = float(variances.sum() ** 2 / (variances**2).sum())
    needed = int(np.searchsorted(np.cumsum(variances) / variances.sum(), 0.9) + 1)
    facts: Facts = {"effective": effective, "for_90_percent": needed, "width": len(variances)}
    text = (
        f"effective dimension {effective:.0f} of {len(variances):,}; {needed:,} directions hold 90% of the variance, "
        f"the first alone {share(variances[0], variances.sum())}"
    )
    if effective < NARROW * len(variances):
        return [Finding("warning", "dimension", text + ': try "whiten:256:0.5" in text.transform', facts)]
    return [Finding("ok", "dimension", text, facts)]


def popularity(given: Vectors) -> list[Finding]:
    """How much of log(1 + training count) a linear map of the vectors tells of items that it was not fitted on."""
    if given.counts is None or given.noun != "items":
        return []
    rows = given.sound[given.places[given.sound] >= 0]
    y = np.log1p(given.counts[given.places[rows]])
    if len(rows) < 10 * FOLDS or not y.std():
        return []
    found = explained(given.vectors[rows], y)
    text = f"a linear map of the vectors tells {share(max(found, 0), 1)} of the variance of log training counts (R2)"
    if found > KNOWS:
        text += ": do the texts hold counts of reviews, ranks or ratings? These know the future"
        return [Finding("warning", "popularity", text, {"r2": found})]
    return [Finding("note" if found > KNOWS / 2 else "ok", "popularity", text, {"r2": found})]


def explained(x: Floats, y: npt.NDArray[np.float64]) -> float:
    """R2 of a ridge regression of y (n,) on x (n, E), over FOLDS folds, at the best of PENALTIES."""
    if x.shape[1] > WIDE:
        found = principal(x)
        x = ((x - found.mean) @ found.axes[:, :WIDE]).astype(np.float32)
    fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
    errors, whole = np.zeros(len(PENALTIES)), 0.0
    for k in range(FOLDS):
        train, held = fold != k, fold == k
        mean, level = x[train].mean(axis=0, dtype=np.float64), y[train].mean()
        values, axes = np.linalg.eigh((x[train] - mean).T @ (x[train] - mean))
        toward = axes.T @ ((x[train] - mean).T @ (y[train] - level))
        weights = axes @ (toward[:, None] / (np.maximum(values, 0)[:, None] + PENALTIES * values.mean()))  # (E, P)
        errors += np.square((y[held] - level)[:, None] - (x[held] - mean) @ weights).sum(axis=0)
        whole += float(((y[held] - level) ** 2).sum())
    return float(1 - errors.min() / whole)


CHECKS: tuple[Callable[[Vectors], list[Finding]], ...] = (
    values,
    coverage,
    zeros,
    duplicates,
    norms,
    anisotropy,
    dimension,
    popularity,
)


def audit(given: Vectors) -> list[Finding]:
    """Everything the checks find, the worst first."""
    found = [finding for check in CHECKS for finding in check(given)]
    return sorted(found, key=lambda one: LEVELS.index(one.level))


class Near(NamedTuple):
    """A row and the rows whose vectors are nearest to its, with their cosines."""

    row: int
    nearest: IntArray
    cosines: Floats


def nearest(given: Vectors, rows: Sequence[int], k: int = 5) -> list[Near]:
    """The k nearest of `given.sound` to each of `rows`, which must be sound, without itself."""
    near = []
    for row in rows:
        cosines = given.unit @ (given.vectors[row] / given.norms[row]).astype(np.float32)
        cosines[given.sound == row] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:k]
        near.append(Near(row, given.sound[best], cosines[best]))
    return near


def samples(given: Vectors, n: int = 6) -> list[int]:
    """Rows to look at: half of them of the most, half of the least bought, if counts are known; else any."""
    rows = given.sound
    generator = np.random.default_rng(0)
    if given.counts is None or len(rows) <= n:
        return sorted(generator.choice(rows, min(n, len(rows)), replace=False).tolist())
    counts = np.append(given.counts, 0)[given.places[rows]]
    order = rows[np.argsort(-counts, kind="stable")]
    fifth = max(len(order) // 5, n)
    parts = order[:fifth], order[-fifth:]
    return [int(row) for part in parts for row in generator.choice(part, n // 2, replace=False)]
