"""Embedding through the cache, beside calling the model itself, and all of it again from the cache.

The texts are prompts of the items of Amazon Beauty where they lie beside the project, else of the bundled data.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import measure
from longtail.data.dataset import Dataset
from longtail.text.cache import embed_cached
from longtail.text.embedders.base import Embedder, parse
from longtail.text.embedders.sentence import BATCH, Sentence
from longtail.text.prompts import item_prompts
from measure import Claim

BEAUTY = measure.SHARED / "amazon_beauty_2014"
QUICK = 512  # texts


def texts(quick: bool) -> tuple[str, list[str]]:
    """The data's name and its items' prompts; a sample spread over all of them for a quick run."""
    data = (
        Dataset.read(BEAUTY / "interactions.parquet", BEAUTY / "items.parquet")
        if BEAUTY.is_dir()
        else Dataset.bundled()
    )
    prompts = list(dict.fromkeys(prompt for prompt in item_prompts(data.text) if prompt))
    return data.name, prompts[:: max(1, len(prompts) // QUICK)][:QUICK] if quick else prompts


def direct(model: Sentence, prompts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """What one would write without longtail: one call of the model with all texts, at the same precision."""
    import torch

    encoder = model._encoder
    half = model.precision == "bfloat16"
    with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=half):
        made = encoder.encode(
            prompts, batch_size=BATCH.get(encoder.device.type, 256), show_progress_bar=False, convert_to_numpy=True
        )
    return np.asarray(made, dtype=np.float32)


def taken(run: Callable[[], object]) -> float:
    """Seconds of one call: processor seconds would hide waiting for the disk."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    arguments = measure.parser(__doc__).parse_args()
    name, prompts = texts(arguments.quick)
    model = parse("minilm")
    assert isinstance(model, Embedder) and isinstance(model, Sentence)
    direct(model, prompts[:32])
    rounds, ours, theirs, again = (2 if arguments.quick else 3), [], [], []
    for _ in range(rounds):  # in turn, so that a busy machine slows both
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache.sqlite"
            theirs.append(taken(lambda: direct(model, prompts)))
            ours.append(taken(lambda: embed_cached(model, prompts, cache)))  # noqa: B023
            again.append(statistics.median(taken(lambda: embed_cached(model, prompts, cache)) for _ in range(5)))  # noqa: B023
    rate, base = len(prompts) / statistics.median(ours), len(prompts) / statistics.median(theirs)
    claims = [
        Claim("texts a second through the cache, of the model's own", rate / base, "", 0.9, at_most=False),
        Claim("all texts again, from the cache", statistics.median(again), "s", 1.0),
        Claim("through the cache", rate, "texts/s"),
        Claim("the model itself", base, "texts/s"),
    ]
    details = {"data": name, "texts": len(prompts), "ours_s": ours, "direct_s": theirs, "again_s": again}
    measure.finish("embed", claims, details, quick=arguments.quick)


if __name__ == "__main__":
    main()
