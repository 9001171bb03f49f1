"""Forum markup reduced to the text that a reader sees, with the quotes taken out, so that the quoter is not blamed.

The one rule: nothing that a user typed outside a quote vanishes from `own`. Where a post can be read in two ways (a
quote that is never closed, a line that follows a quote without its `>`), the text counts as the user's own.
"""

from __future__ import annotations

from enum import StrEnum

from guard.scan.markup.bbcode import read_bbcode
from guard.scan.markup.html import read_html
from guard.scan.markup.markdown import read_markdown
from guard.scan.markup.pieces import Reduced

__all__ = ["Markup", "Reduced", "reduce"]


class Markup(StrEnum):
    """How the posts of a forum are written. `none`: plain text, in which a `>` is a character like any other."""

    NONE = "none"
    MARKDOWN = "markdown"
    BBCODE = "bbcode"
    HTML = "html"


def reduce(text: str, markup: Markup) -> Reduced:
    """What a reader sees of `text`. Never raises; the time grows with the length of the text, whatever is in it.

    Quotes can be harmful too, above all invented ones: judge `quoted` as what the post replies to.

    >>> reduce("> you are *all* wrong\\n\\nNo, see [this](http://example.org)", Markup.MARKDOWN)
    Reduced(own='No, see this (http://example.org)', quoted=('you are all wrong',))
    """
    match markup:
        case Markup.NONE:
            return Reduced(text, ())
        case Markup.MARKDOWN:
            return read_markdown(text)
        case Markup.BBCODE:
            return read_bbcode(text)
        case Markup.HTML:
            return read_html(text)
