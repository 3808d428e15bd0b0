"""What is done to vectors after the encoder: centring, unit length, principal components, whitening. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longtail.errors import ConfigError, EmbeddingError
from longtail.files import read_safetensors, write_safetensors
from longtail.registry import nearest

FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
ROWS = 2**14  # vectors read at once: they may be a file
RANK = 1e-7  # of the largest variance: below it a direction is rounding
KINDS = {"center": (0, 0), "l2": (0, 0), "pca": (1, 1), "whiten": (0, 2), "remove": (1, 1)}
"""Steps by name, with the least and the most numbers they take."""
USAGE = "center, l2, pca:64, whiten, whiten:256, whiten:256:0.5 or remove:2"
FILE = "transform.safetensors"  # beside the vectors and in the run folder


class Step(NamedTuple):
    """One step as it was asked for.

    center: x - m. l2: x / |x|. pca:K: the first K principal components of x - m. whiten:K:e: these components over
    their standard deviation to the power e, 1 if not given, and all K that there are. remove:k: x - m without its first
    k principal directions ("all but the top", Mu and Viswanath, ICLR 2018).
    """

    kind: str
    width: int = 0
    exponent: float = 1.0


def parse_step(text: str) -> Step:
    """A step by its name; a ConfigError if there is none.

    >>> parse_step("whiten:256:0.5")
    Step(kind='whiten', width=256, exponent=0.5)
    """
    kind, *numbers = text.split(":")
    if kind not in KINDS:
        raise ConfigError(f"unknown step {text!r} of a transform{nearest(kind, KINDS)}; known: {USAGE}")
    least, most = KINDS[kind]
    try:
        width = int(numbers[0]) if numbers else 0
        exponent = float(numbers[1]) if len(numbers) > 1 else 1.0
    except ValueError:
        raise ConfigError(f"step {text!r} of a transform has no such numbers; write it as {USAGE}") from None
    if not least <= len(numbers) <= most or (numbers and width < 1) or not 0 < exponent <= 1:
        raise ConfigError(f"step {text!r} of a transform takes other numbers; write it as {USAGE}")
    return Step(kind, width, exponent)


class Principal(NamedTuple):
    """Principal axes of n vectors: mean (E,), variances (E,) descending, axes (E, E) in columns of length 1."""

    mean: Doubles
    variances: Doubles
    axes: Doubles


def principal(vectors: FloatArray) -> Principal:
    """Of the vectors (n, E), read in parts. The sign of an axis is that of its largest loading.

    So equal data give equal axes on every machine.
    """
    n, E = vectors.shape
    parts = [slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]
    mean = sum((vectors[part].sum(axis=0, dtype=np.float64) for part in parts), np.zeros(E)) / max(n, 1)
    scatter = np.zeros((E, E))
    for part in parts:
        centred = vectors[part] - mean
        scatter += centred.T @ centred
    values, axes = np.linalg.eigh(scatter)  # ascending
    axes = axes[:, ::-1]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(E)])
    return Principal(mean, np.maximum(values[::-1], 0.0) / max(n, 1), axes * signs)


@dataclass(frozen=True, eq=False)
class Transform:
    """Fitted steps. arrays: "0.mean" (E,) and "0.axes" (E, F) of the step at place 0, if it has them; and so on."""

    steps: tuple[str, ...]
    arrays: Mapping[str, FloatArray] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The steps and a hash of what was fitted: equal names do the same to vectors."""
        total = hashlib.sha256()
        for key, array in sorted(self.arrays.items()):
            total.update(f"{key} {array.shape} ".encode() + np.ascontiguousarray(array, dtype="<f4").tobytes())
        return f"{' '.join(self.steps)} {total.hexdigest()[:16]}"

    def apply(self, vectors: FloatArray) -> FloatArray:
        """(n, E) to (n, F), as the vectors were changed that it was fitted on; a zero vector stays so under l2."""
        expected = next((len(array) for array in self.arrays.values()), vectors.shape[1])
        if vectors.shape[1] != expected:
            raise EmbeddingError(
                f"the transform {' '.join(self.steps)!r} is for vectors {expected} wide, these are "
                f"{vectors.shape[1]} wide; they are of another encoder"
            )
        parts = [self._apply(vectors[start : start + ROWS]) for start in range(0, max(len(vectors), 1), ROWS)]
        return np.concatenate(parts)

    def then(self, other: Transform) -> Transform:
        """This one, and then the other."""
        moved = {f"{int(key.partition('.')[0]) + len(self.steps)}.{key.partition('.')[2]}": array
                 for key, array in other.arrays.items()}  # fmt: skip
        return Transform((*self.steps, *other.steps), {**self.arrays, **moved})

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all."""
        steps = np.frombuffer(json.dumps(self.steps).encode(), dtype=np.uint8)
        write_safetensors(path, {"steps": steps, **self.arrays})

    @classmethod
    def load(cls, path: Path) -> Transform:
        """What `save` wrote; an EmbeddingError names a file that is missing, corrupt or another thing."""
        arrays = read_safetensors(path, EmbeddingError)
        try:
            steps = tuple(str(step) for step in json.loads(arrays.pop("steps").tobytes()))
            for step in steps:
                parse_step(step)
        except (KeyError, ValueError, ConfigError) as error:
            raise EmbeddingError(f"{path} is not a transform of vectors ({error!r}); embed again") from None
        return cls(steps, {key: np.asarray(array, dtype=np.float32) for key, array in arrays.items()})

    def _apply(self, vectors: FloatArray) -> FloatArray:
        for place, text in enumerate(self.steps):
            vectors = _applied(parse_step(text).kind, vectors, *(self.arrays.get(f"{place}.{key}") for key in ARRAYS))
        return vectors


ARRAYS = ("mean", "axes")


def fit_transform(steps: Sequence[str], vectors: FloatArray) -> tuple[Transform, FloatArray]:
    """Fit steps one after another on vectors (n, E); also what they make of these, (n, F).

    An EmbeddingError if more directions are asked for than there are.
    """
    arrays: dict[str, FloatArray] = {}
    for place, text in enumerate(steps):
        fitted = _fit(parse_step(text), text, vectors)
        arrays |= {f"{place}.{key}": array.astype(np.float32) for key, array in fitted.items()}
        one = Transform((text,), {f"0.{key}": arrays[f"{place}.{key}"] for key in fitted})
        vectors = one.apply(vectors)
    return Transform(tuple(steps), arrays), vectors


def _fit(step: Step, text: str, vectors: FloatArray) -> dict[str, Doubles]:
    if step.kind == "l2":
        return {}
    if step.kind == "center":
        return {"mean": vectors.mean(axis=0, dtype=np.float64)}
    found = principal(vectors)
    rank = int((found.variances > RANK * found.variances[0]).sum())
    width = step.width or rank
    if width > rank:
        raise EmbeddingError(
            f"{text!r}: the {len(vectors):,} vectors, {vectors.shape[1]} wide, vary in {rank} directions; ask for "
            "fewer, or for 'whiten', which takes all"
        )
    axes = found.axes[:, :width]
    if step.kind == "whiten":
        axes = axes / np.power(found.variances[:width], step.exponent / 2)
    return {"mean": found.mean, "axes": axes}


def _applied(kind: str, vectors: FloatArray, mean: FloatArray | None, axes: FloatArray | None) -> FloatArray:
    if mean is None:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: FloatArray = np.divide(vectors, np.where(norms > 0, norms, 1), dtype=np.float32)
        return unit
    centred: FloatArray = vectors - mean
    if axes is None:
        return centred
    components: FloatArray = centred @ axes
    if kind == "remove":
        centred -= components @ axes.T
        return centred
    return components
