"""The linter refuses what counts the future, by name and by contents, and names what a template lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.data.histories import IntArray
from longtail.text.lint import Counts, lint
from longtail.text.prompts import open_template, template_names

RNG = np.random.default_rng(0)


def counts(items: int = 200) -> Counts:
    rates = RNG.lognormal(2, 1, size=items)
    train, held_out = (RNG.poisson(rates * share) for share in (0.8, 0.2))
    return Counts(train.astype(np.int64), held_out.astype(np.int64))


def found(text: pl.DataFrame, known: Counts | None = None, name: str = "generic") -> list[tuple[str, str]]:
    return [(one.level, one.text) for one in lint(open_template(name), name, text, known) if one.topic == "leaks"]


@pytest.mark.parametrize("name", template_names())
def test_the_packages_templates_pass_the_linter(name: str) -> None:
    assert [one.level for one in lint(open_template(name), name)] == ["ok"]


def test_a_template_that_counts_the_future_by_name_is_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'version = 1\nkind = "item"\ntext = "{a} {b}"\n'
        '[fields.a]\ncolumns = ["review_count"]\n[fields.c]\ncolumns = ["title"]\n[fields.d]\n'
    )
    findings = lint(open_template(str(path)), str(path))
    assert [one.level for one in findings] == ["error"] * 3 + ["warning"]
    told = " ".join(one.text for one in findings)
    assert "reads 'review_count', which counts the future" in told and "uses 'b' without" in told
    assert "has no columns for 'd'" in told and "declares 'c', 'd'" in told


def test_a_column_that_is_the_count_of_interactions_is_refused_whatever_its_name() -> None:
    known = counts()
    titles = [f"thing {row}" for row in range(200)]
    harmless = {"title": titles, "weight": RNG.normal(size=200)}
    assert found(pl.DataFrame(harmless), known) == []
    total: IntArray = known.train + known.held_out
    for shape in (
        total,
        known.train,
        total.astype(float) ** 2,
        [str(n) for n in total],
        [["x"] * int(n) for n in total],
    ):
        text = pl.DataFrame({**harmless, "size": shape}, strict=False)
        ((level, told),) = found(text, known)
        assert level == "error" and "'size'" in told and "follow" in told
        assert found(text) == []  # without interactions there is nothing to compare with
    noisy = total + RNG.normal(scale=12, size=200)
    ((level, _),) = found(pl.DataFrame({**harmless, "size": noisy}), Counts(total, np.zeros_like(total)))
    assert level == "warning"


def test_texts_that_count_and_columns_left_out_by_name_are_told() -> None:
    text = pl.DataFrame({"title": ["tea"] * 9, "badge": ["1,204 ratings"] * 9, "stars": [4.5] * 9})
    assert [level for level, _ in found(text)] == ["error", "note"]
    assert found(text, name="amazon")[0][0] == "note"  # which does not read the badge


def test_fields_the_table_has_nothing_for_are_named() -> None:
    text = pl.DataFrame({"Title": ["tea", None, None], "brand": ["x", "y", "z"]})
    told = {one.text: one.level for one in lint(open_template("amazon"), "amazon", text)}
    assert sum(level == "warning" for level in told.values()) == 3  # price, features, description; reviews are optional
    assert any("'name' reads 'Title', which 66.7% of the items lack: they say 'unknown'" in one for one in told)
