"""The page at /, in a real Chromium, against `longtail serve` with two bundles."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.serve.page.conftest import Shop

sync_api = pytest.importorskip("playwright.sync_api")
MINUS = "\u2212"  # the sign of negative numbers
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (css) => { const [r, g, b] = rgba(css).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (one) => { for (; one; one = one.parentElement) {
    const css = getComputedStyle(one).backgroundColor; if (rgba(css)[3] === 255) return css; } return "white"; };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !one.checkVisibility() || one.closest(":disabled, fieldset:disabled, .unseen, .skip")) continue;
    const both = [light(getComputedStyle(one).color), light(ground(one))];
    found.push([(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), one.className || one.tagName, one.textContent]);
  }
  return found;
}"""


def _build(page: sync_api.Page, *words: str) -> None:
    """A history of the first item that each of `words` finds, by keyboard alone."""
    search = page.get_by_role("combobox", name="Search titles")
    for at, title in enumerate(words, start=1):
        search.focus()
        page.keyboard.type(title)
        page.locator("#found li").first.wait_for()
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#history li")).to_have_count(at)
    sync_api.expect(page.locator("#panes")).not_to_have_attribute("aria-busy", "true")
    page.locator("[data-item]").first.wait_for()


def _listed(page: sync_api.Page, pane: int = 0) -> list[str]:
    """Item ids of a list."""
    sync_api.expect(page.locator("#panes")).not_to_have_attribute("aria-busy", "true")
    rows = page.locator(".pane").nth(pane).locator("[data-item]")
    rows.first.wait_for()
    return [row.get_attribute("data-item") or "" for row in rows.all()]


def _slide(page: sync_api.Page, name: str, value: str) -> None:
    """Move a slider, and wait for the list."""
    with page.expect_response("**/recommend"):
        page.get_by_role("slider", name=name).fill(value)
    sync_api.expect(page.locator("#panes")).not_to_have_attribute("aria-busy", "true")


def test_search_build_recommend_add_and_compare(page: sync_api.Page) -> None:
    """The main path. The next shade of the circle comes next; an item added by text is recommended at once."""
    _build(page, "polish red", "polish rose", "polish coral")
    items = _listed(page)
    assert "i06" in items[:3] and not {"i00", "i02", "i04"} & set(items)
    page.get_by_text("A new item").click()
    page.get_by_label("Item id").fill("NEW-1")
    page.get_by_label("Title", exact=True).fill("Nail polish, crimson gloss")
    with page.expect_response(
        lambda answer: answer.request.method == "POST" and answer.url.endswith("/items")
    ) as added:
        page.get_by_role("button", name="Add the item").click()
    assert added.value.status == 201
    page.get_by_text("is recommendable").wait_for()
    page.get_by_label("Items", exact=True).select_option("20")
    new = page.locator(".pane [data-item='NEW-1']")
    sync_api.expect(new).to_contain_text("new")
    sync_api.expect(new).to_contain_text("never bought in training")
    assert page.locator("#added .near button").first.text_content().startswith("Nail polish")
    page.get_by_label("Compare with").select_option(label="plain")
    sync_api.expect(page.locator(".pane h3")).to_have_text(["longtail", "plain"])
    left, right = _listed(page, 0), _listed(page, 1)
    assert "NEW-1" in left and "NEW-1" not in right
    sync_api.expect(new).to_contain_text("only here")
    place = right.index(left[0]) + 1
    sync_api.expect(page.locator(".pane [data-item]").first).to_contain_text(f"also number {place}")


def test_the_search_box_is_worked_by_keys(page: sync_api.Page) -> None:
    search = page.get_by_role("combobox", name="Search titles")
    search.focus()
    page.keyboard.type("nail")
    options = page.locator("#found").get_by_role("option")
    options.first.wait_for()
    assert options.count() > 2 and search.get_attribute("aria-expanded") == "true"

    def chosen() -> int:
        (at,) = [at for at, one in enumerate(options.all()) if one.get_attribute("aria-selected") == "true"]
        assert options.nth(at).get_attribute("id") == search.get_attribute("aria-activedescendant")
        return at

    assert chosen() == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert chosen() == 2
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert chosen() == options.count() - 1  # round the end
    page.keyboard.press("Escape")
    assert options.count() == 0 and search.get_attribute("aria-expanded") == "false" and search.input_value() == "nail"
    page.keyboard.press("Escape")
    assert search.input_value() == ""
    page.keyboard.type("no such thing")
    page.get_by_text("Nothing is called “no such thing”").wait_for()


def test_a_history_is_reordered_and_shortened_and_the_focus_stays(page: sync_api.Page) -> None:
    _build(page, "polish red", "polish rose", "shampoo lemon")
    rows = page.locator("#history .name")
    page.get_by_role("button", name="Move Hair shampoo with lemon earlier").press("Enter")
    sync_api.expect(rows).to_have_text(["Nail polish, red gloss", "Hair shampoo with lemon", "Nail polish, rose gloss"])
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Move Hair shampoo with lemon earlier"
    page.keyboard.press("Enter")
    sync_api.expect(rows.first).to_have_text("Hair shampoo with lemon")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Move Hair shampoo with lemon later"
    with page.expect_request("**/recommend") as asked:
        page.get_by_role("button", name="Remove Hair shampoo with lemon").press("Enter")
    assert asked.value.post_data_json["history"] == ["i00", "i02"]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove Nail polish, red gloss"
    page.get_by_role("button", name="Start over").click()
    page.get_by_text("What comes next?").wait_for()


