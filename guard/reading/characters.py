"""Characters: what is invisible goes, what looks like a Latin letter becomes one, what is shown backwards is turned.

Only disguises are touched. A word of one alphabet stays as it is, as do the accents that some language writes, the
joiners of scripts that need them, and emoji. The look-alikes are Unicode's own (UTS 39, confusables).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from itertools import islice, product

from guard.reading.reading import Count, Edit, Reading

_ODD = re.compile("[^\t\n\r -~]")
_FLAG = "\U0001f3f4[\U000e0030-\U000e007a]{3,6}\U000e007f"  # of England, Scotland, Wales
_TAGS = re.compile(f"{_FLAG}|[\U000e0020-\U000e007e]+")  # ASCII that is not shown, and that some models read
# Nothing is to be seen of these. Joiners are another matter: emoji and some scripts need them.
_INVISIBLE = re.compile(
    f"{_FLAG}|[\0-\x08\x0b\x0c\x0e-\x1f\x7f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
_JOINERS = re.compile("(?<![\xa9\xae\u0590-\U0010ffff])[\u200c\u200d\ufe00-\ufe0f]++(?!\u20e3)")
_BLANK = re.compile("\u3164|(?<![\u2801-\u28ff])\u2800(?![\u2801-\u28ff])")
_KEYCAP = re.compile("(?<=[A-Za-z])([0-9])\ufe0f?\u20e3|([0-9])\ufe0f?\u20e3(?=[A-Za-z])")
_WINDOWS = re.compile("[\x80-\x9f]")  # control characters, where a text in cp1252 was read as Latin-1
_BACKWARDS = re.compile("\u202e([^\u202c\u202d\u202e\u2069\n]*)[\u202c\u202d\u2069]?")
_TURNED = dict(zip("ɐqɔpǝɟƃɓɥᴉıɾʞlןɯuodbɹsʇnʌʍxʎz∀ƆƎℲ⅁HIſ˥WNOԀSΛMX⅄Z˙'¿¡",
                   "abcdefgghiijkllmnopqrstuvwxyzACEFGHIJLMNOPSVWXYZ.,?!", strict=True))  # fmt: skip
_UPSIDE_DOWN = re.compile(f"(?<!\\S)(?=\\S)[{''.join(_TURNED)} ,.?!]{{6,}}(?!\\S)")
_ONLY_TURNED = re.compile("[ɐɔǝɟɥᴉʞɯɹʇʌʍʎ]")
# Signs of the phonetic alphabet that nobody takes for a Latin letter.
_PHONETIC = re.compile(
    "[\u0250\u0252-\u0260\u0264-\u0269\u026b-\u0273\u0275-\u027f\u0281-\u0298\u02a0-\u02af\u02c8\u02cc\u02d0]"
)
_WORD = re.compile(r"[^\W\d_](?:[\w'’]*\w)?")
_UNBROKEN = re.compile(r"\S+")
_FOREIGN = re.compile(r"[^\W\d_\x00-\u024f\u1e00-\u1eff]")
_LETTER_NAME = re.compile(
    r"(?:LATIN (?:(CAPITAL|SMALL) LETTER|LETTER SMALL CAPITAL|CAPITAL LETTER SMALL)|MODIFIER LETTER SMALL CAPITAL)"
    r" ([A-Z])\Z"
)
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff"
_MARKED = re.compile(f"[\u00c0-\u024f\u1e00-\u1eff][{_MARKS}]*|[A-Za-z][{_MARKS}]+")
# Latin letters with the accents of some language, or of those that others are transcribed with; a tone may stand above.
_WRITTEN = re.compile(
    "[\u00c0-\u024f\u1ea0-\u1ef9ḌḍḎḏḠḡḤḥḪḫḴḵḶḷḸḹḺḻṀṁṂṃṄṅṆṇṚṛṜṝṢṣṬṭṮṯẀ-ẅẎẏẒẓẖ][\u0300\u0301\u0303\u0304\u030c]?"
    "|[AEGIJLMNORUYaegijlmnoruy][\u0300-\u0304\u030c]"
)
_WAYS, _LONG = 16, 40  # to read one word, at most; characters of a word that is read in one way
_STRAY = 3  # accents that no language writes, from which on accents are taken for ornament
_ENOUGH = 6  # letters of known words, from which on a text is no chance
_START = 400  # characters that tell whether a run makes sense


def unmasked(reading: Reading, count: Count) -> Reading:
    """The text as it looks. A text of ASCII letters comes back as it is.

    >>> unmasked(Reading("Ｙou \\u200bаre k\\u0336i\\u0307\\u200bl\\u0337led"), len).text
    'You are killed'
    """
    if not _ODD.search(reading.text):
        return reading
    reading = reading.sub(_TAGS, lambda match: _unless_flag(match, _shown_tags(match[0])))
    reading = reading.sub(_BACKWARDS, lambda match: _turned(match[1], count))
    reading = reading.sub(_INVISIBLE, lambda match: _unless_flag(match, "")).sub(_JOINERS, "").sub(_BLANK, " ")
    reading = reading.sub(_WINDOWS, lambda match: match[0].encode("latin-1").decode("cp1252", "ignore"))
    reading = reading.sub(_KEYCAP, lambda match: match[1] or match[2])
    if reading.text.isascii():
        return reading
    reading = reading.sub(_UPSIDE_DOWN, lambda match: _upright(match[0], count)).sub(_UNBROKEN, _unstyled)
    reading = reading.edited(_without_accents(reading.text, count))
    return reading.edited(_latin(reading.text, count)) if _FOREIGN.search(reading.text) else reading


def _unless_flag(match: re.Match[str], plain: str) -> str | None:
    return None if match[0][0] == _FLAG[0] else plain


def _shown_tags(tags: str) -> str:
    return "".join(chr(ord(letter) - 0xE0000) for letter in tags if letter > "\U000e0000")


def _turned(run: str, count: Count) -> str:
    """What is shown from right to left, as it makes sense: a person reads the screen, and a model the file.

    Whichever way is taken, a word that makes sense in the other stays readable.
    """
    way = min(run[::-1], run, key=lambda way: count(way[:_START]))
    return _UNBROKEN.sub(lambda word: min(word[0], word[0][::-1], key=lambda way: count(way[:_START])), way)


def _upright(run: str, count: Count) -> str | None:
    """Letters that stand on their heads, read from the other side, where that makes sense."""
    body = run.rstrip()
    if len(_ONLY_TURNED.findall(body)) < _STRAY:
        return None
    plain = "".join(_TURNED.get(letter, letter) for letter in reversed(body))
    return plain + run[len(body) :] if 2 * count(plain[:_START]) <= count(body[-_START:]) else None


def _unstyled(match: re.Match[str]) -> str | None:
    """Latin letters for those in another style; digits only beside such letters, for many scripts have their own."""
    word = match[0]
    if word.isascii() or _PHONETIC.search(word):
        return None
    plain = [(letter >= "\u0180" and _plain(letter)) or letter for letter in word]
    return "".join(plain) if any(letter.isascii() and letter.isalpha() for letter in plain) else None


@cache
def _plain(letter: str) -> str | None:
    """The ASCII letter or digit that a styled one stands for: full-width, mathematical, circled, small capital."""
    if (
        unicodedata.category(letter) in ("No", "Mn", "Me", "Cf")
        or "\u2100" <= letter <= "\u2138"
        or letter in "ℿℽⅅⅆⅇⅈⅉⁱⁿ"
    ):
        return None  # powers, list items, signs of mathematics
    same = unicodedata.normalize("NFKC", letter)
    if len(same) == 1 and same.isascii() and same.isalnum():
        return same
    named = _LETTER_NAME.search(unicodedata.name(letter, ""))
    if named is None:
        return None
    return named[2] if named[1] == "CAPITAL" else named[2].lower()


def _without_accents(text: str, count: Count) -> list[Edit]:
    """Latin letters without their marks, where marks are strewn as no language writes them."""
    marked = list(_MARKED.finditer(text))
    if sum(_is_stray(match[0]) for match in marked) < _STRAY and not _is_ornament(text, len(marked), count):
        return []
    return [(*match.span(), bare) for match in marked if (bare := _bare(match[0])) != match[0]]


def _is_ornament(text: str, marked: int, count: Count) -> bool:
    """Whether most letters have accents, and all of it are known words without."""
    if marked < _ENOUGH:
        return False
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    return 10 * marked >= 7 * sum(map(len, words)) and all(
        count("".join(map(_bare, word))) == 1 for word in words if len(word) <= _LONG
    )


@lru_cache(4096)
def _bare(letter: str) -> str:
    """A letter without its accents.

    >>> [_bare(letter) for letter in ("ķ", "ł", "e\\u0301")]
    ['k', 'l', 'e']
    """
    base = unicodedata.normalize("NFD", letter)[0]
    named = _WITH.match(unicodedata.name(base, ""))
    return base if named is None else named[2] if named[1] == "CAPITAL" else named[2].lower()


_WITH = re.compile("LATIN (CAPITAL|SMALL) LETTER ([A-Z]) WITH ")


@lru_cache(4096)
def _is_stray(letter: str) -> bool:
    return _WRITTEN.fullmatch(unicodedata.normalize("NFC", letter)) is None


def _latin(text: str, count: Count) -> list[Edit]:
    """Words with look-alikes in Latin letters: those that mix alphabets, and in a text that is otherwise Latin those of
    look-alikes alone. One or two letters may be a sign, such as alpha, unless there are longer words."""
    whole: list[tuple[re.Match[str], str]] = []
    edits: list[Edit] = []
    otherwise_latin = False
    for word in _WORD.finditer(text):
        if not _FOREIGN.search(word[0]):
            otherwise_latin = True
        elif _PHONETIC.search(word[0]):
            continue
        elif len({_alphabet(letter) for letter in word[0] if letter.isalpha()}) > 1:
            latin = _in_latin(word[0], _MORE, count)
            if _all_latin(latin):
                edits += [(*word.span(), latin)] if len(latin) > 2 else []
                whole += [(word, latin)] if len(latin) <= 2 else []
        elif _all_latin(latin := _in_latin(word[0], _MORE if edits else {}, count)):
            whole.append((word, latin))
        else:
            return edits  # a word of another alphabet: a short one may be one as well
    if edits or (otherwise_latin and any(sum(map(str.isalpha, latin)) > 2 for _, latin in whole)):
        return sorted([*edits, *((*word.span(), latin) for word, latin in whole)])
    known = sum(len(latin) for _, latin in whole if count(latin) == 1)
    if not otherwise_latin and known >= _ENOUGH and known == sum(len(latin) for _, latin in whole):
        return [(*word.span(), latin) for word, latin in whole]
    return []


def _in_latin(word: str, more: dict[str, str], count: Count) -> str:
    """What is drawn like an l may stand for an i, and the other way round: the reading of fewer tokens is taken."""
    latin = "".join(_look_alike(letter) or more.get(letter.lower(), letter) for letter in word)
    drawn = [letter in _STROKES and latin[at] != letter for at, letter in enumerate(word)]
    if not any(drawn) or len(word) > _LONG:
        return latin
    ways = product(*("il" if stroke else letter for stroke, letter in zip(drawn, latin, strict=True)))
    return min(islice(map("".join, ways), _WAYS), key=count)


def _all_latin(word: str) -> bool:
    return not _FOREIGN.search(word)


@cache
def _alphabet(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


@cache
def _look_alike(letter: str) -> str | None:
    """The Latin letter that a letter of another alphabet is drawn like, in its own case where there are two."""
    if letter < "\u0250" or not letter.isalpha():
        return None
    from confusable_homoglyphs import confusables  # a table of 0.9 MB: read with the first text that needs it

    alike = (one["c"] for one in confusables.confusables_data.get(letter, []))
    latin = [one for one in alike if len(one) == 1 and one.isascii() and one.isalpha()]
    return next((one for one in latin if one.isupper() == letter.isupper()), latin[0] if latin else None)


_STROKES = "\ua4f2\u0406\u0456\u0399\u03b9\u04c0\u04cf\u0131\u05d5\u05df\u2160\u217c"
# Drawn less alike: taken for Latin only between Latin letters.
_MORE = dict(zip("вкмнтяипгцшєьεκτχωησυերտ", "bkmhtrnnruwebektxwnouets", strict=True))
