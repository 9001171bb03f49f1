"""Characters: what is invisible goes, what looks like a Latin letter becomes one, what is shown backwards is turned.

Only disguises are touched. A word of one alphabet stays as it is, as do the accents that some language writes, the
joiners of scripts that need them, and emoji. The look-alikes are Unicode's own (UTS 39, confusables).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import islice, product

from guard.reading.reading import Edit, Reading

Count = Callable[[str], int]  # how many tokens a text takes

_TAGS = re.compile("[\U000e0020-\U000e007e]+")  # ASCII that is not shown, and that some models read
_FLAG = "\U0001f3f4"
# Nothing is to be seen of these. Joiners are another matter: emoji and some scripts need them.
_INVISIBLE = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
_JOINERS = re.compile("(?<=[A-Za-z0-9])[\u200c\u200d\ufe00-\ufe0f]+|[\u200c\u200d\ufe00-\ufe0f]+(?=[A-Za-z0-9])")
_BACKWARDS = re.compile("\u202e([^\u202c\u202d\u202e\u2069\n]*)[\u202c\u202d\u2069]?")
_WORD = re.compile(r"[^\W\d_](?:[\w'’]*\w)?", re.UNICODE)
_LETTER_NAME = re.compile(r"LATIN (?:(CAPITAL|SMALL) LETTER|LETTER SMALL CAPITAL|CAPITAL LETTER SMALL) ([A-Z])\Z")
_EUROPEAN = re.compile("[\u00c0-\u017f\u0218-\u021b\u1ea0-\u1ef9]")  # Latin letters with the accents of a language
_MARKED = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff][\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]*")
_WAYS = 32  # to read one word, at most
_STRAY = 3  # accents that no language writes, from which on accents are taken for ornament


def unmasked(reading: Reading, count: Count) -> Reading:
    """The text as it looks. A text of ASCII letters comes back as it is.

    >>> unmasked(Reading("Ｙou \\u200bаre k\\u0301i\\u0307\\u200bl\\u0331led"), len).text
    'You are killed'
    """
    if reading.text.isascii() and reading.text.isprintable():
        return reading
    reading = reading.sub(_TAGS, _shown_tags)
    reading = reading.sub(_BACKWARDS, lambda match: _turned(match[1], count))
    reading = reading.sub(_INVISIBLE, "").sub(_JOINERS, "")
    if reading.text.isascii():
        return reading
    reading = reading.edited(
        (at, at + 1, plain)
        for at, letter in enumerate(reading.text)
        if letter >= "\u0180" and (plain := _plain(letter))
    )
    reading = reading.edited(_without_accents(reading.text))
    return reading.edited(_latin(reading.text, count))


def _shown_tags(match: re.Match[str]) -> str | None:
    if match.string[max(0, match.start() - 1) : match.start()] == _FLAG:
        return None  # the flags of England, Scotland and Wales are written so
    return "".join(chr(ord(letter) - 0xE0000) for letter in match[0])


def _turned(run: str, count: Count) -> str:
    """What is shown from right to left, as it makes sense: a person reads the screen, and a model the file."""
    return min(run[::-1], run, key=count)


@cache
def _plain(letter: str) -> str | None:
    """The ASCII character that a styled one stands for: full-width, mathematical, circled, small capital."""
    if unicodedata.category(letter) == "No" and unicodedata.name(letter, "").startswith(("SUPERSCRIPT", "SUBSCRIPT")):
        return None
    same = unicodedata.normalize("NFKC", letter)
    if len(same) == 1 and same.isascii() and same != " ":
        return same
    named = _LETTER_NAME.search(unicodedata.name(letter, ""))
    if named is None:
        return None
    return named[2] if named[1] == "CAPITAL" else named[2].lower()


def _without_accents(text: str) -> list[Edit]:
    """Latin letters without their marks, where marks are strewn that no language writes."""
    marked = [match for match in _MARKED.finditer(text) if not match[0].isascii()]
    if sum(_is_stray(match[0]) for match in marked) < _STRAY:
        return []
    bare = (unicodedata.normalize("NFD", match[0])[0] for match in marked)
    return [(*match.span(), letter) for match, letter in zip(marked, bare, strict=True) if letter != match[0]]


def _is_stray(letter: str) -> bool:
    composed = unicodedata.normalize("NFC", letter)
    return len(composed) > 1 or _EUROPEAN.fullmatch(composed) is None


def _latin(text: str, count: Count) -> list[Edit]:
    """Words with look-alikes in Latin letters: those that mix alphabets, and in a text that is otherwise Latin those of
    look-alikes alone."""
    whole: list[tuple[re.Match[str], str]] = []
    edits: list[Edit] = []
    otherwise_latin = False
    for word in _WORD.finditer(text):
        own = [letter for letter in word[0] if _is_latin(letter)]
        if len(own) == sum(map(str.isalpha, word[0])):
            otherwise_latin = True
        elif own:
            edits.append((*word.span(), _in_latin(word[0], _MORE, count)))
        elif _all_latin(latin := _in_latin(word[0], {}, count)):
            whole.append((word, latin))
        else:
            return edits  # a word of another alphabet: a short one may be one as well
    return sorted([*edits, *((*word.span(), latin) for word, latin in whole if otherwise_latin)])


def _in_latin(word: str, more: dict[str, str], count: Count) -> str:
    """What is drawn like an l may stand for an i, and the other way round: the reading of fewer tokens is taken."""
    latin = "".join(_look_alike(letter) or more.get(letter.lower(), letter) for letter in word)
    drawn = [letter in _STROKES and latin[at] != letter for at, letter in enumerate(word)]
    if not any(drawn):
        return latin
    ways = product(*("il" if stroke else letter for stroke, letter in zip(drawn, latin, strict=True)))
    return min(islice(map("".join, ways), _WAYS), key=count)


def _all_latin(word: str) -> bool:
    return all(map(_is_latin, filter(str.isalpha, word)))


def _is_latin(letter: str) -> bool:
    return letter.isalpha() and (letter < "\u0250" or "\u1e00" <= letter < "\u1f00")


@cache
def _look_alike(letter: str) -> str | None:
    """The Latin letter that a letter of another alphabet is drawn like, in its own case where there are two."""
    if letter < "\u0250" or not letter.isalpha():
        return None
    from confusable_homoglyphs import confusables  # a table of 0.9 MB: read with the first text that needs it

    alike = (one["c"] for one in confusables.confusables_data.get(letter, []))
    latin = [one for one in alike if len(one) == 1 and one.isascii() and one.isalpha()]
    return next((one for one in latin if one.isupper() == letter.isupper()), latin[0] if latin else None)


_STROKES = "\u0406\u0456\u0399\u03b9\u04c0\u04cf\u0131\u05d5\u05df\u2160\u217c"
# Drawn less alike: taken for Latin only between Latin letters.
_MORE = dict(zip("\u0432\u043a\u043c\u043d\u0442\u044f\u0438\u03b5\u03ba\u03bc\u03c4\u03c7\u0565\u0580\u057f",
                 "bkmhtrnekutxets", strict=True))  # fmt: skip
