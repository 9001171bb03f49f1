"""The page as a person meets it, in a real Chromium: hostile rows, both colour schemes, a keyboard, a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from guard.report.report import report
from tests.browser.test_playground import CONTRAST
from tests.report.conftest import write
from tests.report.hostile import hostile_rows
from tests.report.test_found import scan


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = write(tmp_path_factory.mktemp("report") / "o.jsonl", [*hostile_rows(), *scan(300)])
    return report(out, watch=["acme", "<b>"]).page.as_uri()


@pytest.fixture
def opened(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page; afterwards: it has asked for nothing, nothing was refused, and nothing has run."""
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    seen: list[str] = []
    page.on("request", lambda one: seen.append(one.url))
    page.on("console", lambda one: seen.append(one.text))
    page.on("pageerror", lambda one: seen.append(str(one)))
    page.on("dialog", lambda one: seen.append(one.message))
    page.goto(address)
    yield page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.title() == "What the scan found"
    assert page.locator("h1").count() == 1 and page.locator("script, img, iframe, main b").count() == 0
    assert seen == [address]
    context.close()


SCHEMES = [{"color_scheme": "light"}, {"color_scheme": "dark"}]


@pytest.mark.parametrize("opened", SCHEMES, indirect=True)
def test_everything_can_be_read_in_both_colour_schemes(opened: Page):
    opened.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    contrast, whose = opened.evaluate(CONTRAST)
    assert contrast >= 4.5, whose


@pytest.mark.parametrize("opened", SCHEMES, indirect=True)
def test_charts_are_drawn_in_the_colours_of_the_scheme(opened: Page):
    paints = opened.evaluate(
        "[...document.querySelectorAll('.drawing *')].map(getComputedStyle).map(style => style.fill + style.stroke)"
    )
    stop = opened.evaluate("getComputedStyle(document.querySelector('.swatch.stop')).backgroundColor")
    assert any(stop in paint for paint in paints) and not any("rgb(10, 11" in paint for paint in paints)


@pytest.mark.parametrize("opened", [{"viewport": {"width": 360, "height": 700}}], indirect=True)
def test_a_phone_shows_it_without_scrolling_sideways(opened: Page):
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_texts_are_hidden_until_somebody_opens_them_with_the_keyboard(opened: Page):
    first = opened.locator("details.text").first
    assert not first.locator("pre").is_visible()
    first.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert first.locator("pre").is_visible()


def test_a_screen_reader_finds_names_for_everything(opened: Page):
    charts = opened.get_by_role("img")
    assert charts.count() >= 5 and all(one.get_attribute("aria-label") for one in charts.all())
    tables = opened.locator(".wide")
    assert tables.count() >= 5 and all(one.get_attribute("aria-label") for one in tables.all())
    assert opened.locator("th:not([scope])").count() == 0
    targets = opened.evaluate("[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash))")
    assert targets and all(targets)
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