def test_reasons_are_drawn_and_sum_to_the_score(page: sync_api.Page) -> None:
    _build(page, "polish red", "polish rose")
    first = page.locator("[data-item]").first
    first.get_by_text("Why").click()
    parts = {row.text_content(): row for row in first.locator("dt").all()}
    assert list(parts) == ["collaborative", "semantic", "content", "score"]
    *values, total = [float((one.text_content() or "").replace(MINUS, "-")) for one in first.locator("dd").all()]
    assert sum(values) == pytest.approx(total, abs=0.002)
    assert first.locator(".score").text_content() == f"{total:.2f}".replace("-", MINUS)
    widths = [one.bounding_box()["width"] for one in first.locator(".bar i").all()]
    assert widths[0] == pytest.approx(abs(values[0]) / max(map(abs, values)) * max(widths), rel=0.05, abs=2)
    assert first.locator(".sentence").text_content().startswith("Because of “Nail polish")
    assert first.locator(".carried li").count() >= 1
    page.get_by_role("button", name="Move Nail polish, rose gloss earlier").click()
    again = page.locator(f"[data-item='{first.get_attribute('data-item')}'] details")
    sync_api.expect(again).to_have_attribute("open", "")  # what was open stays open


def test_sliders_ask_for_diversity_and_tail_and_can_be_reset(page: sync_api.Page) -> None:
    _build(page, "polish red", "shampoo lemon")
    plain = _listed(page)
    bodies: list[dict[str, object]] = []
    page.on("request", lambda one: bodies.append(one.post_data_json) if one.url.endswith("/recommend") else None)
    _slide(page, "Diversity", "0.9")
    assert bodies[-1]["diversity"] == 0.9 and bodies[-1]["reranker"] == "mmr" and "tail" not in bodies[-1]
    assert _listed(page) != plain
    with page.expect_response("**/recommend"):
        page.get_by_text("DPP").click()
    assert bodies[-1]["reranker"] == "dpp"
    _slide(page, "Tail", "0.6")
    assert bodies[-1]["tail"] == 0.6
    page.get_by_label("Compare with").select_option("plain list")
    sync_api.expect(page.locator(".pane h3")).to_have_text(["With the dials", "As trained"])
    assert _listed(page, 1) == plain
    page.get_by_role("button", name="Back to as trained").click()
    sync_api.expect(page.get_by_role("slider", name="Diversity")).to_have_value("0")
    assert _listed(page, 0) == plain


def test_an_address_brings_back_what_it_showed(page: sync_api.Page) -> None:
    _build(page, "polish red", "polish rose")
    _slide(page, "Diversity", "0.5")
    before = _listed(page)
    page.reload()
    sync_api.expect(page.locator("#history .name")).to_have_text(["Nail polish, red gloss", "Nail polish, rose gloss"])
    assert page.get_by_role("slider", name="Diversity").input_value() == "0.5" and _listed(page) == before


def test_a_user_is_looked_up_and_an_unknown_one_is_told(page: sync_api.Page) -> None:
    page.get_by_label("Or a known user").fill("nobody")
    page.get_by_role("button", name="Look up").click()
    page.get_by_role("alert").get_by_text("nobody").wait_for()
    page.get_by_label("Or a known user").fill("u007")
    with page.expect_request("**/recommend") as asked:
        page.get_by_role("button", name="Look up").click()
    assert asked.value.post_data_json["user"] == "u007"
    page.get_by_text("User u007:").wait_for()
    assert page.get_by_role("alert").count() == 0 and page.locator("#history li").count() >= 4


def test_a_server_that_fails_is_told_and_asked_again(page: sync_api.Page) -> None:
    _build(page, "polish red")
    page.route("**/recommend", lambda route: route.abort())
    page.get_by_label("Items", exact=True).select_option("5")
    page.get_by_role("alert").get_by_text("The server does not answer").wait_for()
    page.unroute("**/recommend")
    page.get_by_role("button", name="Try again").click()
    assert len(_listed(page)) == 5


@pytest.mark.parametrize(
    "page", [(width, scheme) for width in (390, 1440) for scheme in ("light", "dark")], indirect=True
)
def test_everything_fits_its_window_and_can_be_read(page: sync_api.Page) -> None:
    """Nothing scrolls sideways, text has the contrast of WCAG AA, and what is pressed is 24 pixels at least."""
    _build(page, "polish red", "polish rose", "shampoo lemon")
    page.locator("[data-item]").first.get_by_text("Why").click()
    _slide(page, "Diversity", "0.5")
    page.get_by_text("A new item").click()
    page.get_by_label("Compare with").select_option(label="plain")
    sync_api.expect(page.locator(".pane")).to_have_count(2)
    _listed(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && one.checkVisibility()).map((one) => one.outerHTML.slice(0, 90))"
    )
    assert not wide
    poor = [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5]
    assert not poor
    small = [
        one.text_content()
        for one in page.locator("button:visible, select:visible, input:visible:not([type=radio])").all()
        if one.bounding_box()["height"] < 24
    ]
    assert not small
    boxes = [one.bounding_box() for one in page.locator(".pane").all()]
    beside = all(one["y"] == other["y"] for one, other in pairwise(boxes))
    assert beside == (page.viewport_size["width"] == 1440)


def test_the_page_allows_no_script_but_its_own(shop: Shop) -> None:
    page = shop.browser.new_page()
    answer = page.goto(f"{shop.url}/")
    assert answer is not None and "default-src 'self'" in answer.headers["content-security-policy"]
    text = answer.text()
    assert "<style" not in text and " style=" not in text and "://" not in text and "onclick" not in text
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<i id=bad style=\"color:red\"></i>')")
    assert page.evaluate("document.getElementById('bad').style.length") == 0
    page.close()
