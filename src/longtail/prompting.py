"""`longtail prompts`: what a run's text encoder will read, and what is wrong with a template."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from longtail.data.dataset import Dataset
from longtail.data.findings import Finding
from longtail.data.opening import open_data
from longtail.data.tables import read_table
from longtail.pipeline import RunConfig
from longtail.text.lint import Counts, lint
from longtail.text.prompts import item_prompts, open_template, user_prompts
from longtail.text.reviews import with_reviews
from longtail.text.tokens import Counted, count, max_chars


class Shown(NamedTuple):
    """rows: id, tokens, cut, prompt of those asked for. empty: prompts without text, of all; counted: of all."""

    rows: pl.DataFrame
    empty: int
    counted: Counted


def show(config: RunConfig, *, users: bool = False, ids: list[str] | None = None, k: int = 3) -> Shown:
    """Prompts of the items or users with these ids, or else of the first k that have text; counts are over all."""
    data = open_data(config.data)
    split, text = data.split(config.split), config.text
    if users:
        model, known = text.user_model or text.model, data.users
        prompts = user_prompts(split.train, data.text, text.user_template, max_chars=max_chars(model))
    else:
        model, known = text.model, data.items
        prompts = item_prompts(with_reviews(data, split, text.reviews, text.item_template).text, text.item_template)
    counted = count(prompts, model)
    rows = known.internal(ids) - 1 if ids else np.array([row for row, prompt in enumerate(prompts) if prompt][:k], int)
    frame = pl.DataFrame(
        {
            "id": known.ids.gather(rows),
            "tokens": counted.tokens[rows],
            "cut": counted.cut[rows],
            "prompt": [prompts[row] for row in rows],
        }
    )
    return Shown(frame, sum(not prompt for prompt in prompts), counted)


def summary(shown: Shown) -> list[str]:
    """Lengths of all prompts, how many are cut and how many empty, a sentence each."""
    tokens, cut, window, by = shown.counted
    some_text = tokens[tokens > 0]
    if not len(some_text):
        return [f"none of the {len(tokens):,} prompts has text"]
    way = (
        f"by the tokenizer of {by}"
        if by
        else "estimated at 3.1 characters a token: the model's tokenizer is not at hand"
    )
    middle, most = np.percentile(some_text, (50, 95))
    lengths = f"{middle:.0f} tokens in the middle, 95% up to {most:.0f}, {some_text.max():,} at most"
    said = [f"{len(some_text):,} prompts: {lengths} ({way})"]
    if window is None:
        said.append("the model's window is not known")
    elif cut.any():
        said.append(
            f"{cut.sum():,} of them ({cut.sum() / len(some_text):.1%}) pass its window of {window:,} tokens: what is "
            "beyond is not read; put first what matters, or crop fields (chars = … in the template; generic_short, …)"
        )
    else:
        said.append(f"all fit its window of {window:,} tokens")
    if shown.empty:
        said.append(f"{shown.empty:,} have no text")
    return said


def check(template: str, items: str | None = None, data: Dataset | None = None) -> list[Finding]:
    """`lint` of a template: on the items of a data set, with their counts; else on a table of items; else alone."""
    shape = open_template(template)
    if data is None:
        return lint(shape, template, None if items is None else read_table(items))
    split = data.leave_one_out()
    train, every = split.train.counts(split.items)[1:], split.everything().counts(split.items)[1:]
    return lint(shape, template, data.text, Counts(train, every - train))
