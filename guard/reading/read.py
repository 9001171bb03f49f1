"""A text → what a person would read in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from guard.reading.characters import unmasked
from guard.reading.codes import STRANGE, decoded
from guard.reading.reading import Reading
from guard.reading.spelling import respelled

LONGEST = 131_072  # characters that are read; what stands behind them is left as it is
_LAYERS = 3  # of disguise, one within the other
_WORDS = 65_536  # whose tokens are remembered
_NOT_PLAIN = re.compile("[^\t\n\r -~]")
# Words that hide nothing by themselves. A single letter may be one of spaced-out ones, but for those that are words.
_ORDINARY = re.compile(r"[\"(]?([A-Za-z]{2,15}(?:-[A-Za-z]{2,15})?|[AaI])(?:'[a-z]{1,2})?[.,;:!?)\"]{0,3}|&")
_NUMBER = re.compile(r"\(?\d{1,4}[.,;:!?)]?")
_DOUBT = 3  # from which on a text of such words is read more closely
_THRICE = re.compile(r"([A-Za-z])\1\1")


class Reader:
    """Reads texts by the words that a tokenizer knows. Safe to share between threads."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        @lru_cache(_WORDS)
        def count(text: str) -> int:
            return len(encode(f" {text.lower()}" if text[:1].isalpha() else text.lower()))

        @lru_cache(_WORDS)
        def doubt(word: str) -> float:
            ordinary = _ORDINARY.fullmatch(word)
            if _NUMBER.fullmatch(word):
                return 0.5  # six of them may be a text
            if ordinary is None or _THRICE.search(word):
                return _DOUBT
            quotes = 0.75 * word.count('"')  # two quotations may be pieces of one
            return quotes + (max(0, count(ordinary[1]) - STRANGE) if ordinary[1] else 0)

        self.count, self._doubt = count, doubt

    def read(self, text: str, *, fold: bool = True, decode: bool = True) -> Reading:
        """`fold`: look-alike and invisible characters and spelling; `decode`: codes.

        Only the first `LONGEST` characters are read, so that a long text cannot hold up the others; the rest stays as
        it is. So does a text of which nothing would be left.
        """
        if not _NOT_PLAIN.search(text) and sum(map(self._doubt, text[:LONGEST].split())) < _DOUBT:
            return Reading(text)
        original = reading = Reading(text[:LONGEST])
        for _ in range(_LAYERS):
            before = reading.text
            if fold:
                reading = unmasked(reading, self.count)
            if decode:
                reading = decoded(reading, self.count)
            if fold:
                reading = respelled(reading, self.count)
            if reading.text == before:
                break
        return (reading if reading.text.strip() else original).before(text[LONGEST:])
