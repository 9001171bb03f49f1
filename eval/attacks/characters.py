"""Attacks on characters: the text looks the same, or nearly so, and is made of other code points."""

from __future__ import annotations

import re
from random import Random

# Latin letter -> Cyrillic, Greek and Armenian letters that are drawn alike.
HOMOGLYPHS = {
    "a": "аα", "c": "сϲ", "d": "ԁ", "e": "е", "g": "ց", "h": "һ", "i": "іι", "j": "јϳ", "k": "κ", "l": "ӏ", "n": "ո",
    "o": "оο", "p": "рρ", "q": "ԛ", "s": "ѕ", "u": "ս", "v": "ν", "w": "ԝ", "x": "х", "y": "у",
    "A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "J": "Ј", "K": "КΚ", "M": "МΜ", "N": "Ν",
    "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ", "Y": "ΥҮ", "Z": "Ζ",
}  # fmt: skip
ZERO_WIDTH = "\u200b\u200c\u2060\ufeff"
COMBINING = "\u0300\u0301\u0302\u0304\u0307\u0308\u030a\u0323\u0331"
# An override from right to left, its end, and a mark of the other direction: without that a space between two such
# words would be taken into their direction, and the words would change places.
_BACKWARDS, _FORWARDS = "\u202e", "\u202c\u200e"
# First code points of alphabets whose letters stand in order: Latin's A, a and 0.
_STYLES = (
    ("\uff21", "\uff41", "\uff10"),  # full-width
    ("\U0001d400", "\U0001d41a", "\U0001d7ce"),  # mathematical bold
    ("\U0001d5a0", "\U0001d5ba", "\U0001d7e2"),  # mathematical sans-serif
    ("\U0001d670", "\U0001d68a", "\U0001d7f6"),  # mathematical monospace
)
_ASCII = re.compile("[A-Za-z0-9]")
_SHARE = 0.5  # of the letters that could be changed


def homoglyphs(text: str, random: Random) -> str:
    """Look-alike letters of other alphabets for half of the Latin ones."""
    return "".join(
        random.choice(HOMOGLYPHS[letter]) if letter in HOMOGLYPHS and random.random() < _SHARE else letter
        for letter in text
    )


def styled_letters(text: str, random: Random) -> str:
    """Full-width or mathematical letters and digits for all plain ones; NFKC brings them back."""
    capital, small, digit = map(ord, random.choice(_STYLES))

    def styled(match: re.Match[str]) -> str:
        plain = match[0]
        if plain.isdigit():
            return chr(digit + int(plain))
        return chr(capital + ord(plain) - ord("A")) if plain.isupper() else chr(small + ord(plain) - ord("a"))

    return _ASCII.sub(styled, text)


def zero_width(text: str, random: Random) -> str:
    """Characters without width between half of the neighbouring letters."""
    found = []
    for letter, following in zip(text, f"{text[1:]} ", strict=True):
        found.append(letter)
        if letter.isalnum() and following.isalnum() and random.random() < _SHARE:
            found.append(random.choice(ZERO_WIDTH))
    return "".join(found)


def combining(text: str, random: Random) -> str:
    """An accent that does not belong there on half of the Latin letters."""
    return "".join(
        letter + random.choice(COMBINING) if letter.isascii() and letter.isalpha() and random.random() < _SHARE
        else letter
        for letter in text
    )  # fmt: skip


def bidi(text: str, random: Random) -> str:
    """Words stored backwards between marks that have them shown from right to left: on the screen nothing changes."""

    def turned(match: re.Match[str]) -> str:
        return f"{_BACKWARDS}{match[0][::-1]}{_FORWARDS}" if random.random() < _SHARE else match[0]

    return re.sub("[A-Za-z]{2,}", turned, text)
