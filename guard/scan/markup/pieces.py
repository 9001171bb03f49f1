"""What the readers of markup write to: pieces of text, of which some turn out to be quoted.

The one rule: only what stands between an opening and its own closing is quoted. What is opened and never closed, or
closed by something around it, is no quote, so a forgotten (or feigned) closing hides nobody's words.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Reduced(NamedTuple):
    """A post: the text of its author, and each quote in it (with the quotes inside that one), in order."""

    own: str
    quoted: tuple[str, ...]


class _Open(NamedTuple):
    name: str  # of the box; "" for a link
    at: int  # index of its first piece, which stands for the opening tag
    closed: str  # what replaces that piece once the box is closed; of a link, its address
    quote: bool


class Pieces:
    """Boxes lie within each other; links lie within boxes. Each call takes constant time, taken over all calls."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._open: list[_Open] = []
        self._open_boxes: Counter[str] = Counter()
        self._quotes: list[tuple[int, int]] = []  # pieces from, to; none lies within another
        self._last = "\n"

    @property
    def after_blank(self) -> bool:
        """Is the last character written a space or a line break, or is there none?"""
        return self._last in " \n"

    def add(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._last = text[-1]

    def break_line(self) -> None:
        """Go to the beginning of a line, if not there."""
        if self._last != "\n":
            self.add("\n")

    def add_quote(self, text: str) -> None:
        """A whole quote."""
        self._quotes.append((len(self._pieces), len(self._pieces) + 1))
        self._pieces.append(text)
        self._last = "\n"

    def open_box(self, name: str, typed: str = "", *, quote: bool = False, closed: str = "") -> None:
        """The box's opening is `closed` if it will be closed, else `typed`."""
        self._open.append(_Open(name, len(self._pieces), closed, quote))
        self._open_boxes[name] += 1
        self._pieces.append(typed)

    def close_box(self, name: str) -> bool:
        """Close the innermost box of that name, and give up what is open in it. False: there is no such box."""
        if not self._open_boxes[name]:
            return False
        while True:
            box = self._open.pop()
            if box.name:
                self._open_boxes[box.name] -= 1
            if box.name == name:
                break
        self._pieces[box.at] = box.closed
        if box.quote:
            while self._quotes and self._quotes[-1][0] >= box.at:
                self._quotes.pop()
            self._quotes.append((box.at, len(self._pieces)))
            self._last = "\n"
        return True

    def open_link(self, address: str, typed: str) -> None:
        """A link, whose opening is `typed` if it is never closed."""
        self._open.append(_Open("", len(self._pieces), address, False))
        self._pieces.append(typed)

    def close_link(self) -> bool:
        """Write the address after the link's text, unless that says it. False: no link is open in this box."""
        if not self._open or self._open[-1].name:
            return False
        link = self._open.pop()
        self._pieces[link.at] = ""
        says_it = link.at == len(self._pieces) - 2 and self._pieces[-1] == link.closed
        if not says_it:
            self.add(f" ({link.closed})")
        return True

    def whole(self) -> str:
        """All the text, quotes too."""
        return _tidy("".join(self._pieces))

    def reduced(self) -> Reduced:
        own, end = [], 0
        for start, stop in self._quotes:
            own.append("".join(self._pieces[end:start]).strip())
            end = stop
        own.append("".join(self._pieces[end:]).strip())
        quoted = (_tidy("".join(self._pieces[start:stop])) for start, stop in self._quotes)
        return Reduced(_tidy("\n".join(filter(None, own))), tuple(filter(None, quoted)))


def _tidy(text: str) -> str:
    """No spaces at the ends of lines, at most one empty line in a row, none at the ends."""
    lines: list[str] = []
    for line in text.strip().split("\n"):
        line = line.rstrip()
        if line or lines[-1:] != [""]:
            lines.append(line)
    return "\n".join(lines)
