"""A text → what a person would read in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from guard.reading.characters import unmasked
from guard.reading.codes import decoded
from guard.reading.reading import Reading
from guard.reading.spelling import respelled

LONGEST = 131_072  # characters that are read; what stands behind them is left as it is
_LAYERS = 3  # of disguise, one within the other
_WORDS = 65_536  # whose tokens are remembered


class Reader:
    """Reads texts by the words that a tokenizer knows. Safe to share between threads."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        @lru_cache(_WORDS)
        def count(text: str) -> int:
            return len(encode(f" {text.lower()}" if text[:1].isalpha() else text.lower()))

        self.count = count

    def read(self, text: str, *, fold: bool = True, decode: bool = True) -> Reading:
        """`fold`: look-alike and invisible characters and spelling; `decode`: codes.

        Only the first `LONGEST` characters are read, so that a long text cannot hold up the others; the rest stays as
        it is. So does a text of which nothing would be left.
        """
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
