"""The page holds nothing that is loaded or run, and words of others are words."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from guard.report.page import as_html
from guard.report.parts import Foreign, Hidden, Numbers, Paragraph, Picture, Section, Table
from guard.report.plots import COLOURS, histogram
from guard.report.rates import share
from tests.report.hostile import ATTACKS

BARS = histogram({"allow": [5] * 20, "stopped": [1] * 20})


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def page(word: str) -> str:
    parts = (
        Paragraph("Fine."), Numbers((("Rows", 1234, ""),)),
        Table("Names", ("name", "rows", "share"), ((Foreign(word), 1, share(1, 50)), (Foreign(word), 1, share(0, 0)))),
        Picture(BARS, "Scores", (("calm", Foreign(word)),)),
        Hidden((Foreign(word),), (("id", Foreign(word)),), Foreign(word)),
    )  # fmt: skip
    return as_html("Found", [Foreign(word)], [Section(Foreign(word), "a", parts)])


def test_words_of_others_make_no_elements():
    plain = Elements(page("ann"))
    for attack in ATTACKS:
        found = Elements(page(attack))
        assert found.found == plain.found
        assert [name for name, _ in found.attributes] == [name for name, _ in plain.attributes]


def test_what_is_not_printable_stands_there_as_an_escape():
    words = Elements(page("\x1b[2J\u202e<b>")).words
    assert "\\x1b[2J\\u202e<b>" in words
    assert not set(words) & set("\x1b\u202e\x07\x00")


def test_lines_of_a_text_stay_lines_and_long_texts_are_cut():
    assert "\nfirst\nsecond\n" in Elements(page("\nfirst\nsecond\n")).words
    assert "(5,000 characters in all)" in page("a" * 5000)


def test_the_only_style_is_the_one_that_the_policy_allows_by_its_hash():
    html = page("ann")
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    names = {name for name, _ in Elements(html).attributes}
    assert not names & {"style", "src", "srcset", "background"} and not any(name.startswith("on") for name in names)
    links = [value or "" for name, value in Elements(html).attributes if name in ("href", "xlink:href")]
    assert links and all(link.startswith("#") for link in links)


def test_every_colour_of_a_chart_has_a_light_and_a_dark_value():
    html = page("ann")
    assert not any(colour in html for colour in COLOURS.values())
    for name in COLOURS:
        assert len(re.findall(rf"--{name}:#", html)) == 2, name


def test_the_same_content_gives_the_same_page():
    assert page("ann") == page("ann")
