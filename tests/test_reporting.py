"""report.html of two tiny real runs: sound, safe, self-contained, the same on every call, and true to the run folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from longtail import pipeline, reporting, rerun, showcase
from longtail.cli import app
from longtail.data.groups import groups
from longtail.data.histories import from_lists
from longtail.data.split import leave_one_out
from longtail.errors import RunError
from longtail.evaluation import page
from longtail.evaluation.metrics import hr
from longtail.evaluation.stored import cases, differing, read_stored, spread, sweeps
from longtail.recommender import load
from tests import chromium
from tests.conftest import catalogue, walks

HOSTILE = "<script>alert(1)</script> & 'co' \"x\""
VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Plain with two seeds and three dropouts, evaluated; one item has a hostile title."""
    folder = tmp_path_factory.mktemp("report")
    walks().write_csv(folder / "log.csv")
    titles = catalogue().with_columns(
        title=pl.when(pl.col("item_id") == "i04").then(pl.lit(HOSTILE)).otherwise("title")
    )
    titles.write_csv(folder / "items.csv")
    made = []
    for dropout in (0.1, 0.3, 0.5):
        for seed in (1, 2) if dropout == 0.1 else (1,):
            settings = [
                f"data.interactions={folder / 'log.csv'}", f"data.items={folder / 'items.csv'}", "method.name=plain",
                f"backbone.dropout={dropout}", "backbone.d=8", "backbone.max_len=8", "train.epochs=2",
                "train.batch_size=32", "train.loss=softmax", "protocol.sampled=5", f"seed={seed}",
            ]  # fmt: skip
            run = folder / f"drop{int(10 * dropout)}-{seed}"
            pipeline.fit(pipeline.run_config(None, settings), run)
            pipeline.report(run)
            made.append(run)
    return made


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> str:
    """The page of all of them."""
    out = runs[0].parent / "out" / "report.html"
    done = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(out)])
    assert done.exit_code == 0 and str(out) in done.stdout
    return out.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects tags with their attributes, and complains of any that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def _read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_needs_nothing_but_itself(html: str) -> None:
    reader = _read(html)
    tags = [tag for tag, _ in reader.tags]
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(tags)
    assert "http:" not in html and "https:" not in html and "@import" not in html and " on" + "load=" not in html
    for _, attributes in reader.tags:
        for name in {"src", "href", "xlink:href"} & attributes.keys():
            assert str(attributes[name]).startswith(("#", "data:image/png;base64,")), attributes[name]
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {
        str(value)[1:]
        for _, one in reader.tags
        for key, value in one.items()
        if key in {"href", "xlink:href"} and str(value).startswith("#")
    }
    assert used <= set(ids) and len(used) > 30
    assert reader.tags[0][0] == "html" and reader.tags[0][1]["lang"] == "en" and tags.count("h1") == 1


def test_figures_have_words_and_tables_have_captions_and_headers(html: str) -> None:
    reader = _read(html)
    drawn = [attributes for tag, attributes in reader.tags if tag == "svg"]
    tags = [tag for tag, _ in reader.tags]
    # long tails, two metrics full and sampled, the sweep of dropout twice, training, the map of items
    assert len(drawn) == tags.count("figure") == tags.count("figcaption") == 1 + 4 + 2 + 1 + 1
    assert all(one["role"] == "img" and len(str(one["aria-label"])) > 40 for one in drawn)
    assert tags.count("table") == tags.count("caption") > 5
    scopes = [attributes.get("scope") for tag, attributes in reader.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_sampled_figure_and_table_stands_beside_a_warning(html: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL)
    sampled = ["sampled candidates" in re.findall(r"<figcaption>(.*?)</figcaption>", one)[0] for one in figures]
    assert sum(sampled) == 2
    assert [page.SAMPLED in one for one in figures] == sampled
    heading = html.index("<h3>test: 5 sampled candidates</h3>")
    assert html.index(page.SAMPLED) < html.index("<table", heading) and html.index(page.SAMPLED) > heading


def test_a_hostile_title_is_text(html: str) -> None:
    assert "<script" not in html and "alert(1)&lt;/script&gt;" in html
    assert HOSTILE in "".join(_read(html).said)


def test_the_tables_hold_the_means_of_the_run_folders(runs: list[Path], html: str) -> None:
    values = [
        row["value"]
        for run in runs[:2]
        for row in json.loads((run / "metrics.json").read_text())["figures"]
        if (row["protocol"], row["group"], row["metric"]) == ("full", "tail_items", "ndcg@10")
    ]
    mean, sd = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    assert f"{mean:.4f} ± {sd:.4f}" in html
    assert "where a case has one seed, a difference may be chance" in html
    rows = spread(cases(map(read_stored, runs)))
    assert set(rows["case"]) == {"drop1", "drop3", "drop5"}
    assert rows.filter(pl.col("case") == "drop1")["seeds"].unique().to_list() == [2]
    assert rows.filter(pl.col("case") == "drop3")["sd"].null_count() == len(rows.filter(pl.col("case") == "drop3"))


def test_a_run_given_twice_counts_once(runs: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "drop1-1"))
    (one,) = cases([read_stored(runs[0]), read_stored(copy), read_stored(runs[1])])
    (both,) = cases([read_stored(runs[0]), read_stored(runs[1])])
    assert spread([one]).equals(spread([both]))


