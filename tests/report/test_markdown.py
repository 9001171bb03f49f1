"""Words of others are one code span each, whatever is in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from guard.report.markdown import as_markdown
from guard.report.parts import Foreign, Hidden, Paragraph, Section, Table
from guard.report.rates import share
from tests.report.hostile import ATTACKS

READER = MarkdownIt("commonmark").enable("table")


def summary(word: str) -> str:
    table = Table("Names", ("name", "rows", "share"), ((Foreign(word), 1234, share(1, 50)),))
    hidden = Hidden(("0.9",), (), Foreign("a text"))
    return as_markdown("Found", [Foreign(word)], [Section(Foreign(word), "a", (Paragraph("Fine."), table, hidden))])


def tags(text: str) -> list[str]:
    found = []
    for token in READER.parse(text):
        found += [token.type, *(child.type for child in token.children or () if child.type != "text")]
    return found


@given(st.text() | st.sampled_from(ATTACKS))
def test_no_word_of_others_has_a_meaning(word: str):
    shown = tags(summary(word))
    assert [tag for tag in shown if tag != "code_inline"] == [
        tag for tag in tags(summary("ann")) if tag != "code_inline"
    ]
    assert shown.count("code_inline") in (0, 3)


def test_texts_are_in_the_page_alone():
    assert "a text" not in summary("ann") and "1 texts are shown in the page." in summary("ann")
    assert "| `ann` | 1,234 | 2.0 % (0.4–10.5) |" in summary("ann")


def test_what_a_name_cannot_show_stands_there_as_an_escape():
    assert "`a\\x60\\x7c\\n\\x1b\\u202e`" in summary("a`|\n\x1b\u202e")
