"""Codes: what is written in base64, in numbers, with shifted letters or backwards is put in plain letters.

A run is only decoded where plain text comes out: bytes that are printable UTF-8, or letters that the model's tokenizer
knows as words, of which it needs far fewer tokens. So a hash stays a hash, and French stays French.
"""

from __future__ import annotations

import binascii
import html
import re
import string
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from urllib.parse import unquote_to_bytes

from guard.reading.reading import Edit, Reading

Count = Callable[[str], int]  # how many tokens a text takes

_BASE64 = re.compile(r"(?<![\w+/=-])(?:[A-Za-z0-9+/_-]{4}(?:\r?\n)?){4,}(?:[A-Za-z0-9+/_-]{2,3}={0,2})?(?![\w+/=])")
_HEX = re.compile(r"(?<!\w)(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[\s,:]?){8,}(?!\w)")
_BITS = re.compile(r"(?<!\w)(?:[01]{8}\s?){4,}(?!\w)")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}|[\w+.-])*(?:%[0-9A-Fa-f]{2})(?:%[0-9A-Fa-f]{2}|[\w+.-])*")
_ESCAPED = re.compile(r"(?:\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}){2,}")
_ENTITIES = re.compile(r"(?:&#(?:\d{2,6}|x[0-9A-Fa-f]{2,5});){2,}")
_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile("\"([^\"\n]{1,400})\"|'([^'\n]{1,400})'(?!\\w)|“([^”\n]{1,400})”|«([^»\n]{1,400})»")
_GAP, _PIECES = 16, 3  # quoted runs with no more characters between them are pieces of one text, if they are so many
_FEWEST_WORDS, _FEWEST_TOKENS, _SHARE = 3, 6, 0.6
_STRANGE = 1.6  # tokens of a word, on the average, from which on a run of words may be a code
_LOOKED_AT = 20_000  # characters in which shifted letters are looked for


def decoded(reading: Reading, count: Count) -> Reading:
    """The text in plain letters.

    >>> from guard.reading.read import Reader
    >>> from guard.resources import shipped
    >>> from guard.tokenizer import load_tokenizer
    >>> count = Reader(load_tokenizer(shipped("models") / "embedded").encode).count
    >>> decoded(Reading("read aGVsbG8sIG15IG9sZCBmcmllbmQ= to me"), count).text
    'read hello, my old friend to me'
    >>> decoded(Reading("In ROT13: jung n tbbq vqrn guvf vf!"), count).text
    'In ROT13: what a good idea this is!'
    """
    reading = reading.sub(_BITS, lambda match: _text(bytes(int(bits, 2) for bits in re.findall("[01]{8}", match[0]))))
    reading = reading.sub(_HEX, _from_hex).sub(_BASE64, _from_base64)
    if "%" in reading.text:
        reading = reading.sub(_PERCENT, lambda match: _text(unquote_to_bytes(match[0].replace("+", " "))))
    if "\\" in reading.text:
        reading = reading.sub(_ESCAPED, _unescaped)
    if "&#" in reading.text:
        reading = reading.sub(_ENTITIES, lambda match: html.unescape(match[0]))
    return _unscrambled(reading.edited(_joined(reading.text, count)), count)


def _joined(text: str, count: Count) -> Iterator[Edit]:
    """Texts that are handed out in pieces, such as `a = "ki"; b = "ll"; print(a + b)`, in one."""
    run: list[re.Match[str]] = []
    for match in (*_QUOTED.finditer(text), None):
        if run and (match is None or match.start() - run[-1].end() > _GAP):
            if len(run) >= _PIECES:
                found = [one[one.lastindex or 0] for one in run]
                yield run[0].start(), run[-1].end(), min(" ".join(found), "".join(found), key=count)
            run = []
        if match is not None:
            run.append(match)


def _from_hex(match: re.Match[str]) -> str | None:
    digits = re.sub(r"0x|\\x|[^0-9A-Fa-f]", "", match[0])
    found = _text(bytes.fromhex(digits)) if len(digits) % 2 == 0 else None
    return None if found is None else found + match[0][len(match[0].rstrip()) :]


def _from_base64(match: re.Match[str]) -> str | None:
    run = "".join(match[0].split()).translate(_URL_SAFE).rstrip("=")
    try:
        found = _text(b64decode(run + "=" * (-len(run) % 4), validate=True))
    except binascii.Error:
        return None
    return None if found is None else found + match[0][len(match[0].rstrip()) :]


_URL_SAFE = str.maketrans("-_", "+/")


def _unescaped(match: re.Match[str]) -> str | None:
    units = re.findall(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})", match[0])
    wide = b"".join(int(long or short, 16).to_bytes(2, "little") for long, short in units)
    return wide.decode("utf-16-le", "replace")


def _text(data: bytes) -> str | None:
    """The bytes as a text, if they are one."""
    try:
        found = data.decode()
    except UnicodeDecodeError:
        return None
    plain = all(letter.isprintable() or letter in "\t\r\n" for letter in found)
    return found if plain and 2 * sum(map(str.isalpha, found)) > len(found) else None


def _unscrambled(reading: Reading, count: Count) -> Reading:
    """The run of words that is plain when its letters are shifted, or its words turned, if there is one."""
    words = [match for match in _WORD.finditer(reading.text, 0, _LOOKED_AT)]
    own = [count(word[0]) for word in words]
    if _richest([tokens - _STRANGE for tokens in own])[0] < _FEWEST_TOKENS / 2:
        return reading  # mostly known words already
    best: tuple[float, int, int, list[str]] = (0, 0, 0, [])
    for plain in (_backwards, *map(_shift, range(1, 26))):
        read = [plain(word[0]) for word in words]
        saved = [old - count(new) for old, new in zip(own, read, strict=True)]
        best = max(best, (*_richest(saved), read))
    gain, start, end, read = best
    if (
        end - start < _FEWEST_WORDS
        or gain < _FEWEST_TOKENS
        or sum(own[start:end]) - gain > _SHARE * sum(own[start:end])
    ):
        return reading
    return reading.edited((*words[at].span(), read[at]) for at in range(start, end))


def _richest(saved: Sequence[float]) -> tuple[float, int, int]:
    """The neighbours with the greatest sum: (sum, first, behind the last), the longest run of equal ones.

    >>> _richest([-1, 2, -1, 2, 0, -3])
    (3, 1, 5)
    """
    best: tuple[float, int, int] = (0, 0, 0)
    total, start = 0.0, 0
    for at, gain in enumerate(saved):
        if total < 0:
            total, start = 0, at
        total += gain
        if total >= best[0] and total > 0:
            best = (total, start, at + 1)
    return best


def _backwards(word: str) -> str:
    return word[::-1]


@cache
def _shift(places: int) -> Callable[[str], str]:
    shifted = [alphabet[places:] + alphabet[:places] for alphabet in (string.ascii_lowercase, string.ascii_uppercase)]
    table = str.maketrans(string.ascii_letters, "".join(shifted))
    return lambda word: word.translate(table)