def test_figures_show_what_the_run_folders_say(runs: list[Path]) -> None:
    pytest.importorskip("matplotlib")
    from longtail.evaluation import drawn

    found, split = cases(map(read_stored, runs)), load(runs[0]).split
    by = groups(split)
    made = {one.stem: one for one in drawn.drawings(found, split, by, "test")}
    assert list(made) == [
        "long-tails", "groups-hr", "groups-ndcg", "groups-hr-sampled5", "groups-ndcg-sampled5",
        "sweep-backbone-dropout-hr", "sweep-backbone-dropout-ndcg", "training",
    ]  # fmt: skip
    assert [one.sampled for one in made.values()] == [False, False, False, True, True, False, False, False]
    ranks = [pl.read_parquet(run / "ranks.parquet") for run in runs[:2]]
    few = split.train.lengths[ranks[0]["user"].to_numpy()] < 5
    means = [hr(one["full"].to_numpy()[few], 10).mean() for one in ranks]
    axes = made["groups-hr"].figure.axes[0]
    assert axes.containers[0][0].get_height() == pytest.approx(np.mean(means))
    low, high = axes.containers[1].lines[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(np.std(means, ddof=1))
    swept = made["sweep-backbone-dropout-ndcg"].figure.axes[0].containers[0].lines[0]
    assert swept.get_xdata().tolist() == [0.1, 0.3, 0.5]
    stored = json.loads((runs[3] / "metrics.json").read_text())["figures"]
    last = [
        row["value"] for row in stored if (row["protocol"], row["group"], row["metric"]) == ("full", "all", "ndcg@10")
    ]
    assert swept.get_ydata()[2] == last[0]
    log = [json.loads(line) for line in (runs[2] / "log.jsonl").read_text().splitlines()]
    upper, lower = made["training"].figure.axes
    assert upper.lines[1].get_ydata().tolist() == [line["ndcg@10"] for line in log]
    assert lower.lines[1].get_ydata().tolist() == [line["rank"] for line in log]
    counts = made["long-tails"].figure.axes[1].lines[0].get_ydata()  # users above, items below
    assert counts.tolist() == sorted(split.train.counts(split.items)[1:].tolist(), reverse=True)
    assert f"{means[0] / 2 + means[1] / 2:.4f}" in made["groups-hr"].alt


def test_figures_are_also_files(runs: list[Path], html: str) -> None:
    files = {path.name for path in (runs[0].parent / "out" / "figures").iterdir()}
    assert len(files) == 18 and {"long-tails.svg", "long-tails.png", "item-vectors.svg", "training.png"} <= files


def test_the_ten_users_follow_the_rule_and_are_the_same_on_every_call(runs: list[Path], html: str) -> None:
    split = load(runs[0]).split
    head = groups(split).head_users
    picked = showcase.chosen(split, head)
    slow = sorted((int(user) * int(showcase.MULTIPLIER) % 2**64, int(user)) for user in np.flatnonzero(split.test))
    assert (
        picked.tolist()
        == [user for _, user in slow if not head[user]][:5] + [user for _, user in slow if head[user]][:5]
    )
    assert html.count('<article class="user">') == 10 and str(int(showcase.MULTIPLIER)) in html
    again = runs[0].parent / "again" / "report.html"
    reporting.write_page(runs, again, brief=True)
    users = [text[text.index('<article class="user">') :] for text in (html, again.read_text(encoding="utf-8"))]
    assert users[0] == users[1]


def test_each_user_is_shown_with_history_target_and_what_both_models_recommend(runs: list[Path], html: str) -> None:
    models = [load(runs[0]), load(runs[-1])]
    split, known = models[0].split, models[0].known
    assert known is not None
    by = groups(split)
    user = int(showcase.chosen(split, by.head_users)[0])
    card = re.findall(r'<article class="user">.*?</article>', html, flags=re.DOTALL)[0]
    lists = [re.findall(r"<li.*?</li>", one) for one in re.findall(r"<ol>.*?</ol>", card)]
    seen, target = split.history("test").of(user), int(split.test[user])
    expected = [seen[-showcase.LATEST :].tolist()]
    for model in models:
        frame = model.recommend(histories=[known.items.external(seen)], k=10)
        expected.append(known.items.internal(frame["item"]).tolist())
    for items, lines in zip(expected, lists, strict=True):
        assert len(items) == len(lines)
        for item, line in zip(items, lines, strict=True):
            assert page.text(known.text["title"][item - 1]) in line
            assert ('class="target"' in line) == (item == target)
            assert (">tail</span>" in line) == (not by.head_items[item])
    assert target not in seen


def test_a_page_with_fewer_users_than_ten_shows_them_all() -> None:
    split = leave_one_out(from_lists([[1, 2, 3, 4], [2, 3, 4], [4]]), 4)
    assert sorted(showcase.chosen(split, np.array([False, True, False, False])).tolist()) == [1, 2]


def test_settings_that_differ_and_sweeps_are_found(runs: list[Path]) -> None:
    found = cases(map(read_stored, runs))
    assert differing(found) == {"backbone.dropout": ["0.1", "0.3", "0.5"]}
    (swept,) = sweeps(found)
    assert swept.setting == "backbone.dropout" and swept.values == [0.1, 0.3, 0.5]
    assert sweeps(found[:2]) == []


def test_the_commands_on_the_page_give_the_same_settings(runs: list[Path]) -> None:
    import shlex

    fit, evaluate = (shlex.split(line) for line in rerun.commands(read_stored(runs[2])))
    flags = {"--data": "data.interactions", "--method": "method.name", "--backbone": "backbone.name"}
    pairs = list(zip(fit[2::2], fit[3::2], strict=True))
    given = [
        value if flag == "--set" else f"{flags[flag]}={json.dumps(value)}" for flag, value in pairs if flag != "--out"
    ]
    assert (
        pipeline.run_config(None, given).model_dump()
        == pipeline.build(pipeline.RunConfig, pipeline.run_settings(runs[2])).model_dump()
    )
    assert evaluate == ["longtail", "evaluate", str(runs[2])]


def test_a_run_that_was_not_evaluated_is_a_clear_error(runs: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    (copy / "metrics.json").unlink()
    with pytest.raises(RunError, match="longtail evaluate"):
        reporting.write_page([copy], tmp_path / "report.html")
    with pytest.raises(RunError, match="no run folders"):
        reporting.write_page([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_evaluating_a_run_writes_its_page_and_runs_on_other_data_get_sections_of_their_own(
    runs: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    walks(seed=5).write_csv(tmp_path / "log.csv")
    settings = [f"data.interactions={tmp_path / 'log.csv'}", "method.name=plain", "backbone.d=8", "train.epochs=1"]
    pipeline.fit(pipeline.run_config(None, settings), other)
    pipeline.report(other, "valid", ["protocol.sampled=0"])
    reporting.report(other, "test", ["protocol.sampled=0"])
    one = (other / "report.html").read_text(encoding="utf-8")
    _read(one)
    assert "Validation" in one and "MRR@20" in one and page.SAMPLED not in one and "--set protocol.sampled=0" in one
    assert {"long-tails.svg", "groups-hr.svg", "training.svg"} <= {path.name for path in (other / "figures").iterdir()}
    reporting.write_page([runs[0], other], tmp_path / "both.html", brief=True)
    both = (tmp_path / "both.html").read_text(encoding="utf-8")
    _read(both)
    assert "Results: part 1, log" in both and "Results: part 2, log" in both
    assert (tmp_path / "figures" / "long-tails-2.svg").exists()


def test_runs_of_different_protocols_are_not_put_on_one_page(runs: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    pipeline.report(other, "test", ["protocol.seen=allow"])
    with pytest.raises(
        RunError, match=r"other were not evaluated under the same protocol: .*seen: exclude against allow"
    ):
        reporting.write_page([runs[0], other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@dataclass(frozen=True)
class Found:
    """As the data doctor says it."""

    level: str
    topic: str
    text: str


def test_findings_about_the_data_are_shown_and_a_run_made_in_python_has_no_command(
    runs: list[Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    (copy / "run.json").unlink()
    found = [Found("warning", "repeats", "every <tenth> interaction repeats the one before")]
    reporting.write_page([copy], tmp_path / "report.html", findings=found, brief=True)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "every &lt;tenth&gt; interaction" in html and "Findings about the data" in html
    assert "was trained from Python" in html


def test_without_matplotlib_the_page_has_tables_and_says_what_to_install(runs: list[Path], tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'matplotlib' else find(name, package)\n"
        "from pathlib import Path; from longtail import reporting\n"
        f"print(reporting.report(Path({str(runs[0])!r}), 'valid').value('hr@10'))"
    )
    copy = Path(shutil.copytree(runs[0], tmp_path / "copy"))
    done = subprocess.run(
        [sys.executable, "-c", script.replace(str(runs[0]), str(copy))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    html = (copy / "report.html").read_text(encoding="utf-8")
    assert "pip install &#x27;longtail[plots]&#x27;" in html and "<svg" not in html and "HR@10" in html


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(html: str, width: int, tmp_path: Path) -> None:
    """Laid out by a real browser, in a frame of that width: a window of Chromium's is never narrower than 500."""
    browser = chromium.executable()
    if browser is None:
        pytest.skip(chromium.MISSING)
    ask = "parent.document.title=[innerWidth,document.documentElement.scrollWidth].join(' ')"
    inner = html.replace("</body>", f"<script>addEventListener('load',()=>{{{ask}}})</script></body>")
    frame = f'<iframe style="width:{width}px;height:2000px;border:0" srcdoc="{page.text(inner)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>none</title>{frame}", encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,2100", (tmp_path / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout[:400])
    inside, content = map(int, title.split())
    assert inside == width and content <= width
