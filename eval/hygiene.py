"""What must not be in a set: what a model was trained on, and what stands there twice in other words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from sklearn.feature_extraction.text import TfidfVectorizer

SHARED_WORDS = 8  # consecutive words that an item may not share with a training item
ALIKE = 0.9  # cosine of character n-gram counts (3 to 5) above which two items are the same

_WORD = re.compile(r"\w+")
_BLOCK = 512


class Alike(NamedTuple):
    """Two items that are nearly the same."""

    first: str
    second: str
    cosine: float


def ngrams(text: str, n: int = SHARED_WORDS) -> Iterator[tuple[str, ...]]:
    """Runs of n words, without case and punctuation.

    >>> list(ngrams("One, two; THREE!", 2))
    [('one', 'two'), ('two', 'three')]
    """
    words = _WORD.findall(text.casefold())
    return (tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def shared_with(texts: Mapping[str, str], others: Iterable[str]) -> dict[str, str]:
    """id -> the first run of words that an item shares with one of the other texts."""
    where: dict[tuple[str, ...], list[str]] = {}
    for id_, text in texts.items():
        for run in ngrams(text):
            where.setdefault(run, []).append(id_)
    found: dict[str, str] = {}
    for other in others:
        for run in ngrams(other):
            for id_ in where.get(run, ()):
                found.setdefault(id_, " ".join(run))
    return found


def near_duplicates(texts: Mapping[str, str]) -> list[Alike]:
    """Pairs of items whose character n-grams have a cosine above `ALIKE`, the most alike first."""
    ids = list(texts)
    if not ids:
        return []
    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), use_idf=False).fit_transform(texts.values())
    found = []
    for start in range(0, len(ids), _BLOCK):
        cosines = (counts[start : start + _BLOCK] @ counts.T).tocoo()
        for row, column, cosine in zip(cosines.row, cosines.col, cosines.data, strict=True):
            if start + row < column and cosine > ALIKE:
                found.append(Alike(ids[start + row], ids[column], round(float(cosine), 4)))
    return sorted(found, key=lambda pair: (-pair.cosine, pair))
