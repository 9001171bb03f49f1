r"""The report as Markdown: without pictures, and without texts of others.

Words of others are code spans of one line, in which no character has a meaning: what could end one is an escape.
"""

from __future__ import annotations

from collections.abc import Iterable

from guard.measure.intervals import Estimate
from guard.printable import printable
from guard.report.parts import Cell, Foreign, Hidden, Numbers, Paragraph, Part, Picture, Section, Table
from guard.report.rates import percent

_NAME = 200  # characters of one


def as_markdown(title: str, lead: Iterable[Cell], sections: Iterable[Section]) -> str:
    """The whole summary."""
    lines = [f"# {title}", " ".join(map(_cell, lead))]
    for section in sections:
        lines.append(f"## {_cell(section.title)}")
        lines += filter(None, map(_part, section.parts))
        if hidden := sum(isinstance(part, Hidden) for part in section.parts):
            lines.append(f"{hidden} texts are shown in the page.")
    return "\n\n".join(lines) + "\n"


def _part(part: Part) -> str | None:
    match part:
        case Paragraph(text):
            return text
        case Numbers(figures):
            return "\n".join(f"- {name}: {_cell(value)}{f' ({note})' if note else ''}" for name, value, note in figures)
        case Table(caption, head, rows):
            lines = [head, ["---"] * len(head), *(map(_cell, row) for row in rows)]
            return "\n".join([f"{caption}:", "", *(f"| {' | '.join(line)} |" for line in lines)])
        case Picture() | Hidden():
            return None


def _cell(cell: Cell) -> str:
    r"""
    >>> _cell(Foreign("a`|<b>\n")), _cell(1234), _cell(Foreign(""))
    ('`a\\x60\\x7c<b>\\n`', '1,234', '–')
    """
    if isinstance(cell, Estimate):
        return percent(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    if not isinstance(cell, Foreign):
        return cell
    shown = printable(cell, _NAME).replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{shown}`" if shown.strip() else "–"
