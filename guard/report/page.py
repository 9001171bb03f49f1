"""The report as one HTML page that needs nothing else and runs nothing.

The one rule: its security policy allows one style sheet, by its hash, and no script, picture or address at all. So the
styles that matplotlib writes at its elements become classes of that sheet, in which colours are names with a light and
a dark value.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from guard.measure.intervals import Estimate
from guard.printable import printable
from guard.report.parts import Cell, Foreign, Picture, Section, Table
from guard.report.plots import COLOURS
from guard.report.rates import percent

_TEXT = 4000  # characters of a text that are shown
_NAME = 200
_STYLE = re.compile(r' style="([^"]*)"')
_ID = re.compile(r' id="([^"]*)"')
_FOLDER = Path(__file__).parent


def as_html(title: str, lead: Iterable[Cell], sections: Iterable[Section]) -> str:
    """The whole page."""
    sections = list(sections)
    classes: dict[str, str] = {}
    pictures = {
        id(part): Markup(_drawing(part.svg, classes))  # our own drawing: no word of others is in it
        for section in sections for part in section.parts if isinstance(part, Picture)
    }  # fmt: skip
    style = (_FOLDER / "page.css").read_text(encoding="utf-8") + _rules(classes)
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _environment().get_template("page.html").render(
        title=title, lead=list(lead), sections=sections, pictures=pictures, style=Markup(style), allowed=allowed,
        part_name=lambda part: type(part).__name__, widest=_widest,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"cell": _shown, "lines": _lines, "kind": _kind, "span": _span, "id": id}
    return made


def _drawing(svg: str, classes: dict[str, str]) -> str:
    """The SVG with classes for styles and without what it does not need; `classes` (style -> name) grows."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = _ID.sub(lambda m: m[0] if m[1] in used else "", svg)
    svg = _STYLE.sub(lambda m: f' class="{classes.setdefault(m[1], f"m{len(classes)}")}"', svg)
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2).replace("<svg", '<svg aria-hidden="true"', 1)


def _rules(classes: dict[str, str]) -> str:
    rules = "".join(f".{name}{{{style}}}\n" for style, name in classes.items())
    for name, colour in COLOURS.items():
        rules = rules.replace(colour, f"var(--{name})")
    return rules


def _shown(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        return percent(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return (printable(cell, _NAME) or "–") if isinstance(cell, Foreign) else cell


def _lines(text: str) -> str:
    """A text with its lines, and everything in it that is not printable as an escape."""
    shown = "\n".join(map(printable, text[:_TEXT].split("\n")))
    return shown if len(text) <= _TEXT else f"{shown}… ({len(text):,} characters in all)"


def _kind(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        return "estimate"
    return "number" if isinstance(cell, int) else "word"


def _widest(table: Table) -> float:
    """The largest upper limit of a table's estimates: what the full length of its bars is."""
    limits = (cell.high for row in table.rows for cell in row if isinstance(cell, Estimate))
    return max((limit for limit in limits if limit), default=1.0)


class _Bar(NamedTuple):
    """Of 100: the value, and the interval's beginning and length."""

    value: float
    low: float
    length: float


def _span(found: Estimate, scale: float) -> _Bar:
    value, low, high = (round(100 * (figure or 0) / scale, 1) for figure in (found.value, found.low, found.high))
    return _Bar(value, low, round(max(0.5, high - low), 1))
