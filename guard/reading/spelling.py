"""Spelling: letters that are spaced out are put together, marks within words go, digits become the letters meant.

No list of words is needed. Of two ways to spell a word, the one that the model's tokenizer knows is the one that a
person reads: "k1ll" takes three tokens and "kill" one. What gains too little stays, such as "mp3", "B2B" and "don't",
but where a text has several such words, a little will do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice, product

from guard.reading.reading import Edit, Reading

Count = Callable[[str], int]  # how many tokens a text takes

_MARK = r"[.\-_*~|/\\'’`^+,:;!¡·•=#]"
# Single characters, perhaps with punctuation, and white space between them.
_SPACED = re.compile(r"(?<!\S)[^\s]['\",.!?;:)]?(?: {1,5}['\"(]?[^\s]['\",.!?;:)]{0,2}(?!\S))+")
# Single letters with one and the same mark between; "e.g." and "F.B.I." are too short.
_DOTTED = re.compile(rf"(?<!\w)[^\W_](?:({_MARK})[^\W_])(?:\1[^\W_]){{2,}}(?!\w)")
_MARKED = re.compile(rf"(?<![\w/:@.])[^\W\d_]+(?:{_MARK}{{1,3}}[^\W\d_]+)+(?![\w/@])")
_COMPOUND = re.compile(r"[^\W\d_]{2,}[-/][^\W\d_]{2,}|[^\W\d_]+['’][^\W\d_]+")
_LEET = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "|": "il", "+": "t", "(": "c", "€": "e", "¢": "c", "£": "l", "¥": "y",
}  # fmt: skip
_SIGN = "@$!|+(€¢£¥"
_CODED = re.compile(rf"(?<![\w{_SIGN}])(?=[\w{_SIGN}]*[^\W\d_])[\w{_SIGN}]*[0-9{_SIGN}][\w{_SIGN}]*")
_WAYS = 16  # to read one word, at most
_SEVERAL = 3  # words that are surely disguised, from which on the others may be


def respelled(reading: Reading, count: Count) -> Reading:
    """The text as it is read aloud.

    >>> from guard.reading.read import Reader
    >>> from guard.resources import shipped
    >>> from guard.tokenizer import load_tokenizer
    >>> count = Reader(load_tokenizer(shipped("models") / "embedded").encode).count
    >>> respelled(Reading("i will k i l l   y o u, b1tch, and your st.up.id well-known mp3"), count).text
    'i will kill you, bitch, and your stupid well-known mp3'
    """
    reading = reading.sub(_SPACED, _together)
    reading = reading.sub(_DOTTED, lambda match: match[0].replace(match[1], ""))
    reading = reading.edited(_meant(list(_MARKED.finditer(reading.text)), _unmarked, count))
    return reading.edited(_meant(list(_CODED.finditer(reading.text)), _lettered, count))


def _together(match: re.Match[str]) -> str | None:
    """The words of spaced-out characters; the narrowest gap stands between letters."""
    run = match[0]
    if sum(map(str.isalpha, run)) < 4 or 2 * sum(map(str.isalpha, run)) < len(run.replace(" ", "")):
        return None  # too short, or numbers in a row
    narrow = min(map(len, re.findall(" +", run)))
    return re.sub(" +", lambda gap: " " if len(gap[0]) > narrow else "", run)


def _meant(words: Sequence[re.Match[str]], plainly: Callable[[str, Count], str], count: Count) -> list[Edit]:
    """Words as they are meant, where that is clear: of far fewer tokens, or of fewer among several such words."""
    found = [(word, plain) for word in words if (plain := plainly(word[0], count)) != word[0]]
    saved = [(count(word[0]), count(plain)) for word, plain in found]
    sure = [old - new >= 2 and 2 * new <= old for old, new in saved]
    several = sum(sure) >= _SEVERAL
    return [
        (*word.span(), plain)
        for (word, plain), (old, new), clear in zip(found, saved, sure, strict=True)
        if clear or (several and new < old)
    ]


def _unmarked(word: str, count: Count) -> str:
    return word if _COMPOUND.fullmatch(word) else re.sub(_MARK, "", word)


def _lettered(word: str, count: Count) -> str:
    """The word in letters. A sign at its end is none of it."""
    body = word.rstrip("!+(|")
    ways = product(*(_LEET.get(letter, letter) for letter in body))
    return min(islice(map("".join, ways), _WAYS), key=count) + word[len(body) :]
