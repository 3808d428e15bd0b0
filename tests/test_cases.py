"""The grid of an experiment file: which cases it makes, how they are named, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.cases import UNSAFE, read_cases
from longtail.errors import ConfigError
from longtail.pipeline import run_config

GRID = """
seeds = [1, 2]
[train]
epochs = 3
[datasets.small]
data = { interactions = "small.csv" }
[datasets.big]
data = { interactions = "more/big.csv", min_user = 5 }
[backbones.sasrec]
backbone = { name = "sasrec", d = 8 }
[methods.plain]
method = { name = "plain" }
[methods.llmesr]
method = { name = "llmesr" }
train = { epochs = 9 }
"""


def _read(tmp_path: Path, text: str) -> dict[str, dict[str, object]]:
    (tmp_path / "plan.toml").write_text(text)
    return dict(read_cases(tmp_path / "plan.toml").cases)


def test_a_grid_is_every_combination_each_laid_over_the_rest(tmp_path: Path) -> None:
    cases = _read(tmp_path, GRID)
    assert list(cases) == [f"{data}-sasrec-{method}" for data in ("small", "big") for method in ("plain", "llmesr")]
    last = run_config(tmp_path / "plan.toml", case="big-sasrec-llmesr")
    assert (last.train.epochs, last.backbone.d, last.data.min_user) == (9, 8, 5)
    assert last.data.interactions == str(tmp_path / "more" / "big.csv")
    first = run_config(tmp_path / "plan.toml", ["train.epochs=1"], case="small-sasrec-plain")
    assert (first.train.epochs, first.method.name, first.data.min_user) == (1, "plain", 0)


def test_settings_and_sweep_vary_the_base_one_at_a_time(tmp_path: Path) -> None:
    more = """
    [settings.no_fusion]
    only = ["*-llmesr"]
    method = { fusion = "none" }
    [sweep]
    "method.alpha" = [1.0, 0.01]
    "neighbors.k" = [2]
    only = ["big-*-llmesr"]
    """
    cases = _read(tmp_path, GRID + more)
    base = [f"{data}-sasrec-{method}" for data in ("small", "big") for method in ("plain", "llmesr")]
    varied = [f"{data}-sasrec-llmesr-no_fusion" for data in ("small", "big")]
    swept = [f"big-sasrec-llmesr-{point}" for point in ("method.alpha=1.0", "method.alpha=0.01", "neighbors.k=2")]
    assert list(cases) == base + varied + swept
    assert run_config(tmp_path / "plan.toml", case=swept[1]).method.model_dump()["alpha"] == 0.01
    assert run_config(tmp_path / "plan.toml", case=swept[2]).neighbors.k == 2


def test_a_product_is_all_combinations_and_exclude_takes_cases_away(tmp_path: Path) -> None:
    sweep = (
        '[data]\ninteractions = "x.csv"\n[sweep]\nproduct = true\n"train.lr" = [0.1, 0.2]\n"backbone.d" = [8, 16, 32]\n'
    )
    assert list(_read(tmp_path, sweep)) == [f"train.lr={lr}-backbone.d={d}" for lr in (0.1, 0.2) for d in (8, 16, 32)]
    assert "base" in _read(tmp_path, sweep.replace("product = true", ""))
    fewer = _read(tmp_path, 'exclude = ["*=0.1-*", "*-backbone.d=8"]\n' + sweep)
    assert list(fewer) == ["train.lr=0.2-backbone.d=16", "train.lr=0.2-backbone.d=32"]


def test_cases_written_out_stand_beside_a_grid(tmp_path: Path) -> None:
    cases = _read(tmp_path, GRID + "[cases.mine]\ntrain = { epochs = 2 }\n")
    assert next(iter(cases)) == "mine" and len(cases) == 5


def test_files_named_in_a_config_lie_beside_it(tmp_path: Path) -> None:
    cases = _read(
        tmp_path,
        """
        [cases.mine]
        data = { interactions = "log.csv" }
        text = { model = "file:items.parquet", item_template = "prompts/short.toml", user_template = "visited" }
        """,
    )
    text = cases["mine"]["text"]
    assert cases["mine"]["data"] == {"interactions": str(tmp_path / "log.csv")} and isinstance(text, dict)
    assert text["model"] == f"file:{tmp_path / 'items.parquet'}"
    assert text["item_template"] == str(tmp_path / "prompts/short.toml") and text["user_template"] == "visited"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[methods.a]\n[settings.b]\n[methods.a-b]\n", "two cases are named 'a-b'"),
        ("[methods.a]\n[methods.A]\n", "two cases are named 'A'"),  # one folder where the case of letters is not kept
        ('[methods."a/b"]\n', "to name a folder"),
        ('[methods."../b"]\n', "to name a folder"),
        ('[methods.a]\nonly = ["sas"]\n', "matches none of the cases so far"),
        ('[methods.a]\nonly = "sas"\n', "is not a list of names"),
        ('exclude = ["b"]\n[methods.a]\n', "which no case matches"),
        ('[sweep]\n"train.lr" = 0.1\n', '"train.lr" = [...]'),
        ('[sweep]\nproduct = 1\n"train.lr" = [0.1]\n', "neither true nor false"),
        ("methods = 3\n", "methods are tables"),
        ("seeds = 3\n", "not a list of whole numbers"),
        ("search = 3\n", "search = 3 is not a table"),
    ],
)
def test_a_grid_that_cannot_be_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        _read(tmp_path, text)
    assert message in str(told.value)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=2, max_size=5, unique=True
    )
)
def test_no_two_values_of_a_sweep_share_a_folder(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    quoted = ", ".join(json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for value in values)
    try:
        cases = _read(folder, f'[sweep]\nproduct = true\n"text.model" = [{quoted}]\n')
    except ConfigError as error:
        assert "two cases" in str(error) or "to name a folder" in str(error)
    else:
        assert len(cases) == len(values) and not any(UNSAFE.search(case) for case in cases)
