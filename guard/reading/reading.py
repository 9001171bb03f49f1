"""A text being rewritten, every character of which knows where in the original it came from."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import chain

Count = Callable[[str], int]  # how many tokens a text takes
Edit = tuple[int, int, str]  # from, to (behind the last character), and what stands there instead


class Reading:
    """A text and, for each of its characters and its end, the place in the original.

    >>> folded = Reading("k1ll -- it").edited([(0, 4, "kill"), (5, 8, "")])
    >>> folded.text, folded.span(0, 4), folded.span(5, 7)
    ('kill it', (0, 4), (8, 10))
    """

    __slots__ = ("_places", "text")

    def __init__(self, text: str, places: list[int] | None = None) -> None:
        self.text = text
        self._places = places  # never falling; None: nothing was rewritten

    def edited(self, edits: Iterable[Edit]) -> Reading:
        """The reading with edits made, which stand in order and do not overlap.

        Characters of a replacement come from where the replaced ones began, but where it is as long as these.
        """
        made, places, at = [], [], 0
        known = self._places or range(len(self.text) + 1)
        for start, end, new in edits:
            made += [self.text[at:start], new]
            places += [known[at:start], known[start:end] if len(new) == end - start else [known[start]] * len(new)]
            at = end
        if not made:
            return self
        return Reading("".join((*made, self.text[at:])), list(chain(*places, known[at:])))

    def sub(self, pattern: re.Pattern[str], new: Callable[[re.Match[str]], str | None] | str) -> Reading:
        """As `re.sub`; None leaves a match as it is."""
        found = ((match, new if isinstance(new, str) else new(match)) for match in pattern.finditer(self.text))
        return self.edited((*match.span(), text) for match, text in found if text is not None and text != match[0])

    def before(self, rest: str) -> Reading:
        """The reading with `rest` behind it, which stood behind the original and is left as it is."""
        if not rest:
            return self
        known = self._places or range(len(self.text) + 1)
        return Reading(self.text + rest, [*known, *range(known[-1] + 1, known[-1] + len(rest) + 1)])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where the characters from `start` to `end` came from: what was replaced is there as a whole."""
        places = self._places
        if places is None:
            return start, end
        if start == end:
            return places[start], places[start]
        return places[start], places[min(bisect_right(places, places[end - 1], end), len(places) - 1)]
