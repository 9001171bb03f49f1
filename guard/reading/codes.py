"""Codes: what is written in base64, in numbers, with shifted letters or backwards is put in plain letters.

A run is only decoded where plain text comes out: bytes that are printable UTF-8, or letters that the model's tokenizer
knows as words, of which it needs far fewer tokens. So a hash stays a hash, and French stays French.
"""

from __future__ import annotations

import binascii
import html
import re
import string
from base64 import b32decode, b64decode
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from urllib.parse import unquote_to_bytes

from guard.reading.reading import Count, Edit, Reading

_DIGIT = re.compile(r"\d")
_CODE = re.compile(r"[A-Za-z0-9+/_-]{16}|[A-Za-z0-9+/]{6}=")
_PADDED = re.compile(r"(?<![\w+/-])[A-Za-z0-9+/]{6,14}={1,2}(?![\w+/=])")
_BASE64 = re.compile(r"(?<![\w+/-])(?:[A-Za-z0-9+/_-]{4}(?:\r?\n)?){4,}(?:[A-Za-z0-9+/_-]{2,3}={0,2})?(?![\w+/=])")
_BASE32 = re.compile(r"(?<!\w)[A-Z2-7]{16,}={0,6}(?![\w=])")
_HEX = re.compile(r"(?<!\w)(?:(?:0x|\\x|=)?[0-9A-Fa-f]{2}[\s,:]?){8,}(?!\w)")
_BITS = re.compile(r"(?<!\w)(?:[01]{8}\s?){4,}(?!\w)")
_NUMBERS = re.compile(r"(?<![\w.,])(?:1?\d{2}[\s,]{1,2}){5,}1?\d{2}(?![\w.,]\d)")
_MORSE = re.compile(r"(?<![\w.-])[.-]{1,6}(?:(?: | ?/ ?| {2,7})[.-]{1,6}){4,}(?![\w.-])")
_UNBROKEN = re.compile(r"\S+")
_ESCAPED = re.compile(r"(?:\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}){2,}")
_ENTITIES = re.compile(r"(?:&#(?:\d{2,6}|x[0-9A-Fa-f]{2,5});)+")
_WORD = re.compile(r"\b[^\W\d_]{1,64}\b")
_QUOTED = r"""(?:"[^"\n]{1,80}"|'[^'\n]{1,80}'|“[^”\n]{1,80}”|«[^»\n]{1,80}»)"""
# Pieces of one text: quoted, and with nothing between but signs and short names, such as `a = "ki"; b = "ll"`.
_PIECES = re.compile(rf"{_QUOTED}(?:[\s+,&.;]{{0,8}}(?:\b[A-Za-z]\w{{0,11}} ?= ?)?{_QUOTED})+")
_FEWEST_WORDS, _FEWEST_LETTERS, _FEWEST_TOKENS, _SHARE = 3, 10, 6, 0.6
_FEWEST_BYTES = 12  # of decimal digits
STRANGE = 1.6  # tokens of a word, on the average, from which on a run of words may be a code
_START = 400  # characters that tell whether a run makes sense
_LOOKED_AT = 8192  # characters in which shifted letters are looked for


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
    if _DIGIT.search(reading.text):
        reading = reading.sub(_BITS, _from_bits).sub(_HEX, _from_hex)
        reading = reading.sub(_NUMBERS, lambda match: _words(bytes(map(int, re.findall(r"\d+", match[0]))), count))
    if _CODE.search(reading.text):
        reading = reading.sub(_BASE32, _from_base32).sub(_BASE64, _from_base64)
        reading = reading.sub(_PADDED, lambda match: _words((_from_base64(match) or "").encode(), count))
    if "%" in reading.text:
        reading = reading.sub(_UNBROKEN, _from_percent)
    if "\\" in reading.text:
        reading = reading.sub(_ESCAPED, _unescaped)
    if "&#" in reading.text:
        reading = reading.sub(_ENTITIES, _from_entities)
    if ". " in reading.text or "- " in reading.text:
        reading = reading.sub(_MORSE, lambda match: _words(_from_morse(match[0]).encode(), count))
    return _unscrambled(reading.edited(_joined(reading.text, count)), count)


def _joined(text: str, count: Count) -> Iterator[Edit]:
    """Words that are handed out in pieces are put behind them: nothing of the text may be lost."""
    if sum(map(text.count, "\"'”»")) < 2:
        return
    for match in _PIECES.finditer(text):
        pieces = [piece[1:-1] for piece in re.findall(_QUOTED, match[0])]
        joined = f" ({''.join(pieces)})"
        old, new = sum(map(count, pieces)), count(joined[2:-1])
        if old - new >= 2 and 3 * new <= 2 * old and not text.startswith(joined, match.end()):
            yield match.end(), match.end(), joined


def _from_bits(match: re.Match[str]) -> str | None:
    return _text(bytes(int(bits, 2) for bits in re.findall("[01]{8}", match[0])))


def _from_base32(match: re.Match[str]) -> str | None:
    run = match[0].rstrip("=")
    try:
        return _text(b32decode(run + "=" * (-len(run) % 8)))
    except binascii.Error:
        return None


def _from_percent(match: re.Match[str]) -> str | None:
    """An address stays as it is written."""
    if match[0].count("%") < 2 or "://" in match[0] or match[0].startswith("www."):
        return None
    return _text(unquote_to_bytes(match[0].replace("+", " ")))


