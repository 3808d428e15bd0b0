"""What the README and the docs say runs, and the figures they show are the ones that are stored."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from longtail.cli import app
from longtail.pipeline import read_cases, resolve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands(page: Path) -> list[list[str]]:
    """Every `longtail ...` line of a page's code blocks."""
    lines = re.findall(r"^(?: {4}|\t)?(longtail [^\n#`]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def test_every_command_in_the_docs_exists_with_its_options() -> None:
    verbs = get_command(app).commands
    found = [words for page in PAGES for words in _commands(page)]
    assert len(found) >= 6
    for verb, *rest in found:
        command = verbs[verb]
        if inner := getattr(command, "commands", None):  # a verb of verbs, such as prompts
            verb, *rest = rest  # noqa: PLW2901
            command = inner[verb]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in rest if word.startswith("-")}
        assert used <= known, f"longtail {verb} has no {used - known}"


def test_every_prepare_of_samples_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [words for page in PAGES for words in _commands(page) if "tests/data/samples" in " ".join(words)]
    assert len(found) >= 6
    for place, words in enumerate(found):
        out = words.index("--out") + 1
        app([*words[:out], str(tmp_path / str(place)), *words[out + 1 :]], standalone_mode=False)
        assert (tmp_path / str(place) / "dataset.json").exists(), words


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE)) <= targets


def test_every_link_and_path_in_the_docs_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for path in re.findall(r"^ {4}((?:src|docs|runs|tests|benchmarks)/[\w/.]*)", README, flags=re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_every_experiment_file_is_valid() -> None:
    for path in sorted((ROOT / "runs").glob("*.toml")):
        plan = read_cases(path)
        for case in [*([None] if "data" in plan.base else []), *plan.cases]:
            resolve(plan, path, case=case)


def test_the_pages_on_speed_and_re_ranking_are_made_of_the_stored_results() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for source, made in module.PAGES.items():
        assert (module.DOCS / made).read_text(encoding="utf-8") == module.page(source)
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert {path.stem for path in results} >= set(module.SECTIONS)
    for path in results:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert (ROOT / "benchmarks" / f"{found['script']}.py").exists()
        for claim in found["claims"]:
            assert {"name", "value", "unit", "target", "holds"} <= set(claim)


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("beauty.json", "results.md"),
        ("classical.json", "results.md"),
        ("methods.json", "results.md"),
        ("ablations.json", "results.md"),
        ("beyond.json", "beyond.md"),
    ],
)
def test_the_tables_in_the_docs_are_the_stored_figures(name: str, page: str) -> None:
    """Each row of a page is the mean over seeds of the rows of its JSON file."""
    stored = json.loads((ROOT / "docs" / "results" / name).read_text())
    table = (ROOT / "docs" / page).read_text()
    for case in {row["case"] for row in stored}:
        for protocol in ("full", "sampled100"):
            values = [
                row["value"]
                for row in stored
                if (row["case"], row["protocol"], row["group"], row["metric"]) == (case, protocol, "all", "ndcg@10")
            ]
            assert f"{sum(values) / len(values):.4f}" in table, (case, protocol)


@pytest.mark.slow
def test_the_readme_example_runs_as_written(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NDCG@10" in done.stdout and (tmp_path / "runs" / "retail" / "model.safetensors").exists()
