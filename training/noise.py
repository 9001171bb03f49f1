"""Misspelling and disguise, as people do it: what a text says stays readable."""

from __future__ import annotations

import random

LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "$", "t": "7"}


def noised(draw: random.Random, text: str) -> str:
    """`text` with typing errors, leetspeak, spaced-out or starred words, drawn by `draw`."""
    words = text.split(" ")
    way = draw.choice((_typo, _leet, _spaced, _starred))
    share = draw.uniform(0.1, 0.5)
    return " ".join(way(draw, word) if len(word) > 3 and draw.random() < share else word for word in words)


def _typo(draw: random.Random, word: str) -> str:
    at = draw.randrange(len(word) - 1)
    return draw.choice((
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # swapped
        word[:at] + word[at + 1 :],  # left out
        word[:at] + word[at] + word[at:],  # doubled
    ))  # fmt: skip


def _leet(draw: random.Random, word: str) -> str:
    return "".join(LEET[c] if c in LEET and draw.random() < 0.6 else c for c in word)


def _spaced(draw: random.Random, word: str) -> str:
    return draw.choice((" ", ".", "-")).join(word)


def _starred(draw: random.Random, word: str) -> str:
    at = draw.randrange(1, len(word) - 1)
    return word[:at] + "*" + word[at + 1 :]