def _from_entities(match: re.Match[str]) -> str | None:
    plain = html.unescape(match[0])
    return plain if len(plain) > 1 or plain.isalpha() else None


def _from_morse(run: str) -> str:
    words = re.split(r" ?/ ?| {2,}", run)
    return " ".join("".join(_MORSE_LETTERS.get(letter, "") for letter in word.split()) for word in words)


_MORSE_SIGNS = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
)
_MORSE_LETTERS = dict(zip(_MORSE_SIGNS.split(), string.ascii_lowercase, strict=True))


def _from_hex(match: re.Match[str]) -> str | None:
    """Decimal digits alone are a number, unless they are more than any number has."""
    digits = re.sub(r"0x|[^0-9A-Fa-f]", "", match[0])
    data = bytes.fromhex(digits) if len(digits) % 2 == 0 else b""
    number = digits.isdecimal() and (len(data) < _FEWEST_BYTES or len(set(data)) < 4)
    found = None if number else _text(data)
    return None if found is None else found + match[0][len(match[0].rstrip()) :]


def _from_base64(match: re.Match[str]) -> str | None:
    run = "".join(match[0].split()).translate(_URL_SAFE).rstrip("=")
    if run.isdecimal():
        return None
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
    return found if plain and 2 * sum(map(str.isalnum, found)) > len(found) and any(map(str.isalpha, found)) else None


def _words(data: bytes, count: Count) -> str | None:
    """The bytes as a text of words."""
    found = _text(data)
    if not found or len(set(found)) < 4:  # the same one or two characters again and again
        return None
    return found if 3 * count(found[:_START]) <= len(found[:_START]) else None


def _unscrambled(reading: Reading, count: Count) -> Reading:
    """The run of words that is plain when its letters are shifted, or its words turned, if there is one.

    A word within it that takes more tokens then stays as it is: it may be plain already.
    """
    own = list(map(count, _WORD.findall(reading.text, 0, _LOOKED_AT)))
    known = own.count(1)
    if sum(own) - known - STRANGE * (len(own) - known) < _FEWEST_TOKENS / 2:
        return reading  # mostly known words already
    words = list(_WORD.finditer(reading.text, 0, _LOOKED_AT))
    if _richest([tokens - STRANGE for tokens in own])[0] < _FEWEST_TOKENS / 2:
        return reading
    strange = "".join(word[0] for word, tokens in zip(words, own, strict=True) if tokens > 1)
    weights = [_weight(word[0], count) for word in words]
    best: tuple[float, int, int, list[str], list[float]] = (0, 0, 0, [], [])
    for plain in (_backwards, _mirrored, *map(_shift, _likely(strange.lower()))):
        read = [plain(word[0]) for word in words]
        saved = [old - _weight(new, count) for old, new in zip(weights, read, strict=True)]
        best = max(best, (*_richest(saved), read, saved))
    gain, start, end, read, saved = best
    old, letters = sum(own[start:end]), set(read[start:end])
    if (
        len(letters) < _FEWEST_WORDS
        or gain < _FEWEST_TOKENS
        or old - gain > _SHARE * old
        or sum(map(len, letters)) < _FEWEST_LETTERS
    ):
        return reading
    return reading.edited((*words[at].span(), read[at]) for at in range(start, end) if saved[at] > -0.5)


def _weight(word: str, count: Count) -> float:
    """The tokens of a word, and of two words with the same number that of the more frequent letters a little less."""
    return count(word) - sum(_FREQUENT.get(letter, 0) for letter in word.lower()) / (1000 * len(word))


def _likely(letters: str) -> list[int]:
    """By how many places letters may have been shifted: those where the frequent ones are frequent, and 13."""
    counts = [letters.count(letter) for letter in string.ascii_lowercase]
    fits = {
        places: sum(often * _OFTEN[(at + places) % 26] for at, often in enumerate(counts)) for places in range(1, 26)
    }
    return list({13, *sorted(fits, key=lambda places: -fits[places])[:_SHIFTS]})


# Of a thousand letters of English, by the alphabet.
_OFTEN = (82, 15, 28, 43, 127, 22, 20, 61, 70, 2, 8, 40, 24, 67, 75, 19, 1, 60, 63, 91, 28, 10, 24, 2, 20, 1)
_FREQUENT = dict(zip(string.ascii_lowercase, _OFTEN, strict=True))
_SHIFTS = 4


def _richest(saved: Sequence[float]) -> tuple[float, int, int]:
    """The neighbours with the greatest sum: (sum, first, behind the last), the shortest run of equal ones.

    >>> _richest([-1, 2, -1, 2, 0, -3])
    (3, 1, 4)
    """
    best: tuple[float, int, int] = (0, 0, 0)
    total, start = 0.0, 0
    for at, gain in enumerate(saved):
        if total <= 0:
            total, start = 0, at
        total += gain
        if total > best[0]:
            best = (total, start, at + 1)
    return best


def _backwards(word: str) -> str:
    return word[::-1]


def _mirrored(word: str) -> str:
    """a for z and z for a."""
    return word.translate(_MIRROR)


_MIRROR = str.maketrans(string.ascii_letters, string.ascii_lowercase[::-1] + string.ascii_uppercase[::-1])


@cache
def _shift(places: int) -> Callable[[str], str]:
    shifted = [alphabet[places:] + alphabet[:places] for alphabet in (string.ascii_lowercase, string.ascii_uppercase)]
    table = str.maketrans(string.ascii_letters, "".join(shifted))
    return lambda word: word.translate(table)
