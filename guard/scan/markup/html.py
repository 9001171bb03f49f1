"""HTML, as forums export it.

The one rule: a tag never ends later than a browser would end it, so that what a reader sees is never taken for a part
of a tag. What is not HTML's (`<3`, `<you lot>`) stands as it was typed. There is a tokenizer here since the standard
library's needs quadratic time for unfinished tags in many a Python that we run on, and loses text at the end.
"""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

from guard.scan.markup.pieces import Pieces, Reduced

BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog", "div",
    "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head",
    "header", "hgroup", "hr", "html", "legend", "li", "main", "menu", "nav", "ol", "optgroup", "option", "p", "pre",
    "search", "section", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul",
}  # fmt: skip
ELEMENTS = BLOCKS | {
    "a", "abbr", "acronym", "area", "audio", "b", "base", "bdi", "bdo", "big", "button", "canvas", "cite", "code",
    "col", "colgroup", "data", "datalist", "del", "dfn", "embed", "em", "font", "i", "iframe", "img", "input", "ins",
    "kbd", "label", "link", "map", "mark", "marquee", "meta", "meter", "noscript", "object", "output", "param",
    "picture", "progress", "q", "rp", "rt", "ruby", "s", "samp", "script", "select", "slot", "small", "source",
    "span", "strike", "strong", "style", "sub", "sup", "svg", "td", "template", "textarea", "th", "time", "track",
    "tt", "u", "var", "video", "wbr",
}  # fmt: skip
# What may hold a quote or lie around one; a closing tag of one of these ends all that is open in it.
_BOXES = {"article", "aside", "blockquote", "details", "div", "fieldset", "section", "table", "td"}
_QUOTE_CLASSES = {  # of Discourse, phpBB, vBulletin, XenForo, MyBB, SMF, Invision, mail
    "quote", "quoted", "quotecontent", "quotetitle", "quoteheader", "quotetop", "quotemain", "quote_container",
    "bbcode_quote", "bb_quote", "bbc_standard_quote", "bbCodeBlock--quote", "ipsQuote", "mycode_quote", "gmail_quote",
}  # fmt: skip
_DROPPED = {"script", "style"}
_NO_TAGS_WITHIN = _DROPPED | {"iframe", "textarea", "title"}
_SEEN = ("alt", "title")  # attributes whose words a reader sees

_TAG_NAME = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})(?=[ \t\n\r\f/>])")
_BETWEEN = re.compile(r"[ \t\n\r\f/]*")
_ATTRIBUTE = re.compile(
    r"""([^ \t\n\r\f/>][^ \t\n\r\f/>=]*)
        (?:[ \t\n\r\f]*=[ \t\n\r\f]*(?:"([^"]*)"|'([^']*)'|([^ \t\n\r\f>]*)))?""",
    re.VERBOSE,
)
_COMMENT_END = re.compile(r"--!?>")
_DOCTYPE = re.compile(r"<!doctype(?: html)?[ ]*>", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\n\r\f]+")


class _Tag(NamedTuple):
    name: str
    closing: bool
    attributes: dict[str, str]


def read_html(text: str) -> Reduced:
    """Scripts, styles and comments are left out. What CSS hides is kept: only a browser knows what it hides.

    >>> read_html('<blockquote>You fool</blockquote><p>Stop it, &lt;b&gt; <a href="http://x.org">read</a><br>this')
    Reduced(own='Stop it, <b> read (http://x.org)\\nthis', quoted=('You fool',))
    """
    reader = _Reader(text)
    reader.read()
    return reader.pieces.reduced()


class _Reader:
    def __init__(self, text: str) -> None:
        self.pieces = Pieces()
        self._text = text
        self._position = 0
        self._never_ends: set[str] = set()  # what has no end from here on, and need not be looked for again
        self._preformatted = 0

    def read(self) -> None:
        while (start := self._text.find("<", self._position)) >= 0:
            self._write(self._text[self._position : start])
            self._position = start
            if not self._skip() and not self._read_tag():
                self._write("<")
                self._position = start + 1
        self._write(self._text[self._position :])

    def _write(self, text: str) -> None:
        text = unescape(text)
        if not self._preformatted:
            text = _SPACES.sub(" ", text)
            if self.pieces.after_blank:
                text = text.removeprefix(" ")
        self.pieces.add(text)

    def _skip(self) -> bool:
        """Skip a comment or doctype that begins here."""
        if self._text.startswith("<!--", self._position):
            # The dashes that open a comment may be those that end it: `<!-->` is a whole one.
            return self._skip_to("comment", _COMMENT_END, self._position + 2)
        if doctype := _DOCTYPE.match(self._text, self._position):
            self._position = doctype.end()
        return doctype is not None

    def _skip_to(self, what: str, end: re.Pattern[str], start: int) -> bool:
        found = None if what in self._never_ends else end.search(self._text, start)
        if found is None:
            self._never_ends.add(what)
            return False
        self._position = found.end()
        return True

    def _read_tag(self) -> bool:
        """Read the tag that begins here. False: it is none, or of no element of HTML."""
        if "tag" in self._never_ends or not (begin := _TAG_NAME.match(self._text, self._position)):
            return False
        name = begin[2].lower()
        if name not in ELEMENTS:
            return False
        attributes: dict[str, str] = {}
        position = begin.end()
        while True:
            between = _BETWEEN.match(self._text, position)
            position = between.end() if between else position
            if self._text.startswith(">", position):
                break
            if not (attribute := _ATTRIBUTE.match(self._text, position)):
                self._never_ends.add("tag")  # the text ended within this one: the rest of it holds no tag
                return False
            key, *values = attribute.groups()
            attributes.setdefault(key.lower(), unescape(next(filter(None, values), "")))
            position = attribute.end()
        self._position = position + 1
        tag = _Tag(name, begin[1] == "/", attributes)
        if tag.closing:
            self._close(tag.name)
            return True
        self._open(tag)
        content = self._position
        if name in _NO_TAGS_WITHIN and self._skip_to(name, re.compile(rf"(?=</{name}[ \t\n\r\f/>])", re.I), content):
            self._write("" if name in _DROPPED else self._text[content : self._position])
        return True

    def _open(self, tag: _Tag) -> None:
        pieces, attributes = self.pieces, tag.attributes
        self._space(tag.name)
        if tag.name in _BOXES:
            classes = _SPACES.split(attributes.get("class", ""))
            quote = tag.name == "blockquote" or not _QUOTE_CLASSES.isdisjoint(classes)
            pieces.open_box(tag.name, quote=quote)
        self._preformatted += tag.name == "pre"
        pieces.add("- " if tag.name == "li" else "")
        if tag.name == "a" and (address := attributes.get("href")):
            pieces.open_link(address, typed=f"({address}) ")
        seen = [attributes[name] for name in _SEEN if attributes.get(name)]
        seen += [f"({attributes[name]})" for name in ("href", "src") if tag.name != "a" and attributes.get(name)]
        if seen:
            pieces.add(("" if pieces.after_blank else " ") + " ".join(seen) + " ")

    def _close(self, name: str) -> None:
        self._space(name)
        if name in _BOXES:
            self.pieces.close_box(name)
        elif name == "a":
            self.pieces.close_link()
        elif name == "pre":
            self._preformatted = max(0, self._preformatted - 1)

    def _space(self, name: str) -> None:
        if name == "br":
            self.pieces.add("\n")
        elif name in BLOCKS:
            self.pieces.break_line()
        elif name in ("td", "th") and not self.pieces.after_blank:
            self.pieces.add(" ")
