"""What a report is made of: sections with parts. Page and summary are written from the same list.

The one rule: what was written by others is `Foreign`, here and nowhere later, so that both know what to escape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from guard.measure.intervals import Estimate


class Foreign(str):
    """Words from the scan: ids, names of people and boards, categories, texts."""


Cell = str | Foreign | int | Estimate


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Numbers:
    """The few figures that come first: each with its name and a note."""

    figures: tuple[tuple[str, Cell, str], ...]


@dataclass(frozen=True)
class Table:
    """A table with a header; `folded`: the page keeps it behind a click, for it only repeats a picture."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawing, what it shows in words, and its legend: names of colours (`plots.COLOURS`) and what they mean."""

    svg: str
    says: str
    legend: tuple[tuple[str, str | Foreign], ...] = ()


@dataclass(frozen=True)
class Hidden:
    """A text of somebody, behind a click; the summary stands there before. It is in the page alone."""

    summary: tuple[str | Foreign, ...]
    facts: tuple[tuple[str, str | Foreign], ...]
    text: Foreign


Part = Paragraph | Numbers | Table | Picture | Hidden


@dataclass(frozen=True)
class Section:
    title: str | Foreign
    anchor: str
    parts: tuple[Part, ...] = field(default=())


def joined(names: Iterable[str]) -> Foreign:
    """Names as one cell."""
    return Foreign(", ".join(names))
