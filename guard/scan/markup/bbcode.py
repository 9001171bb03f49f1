"""BBCode, as phpBB, vBulletin, XenForo, MyBB and SMF write it.

The one rule: what a forum would show stays. Unknown tags stand as they were typed, and so do a quote or a link that
is not closed and a closing tag of them that closes nothing. Each tag is read once, so no nesting makes it slow.
"""

from __future__ import annotations

import re

from guard.scan.markup.pieces import Pieces, Reduced

# An argument in quotes may hold brackets (names of clans do); the bound keeps a row of open quotes from costing much.
_TAG = re.compile(
    r"""\[(?P<slash>/?)(?P<name>\*|[a-z][a-z0-9_-]*)
        (?P<argument>="[^"\n]{0,200}"[^\[\]\n]*|='[^'\n]{0,200}'[^\[\]\n]*|[= ][^\[\]\n]*)?\]""",
    re.IGNORECASE | re.VERBOSE,
)
_STYLES = {"align", "background", "bgcolor", "color", "colour", "font", "highlight", "list", "size"}
_LAYOUT = _STYLES | {
    "b", "i", "u", "s", "em", "strong", "strike", "del", "ins", "sub", "sup", "small", "big", "h", "h1", "h2", "h3",
    "h4", "h5", "h6", "left", "right", "center", "centre", "justify", "indent", "ul", "ol", "li", "*", "table", "tr",
    "td", "th", "hr",
}  # fmt: skip
_STYLE = re.compile(r"#?[\w.,%+-]+")  # the argument of a style, which no reader sees; fonts have names of several words
_BREAKS = {
    "list", "ul", "ol", "li", "*", "table", "tr", "hr", "left", "right", "center", "centre", "justify", "align",
    "indent", "h", "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
_SHOWN = {
    "spoiler", "hide", "hidden", "ispoiler", "img", "image", "video", "media", "youtube", "attach", "user", "mention",
}  # fmt: skip
_LINKS = {"url", "link", "email"}
_VERBATIM = {"code", "icode", "php", "html", "pre", "plain", "noparse", "nobbc"}
# What forum software adds to the name of who is quoted: `Bob, post: 1, member: 2`, `Bob;123`, `Bob post_id=1 time=2`.
_QUOTED_FROM = re.compile(
    r"(?:,\s?(?:post|topic|member|full):\s?\w+|;n?\d+|\s(?:post_id|time|user_id|link|date|pid|dateline)=\S+)+$"
)
_MAX_AUTHOR = 200  # characters; the expression above takes quadratic time


def read_bbcode(text: str) -> Reduced:
    """A quote begins with the name of who is quoted, where there is one.

    >>> read_bbcode('[quote="Bob, post: 7"]You [b]fool[/b][/quote]Stop it, [url=http://x.org]read[/url] [sic] [i]this')
    Reduced(own='Stop it, read (http://x.org) [sic] this', quoted=('Bob: You fool',))
    """
    text = text.replace("\r\n", "\n")
    pieces = Pieces()
    never_closed: set[str] = set()  # verbatim tags that have no closing one from here on
    position = 0
    while tag := _TAG.search(text, position):
        pieces.add(text[position : tag.start()])
        position = tag.end()
        name, argument = tag["name"].lower(), _unquoted(tag["argument"] or "")
        if name in _VERBATIM and not tag["slash"] and name not in never_closed:
            if end := re.compile(rf"\[/{name}\]", re.IGNORECASE).search(text, position):
                pieces.add(f"{argument}\n" if argument else "")
                pieces.add(text[position : end.start()])
                position = end.end()
            else:
                never_closed.add(name)
                pieces.add(tag[0])
        elif tag["slash"] and tag["argument"]:
            pieces.add(tag[0])
        elif tag["slash"]:
            _close(pieces, name, tag[0])
        else:
            _open(pieces, name, argument, tag[0])
    pieces.add(text[position:])
    return pieces.reduced()


def _open(pieces: Pieces, name: str, argument: str, typed: str) -> None:
    if name == "quote" and ("=" in typed or not argument):
        author = argument.removeprefix("author=")
        author = _QUOTED_FROM.sub("", author) if len(author) <= _MAX_AUTHOR else author
        pieces.open_box(name, typed, quote=True, closed=f"{_unquoted(author)}: " if author else "")
    elif name in _LINKS and argument:
        pieces.open_link(argument, typed)
    elif name in _SHOWN and argument:
        pieces.add(f"{argument} ")
    elif name in _LAYOUT and _is_style(name, argument, typed):
        _lay_out(pieces, name)
        pieces.add("- " if name in ("*", "li") else "")
    elif name not in _SHOWN | _LINKS:
        pieces.add(typed)


def _close(pieces: Pieces, name: str, typed: str) -> None:
    if name == "quote":
        if not pieces.close_box(name):
            pieces.add(typed)
    elif name in _LINKS:
        pieces.close_link()
    elif name in _LAYOUT:
        _lay_out(pieces, name)
    elif name not in _SHOWN:
        pieces.add(typed)


def _is_style(name: str, argument: str, typed: str) -> bool:
    """Is the argument one that the tag may have? `[u fool]` and `[color=you fool]` are shown as they were typed."""
    if not argument:
        return True
    return name in _STYLES and "=" in typed and (name == "font" or _STYLE.fullmatch(argument) is not None)


def _lay_out(pieces: Pieces, name: str) -> None:
    if name in _BREAKS:
        pieces.break_line()
    elif name in ("td", "th") and not pieces.after_blank:
        pieces.add(" ")


def _unquoted(argument: str) -> str:
    """An argument without its `=` and the quotation marks around it.

    >>> _unquoted('="[clan] Joe"'), _unquoted("='Joe' pid='3'")
    ('[clan] Joe', "Joe pid='3'")
    """
    argument = argument.removeprefix("=").strip()
    if argument[:1] in ('"', "'"):
        inside, _, rest = argument[1:].partition(argument[0])
        return inside + rest
    return argument
