"""Markdown: CommonMark as markdown-it-py reads it, with the habits of Reddit.

The one rule: a line is quoted if, and only if, it begins with `>`. CommonMark counts the line after a quote to the
quote where no empty line parts them; here it is its author's own, for many who reply forget the empty line. `>!` does
not quote: it begins a spoiler.

Switched off, since they would make typed words vanish: link definitions (`[x]: http://...`) and tables with their
fixed number of cells, which both stay as typed, and the library's limit of nesting, beyond which it skips text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from guard.scan.markup.html import BLOCKS, ELEMENTS
from guard.scan.markup.pieces import Pieces, Reduced

_MAX_DEPTH = 20  # of lists, and of quotes in lists in quotes: what is deeper is read as a paragraph
# The library needs quadratic time for the inline marks of a long paragraph, above all for brackets: it gets it in parts
# of at most so many characters and brackets.
_PART = 1000
_BRACKETS = re.compile(r"(?:[^\[]*\[){10}")

_ESCAPED = re.compile("&(gt|lt|amp);")
_QUOTE_MARKS = re.compile(r"(?: {0,3}>(?!!)[ \t]?)+")
_SPOILER_MARKS = re.compile(">!|!<")
_SUPERSCRIPT = re.compile(r"(?<!\^)\^{1,9}(?=\(|[^\W_])")
_BARE_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)\s*/?>")


def read_markdown(text: str) -> Reduced:
    """Tags of HTML without attributes are taken out, `<blockquote>` quotes; all other HTML stays as typed.

    >>> read_markdown("> you fool\\n>> why?\\nStop it\\n\\n    &gt; see ![a cat](http://x.org/1.png) `*`")
    Reduced(own='Stop it\\n\\n> see ![a cat](http://x.org/1.png) `*`', quoted=('you fool\\nwhy?',))
    """
    # Reddit's dumps escape these three, once.
    text = _ESCAPED.sub(lambda found: {"gt": ">", "lt": "<", "amp": "&"}[found[1]], text)
    return _read(text, 0).reduced()


def _read(text: str, depth: int) -> Pieces:
    pieces = Pieces()
    for token in _parser().parse(text, {"depth": depth}):
        match token.type:
            case "blockquote":
                pieces.add_quote(_read(token.content, depth + 1).whole())
            case "inline":
                _add_inline(pieces, token.content)
            case "code_block":
                pieces.add(token.content)
            case "fence":
                pieces.add(f"{token.info.strip()}\n{token.content}".lstrip("\n"))
            case "list_item_open":
                pieces.break_line()
                pieces.add(f"{token.info}{token.markup} " if token.info else "- ")
            case "paragraph_close" | "heading_close":
                pieces.add("\n" if token.hidden else "\n\n")
    return pieces


def _add_inline(pieces: Pieces, text: str) -> None:
    lines = (line for line in text.split("\n") if not _rules_table(line))
    for part in _parts("\n".join(lines)):
        inline: list[Token] = []
        _parser().inline.parse(part, _parser(), {}, inline)
        _add_tokens(pieces, inline)


def _add_tokens(pieces: Pieces, tokens: Sequence[Token]) -> None:
    for token in tokens:
        match token.type:
            case "text":
                pieces.add(_SUPERSCRIPT.sub("", _SPOILER_MARKS.sub("", token.content)))
            case "text_special" | "code_inline":
                pieces.add(token.content)
            case "softbreak" | "hardbreak":
                pieces.add("\n")
            case "html_inline":
                _add_tag(pieces, token.content)
            case "link_open":
                address = _address(token, "href")
                pieces.open_link(address, typed=f"({address}) ")
            case "link_close":
                pieces.close_link()
            case "image":
                _add_tokens(pieces, token.children or ())
                pieces.add(f" ({_address(token, 'src')})")


def _address(token: Token, attribute: str) -> str:
    """The address of a link or picture, with its title."""
    address, title = token.attrs.get(attribute, ""), token.attrs.get("title", "")
    return f'{address} "{title}"' if title else str(address)


def _add_tag(pieces: Pieces, typed: str) -> None:
    tag = _BARE_TAG.fullmatch(typed)
    name = tag[2].lower() if tag else ""
    if tag is None or name not in ELEMENTS:
        pieces.add(typed)
        return
    if name in BLOCKS:
        pieces.break_line()
    if name == "blockquote":
        if tag[1]:
            pieces.close_box(name)
        else:
            pieces.open_box(name, quote=True)


def _rules_table(line: str) -> bool:
    """Is this the line of a table that parts its head from its rows?

    >>> _rules_table("|:--|---|"), _rules_table("| a | b |")
    (True, False)
    """
    return "|" in line and "-" in line and set(line) <= set("|-: \t")


def _parts(text: str) -> Iterator[str]:
    """The text cut into parts that are short enough, after a line or else a word where there is one.

    >>> [len(part) for part in _parts("word " * 250 + "[" * 30)]
    [1000, 250, 10, 10, 10]
    """
    start = 0
    while start < len(text):
        end = min(start + _PART, len(text))
        if crowded := _BRACKETS.match(text, start, end):
            end = crowded.end()
        if end < len(text):
            blank = max(text.rfind("\n", start, end), 0) or text.rfind(" ", start, end)
            end = blank + 1 if blank > start else end
        yield text[start:end]
        start = end


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"maxNesting": _MAX_DEPTH + 10}).enable("strikethrough")
    parser.core.ruler.enableOnly(["normalize", "block"])
    parser.disable(["reference", "html_block"])
    parser.block.ruler.at("blockquote", _quote_rule, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    parser.block.ruler.before("code", "deep", _deep_rule)
    parser.normalizeLink = _as_typed  # type: ignore[method-assign]
    parser.normalizeLinkText = _as_typed  # type: ignore[method-assign,assignment]
    return parser


def _as_typed(url: str) -> str:
    return url


def _quote_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Lines that begin with `>` become one token, whose content is read as a document of its own."""
    if state.env["depth"] >= _MAX_DEPTH or not _quotes(state, start):
        return False
    if silent:
        return True
    line, lines = start, []
    while line < end and state.sCount[line] >= state.blkIndent and _quotes(state, line):
        lines.append(_QUOTE_MARKS.sub("", state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]], 1))
        line += 1
    state.push("blockquote", "", 0).content = "\n".join(lines)
    state.line = line
    return True


def _quotes(state: StateBlock, line: int) -> bool:
    begin = state.bMarks[line] + state.tShift[line]
    return state.src.startswith(">", begin) and not state.src.startswith(">!", begin) and not state.is_code_block(line)


def _deep_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """All that is nested too deeply is one paragraph."""
    if state.level < _MAX_DEPTH or silent:
        return False
    line = start
    while line < end and (state.sCount[line] >= state.blkIndent or state.isEmpty(line)):
        line += 1
    state.push("inline", "", 0).content = state.getLines(start, line, state.blkIndent, False)
    state.line = line
    return True
