"""Spelling: letters that are spaced out are put together, marks within words go, digits become the letters meant.

No list of words is needed. Of two ways to spell a word, the one that the model's tokenizer knows is the one that a
person reads: "k1ll" takes three tokens and "kill" one. What gains too little stays, such as "mp3", "B2B" and "don't",
but where a text has several such words, a little will do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice, product

from guard.reading.reading import Count, Edit, Reading

_ADDRESS = r"(?P<address>\b(?:\w{2,8}://|www\.)\S+|[\w.+-]{1,64}@[\w-]{1,64}\.\w+)"
_TWO = re.compile(r"(?<!\S)\S[^\w\s]{0,2}\s{1,5}[^\w\s]?\S[^\w\s]{0,2}(?!\S)")
# Single characters, perhaps with punctuation, and white space between them.
_SPACED = re.compile(r"""(?<!\S)\S['",.!?;:)]?(?:(?:[^\S\n]{1,5}|\n{1,2})['"(]?\S['",.!?;:)]{0,2}(?!\S)){2,}""")
_MARK = r"[.\-_*~|/\\^+,;!¡·•=#]"
_BETWEEN = re.compile(r"[.\-_*~|/^+,;:!¡·•=#…'’`](?<=\w.)[^\W\d_]|[.\-_*~|^+,;!¡·•]{2}[^\W\d_]")
# Single letters with one and the same mark between; "e.g." and "F.B.I." are too short.
_DOTTED = re.compile(r"(?<![\w@#])[^\W_](?:([.\-_*~|/'’`^+,:;!¡·•=#…])[^\W_])(?:\1[^\W_]){2,}(?![^\W_])")
_MARKED = re.compile(
    rf"{_ADDRESS}|(?<![\w/:@.])(?<!\d-)[^\W\d_]{{1,32}}(?:[.\-_*~|^+,;!¡·•]{{1,3}}[^\W\d_]{{1,32}}){{1,24}}(?![\w/@*(\[])"
)
_COMPOUND = re.compile(r"(?:[^\W\d_]{2,}|[eE])-[^\W\d_]{2,}")
_LEET = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "|": "il", "+": "t", "(": "c", "€": "e", "¢": "c", "£": "l", "¥": "y",
}  # fmt: skip
_SIGN = "@$!|+(€¢£¥"
_LEETISH = re.compile(r"[\d@$!|+(€¢£¥](?:[^\W\d_]|(?<=[^\W\d_].))")
_CODED = re.compile(
    rf"{_ADDRESS}|(?<![^\W_])(?<![{_SIGN}])(?=[^\W\d_]*[0-9{_SIGN}])"
    rf"(?:[^\W_]|[@$€¢£¥]|(?<=[^\W_])(?:[+!|]|\((?![^\s()]{{0,40}}\)))(?=[^\W\d_])){{2,40}}(?![^\W_]|[@$€¢£¥])"
)
# A number and what it counts, or a name for bytes.
_NUMBER = re.compile(
    r"\d+(?:[a-z]|am|pm|th|[kmgt]?b|[kcm]?m|m?g|kg|lbs?|oz|ft|in|k?hz|mhz|ghz|kw|kwh|ml|ms|mins?|hrs?|secs?|"
    r"yrs?|yo|pts?|px|mph|kmh|fps|bn|mn|ish|ers|days?|nights?|years?|times|people|to\d+)|\d*(?:1st|2nd|3rd)|[0-9a-f]{8,}",
    re.IGNORECASE,
)
_NAMED = re.compile(r"[^\W\d_]+\d+")  # POP3, arr1
_STRETCHED = re.compile(
    rf"{_ADDRESS}|(?<![\w@#])(?=[^\W_]{{0,30}}?(?P<letter>[^\W\d_])(?P=letter){{2}})[^\W\d_]{{5,40}}(?![^\W_])"
)
_RUN = re.compile(r"([A-Za-z])\1{2,}")
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
    if _TWO.search(reading.text):
        reading = reading.sub(_SPACED, _together)
    if _BETWEEN.search(reading.text):
        reading = reading.sub(_DOTTED, _undotted)
        reading = reading.edited(_meant(_words(_MARKED, reading.text), _unmarked, count))
    if _LEETISH.search(reading.text):
        reading = reading.edited(_meant(_words(_CODED, reading.text), _lettered, count))
    if _RUN.search(reading.text):
        reading = reading.edited(_meant(_words(_STRETCHED, reading.text), _shortened, count))
    return reading


def _words(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return [match for match in pattern.finditer(text) if not match.groupdict().get("address")]


def _together(match: re.Match[str]) -> str | None:
    """The words of spaced-out characters; the narrowest gap stands between letters."""
    run = match[0]
    signs = "".join(run.split())
    letters = {letter.lower() for letter in signs if letter.isalpha()}
    known = sum(map(str.isalnum, signs))
    if len(letters) < 3 or known < 4 or max(letters) > "\u2e80":
        return None  # too short, or a script that needs no words
    if 4 * sum(map(str.isalpha, signs)) < 3 * known or 4 * known < 3 * len(signs):
        return None  # numbers in a row, or signs
    gaps = set(re.findall(r"\s+", run))
    inline = {gap for gap in gaps if "\n" not in gap} or gaps
    narrow = min(map(len, inline))
    return re.sub(r"\s+", lambda gap: "" if gap[0] in inline and len(gap[0]) <= narrow else gap[0][:1], run)


def _undotted(match: re.Match[str]) -> str | None:
    plain = match[0].replace(match[1], "")
    return plain if 4 * sum(map(str.isalpha, plain)) >= 3 * len(plain) else None


def _meant(
    words: Sequence[re.Match[str]], plainly: Callable[[str, Count], tuple[str, float]], count: Count
) -> list[Edit]:
    """Words as they are meant, where that is clear: one that is known, or of fewer tokens among several such words."""
    found = [(word, *plainly(word[0], count)) for word in words]
    weighed = [(word, plain, old, count(plain)) for word, plain, old in found if plain != word[0]]
    sure = [_sure(plain, old, new) for _, plain, old, new in weighed]
    several = sum(sure) >= _SEVERAL
    return [
        (*word.span(), plain)
        for (word, plain, old, new), clear in zip(weighed, sure, strict=True)
        if clear or (several and new < old and 3 * new <= len(plain) + 1)
    ]


def _sure(plain: str, old: float, new: int) -> bool:
    letters = sum(map(str.isalpha, plain))
    return old - new >= (1 if new == 1 and letters > 3 else 2) and (new == 1 or (4 * new <= letters and 2 * new <= old))


def _unmarked(word: str, count: Count) -> tuple[str, int]:
    if _COMPOUND.fullmatch(word) or "**" in word or word.count("*") == 1:
        return word, 0  # a star stands for a letter
    pieces = re.split(rf"{_MARK}+", word)
    if len(word) < 2 * len(pieces):  # initials
        return word, 0
    return "".join(pieces), sum(map(count, pieces))


def _lettered(word: str, count: Count) -> tuple[str, float]:
    """The word in letters. A sign before it may be that of a name."""
    if _NUMBER.fullmatch(word) or not any(map(str.isalpha, word)):
        return word, 0
    ways = product(*(_LEET.get(letter, letter) for letter in word))
    plain = min(islice(map("".join, ways), _WAYS), key=count)
    if count(plain) > 1 and any(sign in word for sign in "+(|"):
        return word, 0  # more likely a formula
    if _NAMED.fullmatch(word):
        return plain, count(plain) + 0.5  # meant so only beside words that surely are
    return plain, count(word.lstrip("@$"))


def _shortened(word: str, count: Count) -> tuple[str, int]:
    plain = min((_RUN.sub(r"\1" * often, word) for often in (2, 1)), key=count)
    return (plain if len(set(plain.lower())) > 2 else word), count(word)
