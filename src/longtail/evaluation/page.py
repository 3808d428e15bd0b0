"""The pieces of a report.html, escaped text, tables, figures and lists, and the page they stand on; no script.

Plain `str` is text and is escaped; `Html` is markup that these functions made.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple, NewType

Html = NewType("Html", str)
SAMPLED = (
    "Sampled candidates: the target is ranked among a few random items, not the whole catalogue. Such figures flatter "
    "every method and can reorder them; trust the full ranking where the two disagree."
)
ESTIMATED = (
    "Estimates, from ranks among sampled candidates, of the figures of the full ranking (Krichene and Rendle, "
    "2020). They are rough where candidates are few: the full ranking's own figures are what they should have been."
)


class Entry(NamedTuple):
    """One item of a list: what it is called, and what marks it."""

    text: str
    target: bool
    tail: bool


class Section(NamedTuple):
    """A part of the page under a heading."""

    title: str
    body: Html


def text(value: str) -> Html:
    """Text, escaped.

    >>> text("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return Html(escape(value))


def joined(parts: Sequence[Html]) -> Html:
    """Parts, one a line."""
    return Html("\n".join(parts))


def paragraph(value: str, css: str = "") -> Html:
    """A paragraph of text; css: a class of page.css."""
    return Html(f"<p{_css(css)}>{escape(value)}</p>")


def heading(value: str) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{escape(value)}</h3>")


def warning(value: str) -> Html:
    """Text that must not be overlooked."""
    return Html(f'<p class="warn" role="note"><strong>Warning.</strong> {escape(value)}</p>')


def details(summary: str, body: Html) -> Html:
    """Something folded away until it is asked for."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>")


def code(value: str) -> Html:
    """Lines as they are typed."""
    return Html(f"<pre><code>{escape(value)}</code></pre>")


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: bool = True,
    strong: Collection[tuple[int, int]] = (),
) -> Html:
    """A table with a caption in a box that scrolls by itself. The first cell of a row names it.

    numbers: cells are aligned right. strong: (row, column) of the cells in bold.
    """
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = []
    for at, (first, *rest) in enumerate(rows):
        cells = [
            f"<td><strong>{escape(cell)}</strong></td>" if (at, column) in strong else f"<td>{escape(cell)}</td>"
            for column, cell in enumerate(rest, start=1)
        ]
        lines.append(Html(f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>'))
    kind, label, body = _css("numbers" if numbers else ""), escape(caption), joined(lines)
    return Html(
        f'<div class="box" role="region" tabindex="0" aria-label="{label}"><table{kind}>\n'
        f"<caption><span>{label}</span></caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(name: str, svg: str, alt: str, caption: str, ink: str, note: Html | None = None) -> Html:
    """A drawing inside the page, with the page's colour of text in place of `ink`, and what it says in words.

    name: put before every id in the drawing, because drawings of one page use the same ones.
    """
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", drawing).replace(ink, "currentColor")
    drawing = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    # Its own size in points would be wider than a phone; the viewBox keeps the proportions.
    drawing = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    return Html(f"<figure>\n{drawing}\n<figcaption>{escape(caption)}</figcaption>\n{note or ''}</figure>")


def figures(drawn: Sequence[Html]) -> Html:
    """Figures beside each other where there is room."""
    return Html(f'<div class="figures">\n{joined(drawn)}\n</div>')


def entries(title: str, listed: Sequence[Entry]) -> Html:
    """A numbered list of items; the target and the tail items are marked by a word, not by colour alone."""
    lines = [
        f"<li{_css('target' if one.target else '')}>{escape(one.text)}{_mark('target') if one.target else ''}"
        f"{_mark('tail') if one.tail else ''}</li>"
        for one in listed
    ]
    inner = f"<ol>{''.join(lines)}</ol>" if lines else "<p>none</p>"
    return Html(f"<div><h4>{escape(title)}</h4>{inner}</div>")


def user(title: str, target: Entry, lists: Sequence[Html]) -> Html:
    """One user: what was bought next, and lists side by side."""
    goal = f'<p>Target: <span class="target">{escape(target.text)}</span>{_mark("tail") if target.tail else ""}</p>'
    body = joined(lists)
    return Html(
        f'<article class="user"><h3>{escape(title)}</h3>\n{goal}\n<div class="lists">\n{body}\n</div></article>'
    )


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    here = files(__package__)
    named = {f"part-{at}": section for at, section in enumerate(sections, start=1)}
    contents = [Html(f'<li><a href="#{name}">{escape(one.title)}</a></li>') for name, one in named.items()]
    body = [
        Html(f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(one.title)}</h2>\n{one.body}\n</section>')
        for name, one in named.items()
    ]
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        lead=escape(lead),
        style=(here / "page.css").read_text(encoding="utf-8"),
        contents=joined(contents),
        body=joined(body),
    )


def _css(name: str) -> str:
    return f' class="{name}"' if name else ""


def _mark(word: str) -> str:
    return f' <span class="mark">{word}</span>'
