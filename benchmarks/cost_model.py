"""What the steps cost at any size: coefficients from measured sizes, how far off they are, and what they predict.

Reads results/scale.json and, if it is there, results/scale_200000.json (`benchmarks/scale.py`). Then a step with one
coefficient is predicted for the larger size from the smaller one alone, and the error is told; the larger size sets it.
Memory is counted, array by array, set beside the peaks that were measured, and also predicted from these alone.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

import measure
from measure import Claim

SIZES = ("scale_200000", "scale")
E, D, BATCH, EDGES, K = 128, 64, 4096, 150, 10  # widths, users a step, edges an item, similar users a user
GIB = 2**30


class Size(NamedTuple):
    """Users U, interactions N, items I."""

    U: float
    N: float
    I: float  # noqa: E741 - the field's letter


Law = tuple[str, tuple[str, ...]]
TERMS = {  # what a coefficient is multiplied with
    "N": lambda s: s.N,
    "U": lambda s: s.U,
    "U^1.5 E": lambda s: s.U**1.5 * E,
    "I^1.5 E": lambda s: s.I**1.5 * E,
    "U I^0.5": lambda s: s.U * s.I**0.5,
    "targets": lambda s: BATCH * s.N / s.U,
    "I d": lambda s: s.I * D,
}
LAWS = {  # what takes seconds, and the terms whose coefficients are fitted: as many as there are sizes, at most
    "prepare": ("N",),
    "similar users": ("U^1.5 E",),
    "edges by text": ("I^1.5 E",),
    "edges by order": ("N",),
    "a step of training": ("targets", "I d"),
    "lists": ("U", "U I^0.5"),
}


def measured(name: str) -> tuple[Size, dict[str, float], dict[str, float]]:
    """A size, the seconds measured there, and the peaks in MB."""
    found = json.loads((measure.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    more, made = found["train"]["more"], found["generate"]["more"]
    seconds = {
        "prepare": found["prepare"]["seconds"],
        "similar users": found["similar"]["seconds"],
        "edges by text": more["edges"] - more["edges_by_order"],
        "edges by order": more["edges_by_order"],
        "a step of training": more["step"],
        "lists": found["recommend"]["seconds"],
    }
    peaks = {name: found[step]["peak_mb"] for name, step in PEAKS.items()}
    return Size(made["users"], made["interactions"], made["items"]), seconds, peaks


PEAKS = {"similar users": "similar", "training": "train", "lists": "recommend"}


class Bytes(NamedTuple):
    """What a step holds at once of each, and besides."""

    user: float
    item: float
    interaction: float
    fixed: float = 0.0

    def of(self, s: Size) -> float:
        """Of a size."""
        return self.user * s.U + self.item * s.I + self.interaction * s.N + self.fixed


def memory(step: str, s: Size) -> Bytes:
    """Bytes of the arrays that a step holds, as the code makes them."""
    user, item = 24 + 40, 20  # texts of ids; offsets and targets
    table, histories, graph = 16, 8, EDGES * (4 + 4)
    if step == "similar users":
        points = (2 if 4 * s.U * E > 2**32 else 4) * E  # half precision where they are many
        return Bytes(user + points + 8 * (2 * K + 4), item + 4 * E, table + histories)
    if step == "training":
        logits = 4 * BATCH * s.N / s.U * 4096 * 3
        return Bytes(user, item + 4 * E + 16 * D + graph, table + histories, logits)
    return Bytes(user, item + 4 * (D + 3 * (D + 2)) + 2 * graph, histories)  # vectors, points, cells; edges, twice


def grown(sizes: list[Size], peaks: list[float], asked: Size) -> float:
    """The peak of a size of the same shape, on the line through the peaks of two; of one, in proportion."""
    if len(sizes) == 1:
        return peaks[0] * asked.U / sizes[0].U
    return peaks[0] + (peaks[1] - peaks[0]) * (asked.U - sizes[0].U) / (sizes[1].U - sizes[0].U)


def coefficients(terms: tuple[str, ...], sizes: list[Size], seconds: list[float]) -> list[float]:
    """Of as many terms as sizes, or of one term by the last size; none below 0."""
    if len(terms) == 1:
        return [seconds[-1] / TERMS[terms[0]](sizes[-1])]
    if len(sizes) == 1:
        return [seconds[0] / TERMS[terms[0]](sizes[0]), *(0.0 for _ in terms[1:])]
    table = np.array([[TERMS[term](size) for term in terms] for size in sizes])
    found = np.linalg.solve(table, np.array(seconds))
    if (found >= 0).all():
        return [float(one) for one in found]
    best = int(np.argmax(found))  # one term alone says it
    return [float(seconds[-1] / table[-1, at]) if at == best else 0.0 for at in range(len(terms))]


def predicted(terms: tuple[str, ...], values: list[float], size: Size) -> float:
    """Seconds."""
    return sum(value * TERMS[term](size) for term, value in zip(terms, values, strict=True))


def main() -> None:
    """Fit, show how far off, predict."""
    quick = measure.parser(__doc__).parse_args().quick
    runs = [measured(name) for name in SIZES if (measure.RESULTS / f"{name}.json").is_file()]
    sizes = [run[0] for run in runs]
    asked = Size(100_000_000, 1_000_000_000, 10_000_000)
    rows: list[dict[str, object]] = []
    worst = 0.0
    for step, terms in LAWS.items():
        seconds = [run[1][step] for run in runs]
        values = coefficients(terms, sizes, seconds)
        off = float("nan")
        if len(terms) == 1 and len(sizes) > 1:
            off = predicted(terms, coefficients(terms, sizes[:1], seconds[:1]), sizes[1]) / seconds[1] - 1
            worst = max(worst, abs(off))
        rows.append(
            {
                "seconds of": step,
                "law": " + ".join(f"{value:.3g} {term}" for term, value in zip(terms, values, strict=True) if value),
                **{f"{size.U / 1e6:g}M users": value for size, value in zip(sizes, seconds, strict=True)},
                **({} if len(sizes) == 1 else {"off if from the smaller": "" if np.isnan(off) else f"{off:+.0%}"}),
                "100M users": predicted(terms, values, asked),
            }
        )
    measure.table("seconds", rows)
    held: list[dict[str, object]] = []
    for step in PEAKS:
        counted, peaks = memory(step, asked), [run[2][step] / 1024 for run in runs]
        held.append(
            {
                "memory of": step,
                "bytes a user": counted.user,
                "an item": counted.item,
                "an interaction": counted.interaction,
                **{f"{size.U / 1e6:g}M peak": peak for size, peak in zip(sizes, peaks, strict=True)},
                f"{sizes[-1].U / 1e6:g}M counted": memory(step, sizes[-1]).of(sizes[-1]) / GIB,
                "100M counted": counted.of(asked) / GIB,
                "100M by the peaks": grown(sizes, peaks, asked),
            }
        )
    measure.table("memory: bytes as counted, then GiB", held)
    claims = (
        [Claim("sizes that were measured", len(sizes), "")]
        if len(sizes) == 1
        else [Claim("largest error of a time predicted for fifty times as much", worst, "share")]
    )
    measure.finish("cost_model", claims, {"seconds": rows, "memory": held}, quick=quick)


if __name__ == "__main__":
    main()
