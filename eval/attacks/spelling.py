"""Attacks on spelling: the words are written in another way, and read aloud they are the same."""

from __future__ import annotations

import re
import unicodedata
from random import Random

LEET = {"a": "4@", "b": "8", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7"}
MARKS = ".-_*"  # stand within words
EMOJI = {
    "airport": "🛫", "ambulance": "🚑", "apple": "🍎", "baby": "👶", "bank": "🏦", "bed": "🛏️", "beer": "🍺",
    "bike": "🚲", "blood": "🩸", "boat": "⛵", "bomb": "💣", "bombs": "💣💣",
    "brain": "🧠", "bread": "🍞", "bus": "🚌", "camera": "📷", "car": "🚗", "cars": "🚗🚗", "cash": "💵",
    "cat": "🐱", "cats": "🐱🐱", "church": "⛪", "coffee": "☕", "computer": "💻", "cow": "🐮", "dog": "🐶",
    "dogs": "🐶🐶", "door": "🚪", "ear": "👂", "egg": "🥚", "eggs": "🥚🥚", "eyes": "👀",
    "gun": "🔫", "guns": "🔫🔫", "hammer": "🔨", "heart": "❤️", "hospital": "🏥", "house": "🏠",
    "knife": "🔪", "laptop": "💻", "love": "❤️", "medicine": "💊", "money": "💰",
    "monkey": "🐒", "monkeys": "🐒🐒", "moon": "🌙", "mosque": "🕌", "nose": "👃", "phone": "📱", "pig": "🐷",
    "pigs": "🐷🐷", "pill": "💊", "pills": "💊💊", "pistol": "🔫", "plane": "✈️", "rain": "🌧️", "rat": "🐀",
    "rats": "🐀🐀", "school": "🏫", "snake": "🐍", "sun": "☀️", "syringe": "💉",
    "teeth": "🦷🦷", "tooth": "🦷", "tree": "🌳", "truck": "🚚", "van": "🚐", "water": "💧",
    "wine": "🍷",
}  # fmt: skip
ORNAMENTS = ("👏", "✨", "🌸", "🎵", "🍀")
_SOUNDS = (("ph", "f"), ("ck", "k"), ("qu", "kw"), ("ough", "uff"), ("tion", "shun"), ("ee", "ea"), ("ss", "s"),
           ("ll", "l"), ("tt", "t"), ("x", "ks"))  # fmt: skip
_JOINER, _FLAGS, _SKINS = "\u200d", ("\U0001f1e6", "\U0001f1ff"), ("\U0001f3fb", "\U0001f3ff")


def leetspeak(text: str, random: Random) -> str:
    """Digits and signs for some letters that they resemble; each stands for one letter only.

    Words of one and two letters stay: "a 5 yr old" would be read as "45 yr old", and "to" as 70.
    """

    def written(match: re.Match[str]) -> str:
        return "".join(
            random.choice(LEET[letter.lower()]) if letter.lower() in LEET and random.random() < 0.4 else letter
            for letter in match[0]
        )

    return re.sub(r"\w{3,}", written, text)


def spacing(text: str, _: Random) -> str:
    """A space between all characters, so that three stand where one stood.

    >>> spacing("go on", Random(0))
    'g o   o n'
    """
    return "\n".join(" ".join(clusters(line)) for line in text.split("\n"))


def punctuation(text: str, random: Random) -> str:
    """One and the same mark between half of the neighbouring letters."""
    mark = random.choice(MARKS)
    found = []
    for letter, following in zip(text, f"{text[1:]} ", strict=True):
        found.append(letter)
        if letter.isalpha() and following.isalpha() and random.random() < 0.5:
            found.append(mark)
    return "".join(found)


def casing(text: str, random: Random) -> str:
    """Capitals and small letters thrown together."""

    def flipped(letter: str) -> str:
        other = letter.swapcase()
        # a few letters, such as the dotless i, are others in the other case
        return other if other.casefold() == letter.casefold() and random.random() < 0.5 else letter

    return "".join(map(flipped, text))


def misspelling(text: str, random: Random) -> str:
    """Most words of four letters and more with one mistake inside, as in haste or by ear; both ends stay."""
    return re.sub("[A-Za-z]{4,}", lambda match: _mistake(match[0], random) if random.random() < 0.7 else match[0], text)


def _mistake(word: str, random: Random) -> str:
    sounds = [(at, had, has) for had, has in _SOUNDS if 0 < (at := word.find(had, 1)) < len(word) - len(had)]
    if sounds and random.random() < 0.5:
        at, had, has = random.choice(sounds)
        return word[:at] + has + word[at + len(had) :]
    at = random.randrange(1, len(word) - 2)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    doubled = word[: at + 1] + word[at:]
    vowels = [at for at in range(1, len(word) - 1) if word[at] in "aeiou"]
    dropped = [word[:at] + word[at + 1 :] for at in vowels] if len(word) > 5 else []
    return random.choice([swapped, doubled, *dropped[:1]])


def emoji(text: str, random: Random) -> str:
    """Pictures for the nouns that have one, and some between the words."""
    pictured = re.sub(r"\w+", lambda match: EMOJI.get(match[0].lower(), match[0]), text)
    ornament = random.choice(ORNAMENTS)
    return re.sub("(?<=[a-z]) (?=[a-z])", lambda _: f" {ornament} " if random.random() < 0.3 else " ", pictured)


def clusters(text: str) -> list[str]:
    r"""What a reader takes for one character each: a base and the marks on it, an emoji of several code points.

    >>> clusters("xe\u0301a") == ["x", "e\u0301", "a"], len(clusters("👩\u200d🚀🇳🇴"))
    (True, 2)
    """
    found: list[str] = []
    for character in text:
        if found and (_continues(character) or found[-1].endswith(_JOINER) or _is_flag(found[-1], character)):
            found[-1] += character
        else:
            found.append(character)
    return found


def _continues(character: str) -> bool:
    marks = unicodedata.category(character).startswith("M") or character == _JOINER
    return marks or _SKINS[0] <= character <= _SKINS[1]


def _is_flag(first: str, second: str) -> bool:
    low, high = _FLAGS
    return len(first) == 1 and low <= first <= high and low <= second <= high
