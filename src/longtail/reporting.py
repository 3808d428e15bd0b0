"""report.html: what run folders hold, on one page that needs no network; and the page of a run just evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from longtail import pipeline, showcase
from longtail.config import build, flat
from longtail.data import groups as grouping
from longtail.data.groups import Groups, GroupsConfig
from longtail.errors import ConfigError, RunError
from longtail.evaluation import page, page_tables
from longtail.evaluation.fingerprint import same_protocol
from longtail.evaluation.page import SAMPLED, Html, Section
from longtail.evaluation.report import Report
from longtail.evaluation.stored import SPLITS, Case, Stored, cases, differing, read_stored, told
from longtail.files import atomic
from longtail.methods.base import TrainedMethod
from longtail.recommender import Recommender, load
from longtail.rerun import commands

GET_PLOTS = "This page has no figures: matplotlib is missing. Install it with: pip install 'longtail[plots]'"


class Finding(Protocol):
    """What was noticed about the data: how grave it is, what it concerns, and the text."""

    @property
    def level(self) -> str:
        """E.g. warning."""

    @property
    def topic(self) -> str:
        """What it is about."""

    @property
    def text(self) -> str:
        """What is so, and what to do."""


def report(run: Path, name: str = "test", settings: Iterable[str] = ()) -> Report:
    """Evaluate a run, and save the figures and their page in it."""
    made = pipeline.report(run, name, settings)
    write_page([run], run / "report.html", brief=True)
    return made


def write_page(runs: Sequence[Path], out: Path, *, findings: Sequence[Finding] = (), brief: bool = False) -> None:
    """Write the page of evaluated run folders to `out`, and its figures, as SVG and PNG, into figures/ beside it.

    Runs that differ in the seed alone are one case, with mean and deviation. Runs on other data, splits or groups get
    sections of their own; a RunError where only their protocols differ. findings: what the data doctor said. brief:
    only the three figures that cost a second or two.
    """
    stored = [_resolved(read_stored(run)) for run in dict.fromkeys(runs)]
    if not stored:
        raise RunError("no run folders were given; name one or more that 'longtail evaluate' has been run on")
    comparable: dict[str, list[Stored]] = {}
    for run in stored:
        comparable.setdefault(_ground(run), []).append(run)
    sections: list[Section] = []
    for alike in comparable.values():
        same_protocol([row for run in alike for row in run.judged])
    for at, alike in enumerate(comparable.values(), start=1):
        ending, told_by = ("", "") if len(comparable) == 1 else (f"-{at}", f": part {at}, {alike[0].data['name']}")
        made = _sections(cases(alike), out.parent / "figures", ending, brief)
        sections += [Section(f"{one.title}{told_by}", one.body) for one in made]
    if findings:
        sections.insert(1, Section("Findings about the data", _findings(findings)))
    names = ", ".join(dict.fromkeys(run.data["name"] for run in stored))
    lead = f"{len(stored)} {'run' if len(stored) == 1 else 'runs'} of longtail on {names}"
    title = f"Report: {names}" if len(stored) > 1 else f"Report: {stored[0].folder.resolve().name} on {names}"
    with atomic(out) as temporary:
        temporary.write_text(page.page(title, lead, sections), encoding="utf-8")


def _resolved(run: Stored) -> Stored:
    """The run with the settings that are younger than it, at their defaults, which leave what was as it was."""
    try:
        config = build(pipeline.RunConfig, pipeline.run_settings(run.folder), str(run.folder))
    except ConfigError:  # of a model fitted in Python, which knows no data, or of a setting that is no more
        return run
    return run._replace(settings=flat(config.model_dump(mode="json")))


def _ground(run: Stored) -> str:
    """What two runs must share for their figures to be set side by side: data, split, head and tail."""
    return json.dumps([run.data["hash"], run.data["split"], _groups_config(run).model_dump_json()])


def _sections(found: list[Case], folder: Path, ending: str, brief: bool) -> list[Section]:
    """All sections on runs that can be compared."""
    two = _two(found)
    models = {case.name: load(case.runs[0].folder) for case in two}
    first = models[two[0].name]
    assert first.known is not None
    by = grouping.groups(first.split, _groups_config(found[0].runs[0]), first.known.text)
    users = showcase.users(models, first.known, by)
    if len(found) > 2:
        note = f"Two of the {len(found)} cases: the first and the last, of those that are trained."
        users = page.joined([page.paragraph(note), users])
    return [
        Section("What was run", _facts(found, first)),
        Section("Results", page_tables.results(found)),
        Section("Intervals and tests", page_tables.compared(found)),
        Section("Figures", _figures(found, first, by, folder, ending, brief)),
        Section("Ten users", users),
    ]


def _two(found: list[Case]) -> tuple[Case, Case]:
    """The first and the last case of those that are trained, or of all where no two are."""
    trained = [case for case in found if "train.loss" in case.runs[0].settings]
    among = trained if len(trained) > 1 else found
    return among[0], among[-1]


def _groups_config(run: Stored) -> GroupsConfig:
    """Head and tail as the run has them."""
    mine = {key.removeprefix("groups."): value for key, value in run.settings.items() if key.startswith("groups.")}
    return build(GroupsConfig, mine, "groups")


def _facts(found: list[Case], model: Recommender) -> Html:
    """Data, versions and seeds; what differs between the cases, and what does not; how to make it all again."""
    runs, split = [run for case in found for run in case.runs], model.split
    rows = [
        ("data", runs[0].data["name"]),
        ("data hash (SHA-256)", runs[0].data["hash"]),
        ("users, tested", f"{split.train.users:,}, {np.count_nonzero(split.targets('test')):,}"),
        ("items", f"{split.items:,}"),
        ("training interactions", f"{len(split.train.items):,}"),
        ("runs", f"{len(runs)} in {len(found)} {'case' if len(found) == 1 else 'cases'}"),
        *((key, _distinct(run.versions.get(key, "-") for run in runs)) for key in runs[0].versions),
        ("threads", _distinct(str(run.threads) for run in runs)),
    ]
    seeds = [(case.name, ", ".join(str(run.seed) for run in case.runs)) for case in found]
    parts = [
        page.table("Facts", ("fact", "value"), rows, numbers=False),
        page.table("Seeds of each case", ("case", "seeds"), seeds, numbers=False),
    ]
    other = differing(found)
    if other:
        head = ("setting", *(case.name for case in found))
        parts.append(page.table("Settings that differ", head, [(k, *v) for k, v in other.items()], numbers=False))
    shared = [(key, told(value)) for key, value in runs[0].settings.items() if key not in {*other, "seed"}]
    alike = page.table("Settings that all cases share", ("setting", "value"), shared, numbers=False)
    lines = [line for run in runs for line in commands(run)]
    parts += [page.details("All other settings", alike), page.details("Commands", page.code("\n".join(lines)))]
    return page.joined(parts)


def _figures(found: list[Case], model: Recommender, by: Groups, folder: Path, ending: str, brief: bool) -> Html:
    """The figures of the first split that was evaluated, also saved as files."""
    if find_spec("matplotlib") is None:
        return page.warning(GET_PLOTS)
    from longtail.evaluation import drawn, plots

    runs = [run for case in found for run in case.runs]
    split = next((name for name in SPLITS if all((run.ranks["split"] == name).any() for run in runs)), None)
    if split is None:
        return page.paragraph("The runs were evaluated on different splits; evaluate all on 'test' for figures.")
    made = list(drawn.drawings(found, model.split, by, split, brief))
    if not brief and (vectors := _item_vectors(found[: plots.MOST])):
        made.append(drawn.item_map(vectors, model.split.train.counts(model.split.items)))
    parts = []
    for one in made:
        name, note = f"{one.stem}{ending}", page.warning(SAMPLED) if one.sampled else None
        svg = plots.save(one.figure, folder / name).read_text(encoding="utf-8")
        parts.append(page.figure(name, svg, one.alt, one.caption, plots.INK, note))
    if len(found) > plots.MOST:
        parts.insert(0, page.paragraph(f"Figures show the first {plots.MOST} of {len(found)} cases."))
    return page.figures(parts)


def _item_vectors(found: Sequence[Case]) -> dict[str, np.ndarray]:
    """The item vectors (I + 1, D) of the first run of each case that is trained: the others have none."""
    vectors = {}
    for case in found:
        method = load(case.runs[0].folder).method
        if isinstance(method, TrainedMethod):
            with torch.no_grad():
                vectors[case.name] = method.item_vectors().float().cpu().numpy()
    return vectors


def _findings(findings: Sequence[Finding]) -> Html:
    """What the data doctor said."""
    rows = [(one.topic, one.level, one.text) for one in findings]
    return page.table("Findings of the data doctor", ("topic", "level", "finding"), rows, numbers=False)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
