"""Long text → overlapping passages that each fit the room which the prompt leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from guard.tokenizer import pieces

Encode = Callable[[str], list[int]]
Piece = tuple[str, tuple[int, ...], int]  # a text, its ids, and where it begins in the text that was cut


@dataclass(frozen=True)
class Cut:
    """The passages of one text, and whether a limit left some of it out."""

    passages: tuple[Piece, ...]
    truncated: bool
    parts: tuple[Piece, ...] = ()  # sentences that are judged beside the passages

    @property
    def all(self) -> tuple[Piece, ...]:
        return self.passages + self.parts


def cut(text: str, encode: Encode, room: int, overlap: int, limit: int) -> Cut:
    """Cut `text` into passages of at most `room` tokens that share about `overlap` tokens with their neighbours.

    No more than `limit` passages are made, and no more of the text is tokenised than they need: a text of 1 MB costs
    what `limit` passages cost. Each passage is encoded as a text of its own.

    With one token per word, room 4 and overlap 1, seven words a..g become a b c d | d e f g:

    >>> made = cut("a b c d e f g", lambda s: [0] * len(s.split()), room=4, overlap=1, limit=8)
    >>> [passage for passage, _, _ in made.passages], made.truncated
    (['a b c d ', 'd e f g'], False)
    """
    if len(text) <= room * 16:  # else it cannot be one passage of ordinary text, and need not be encoded whole
        whole = encode(text)
        if len(whole) <= room:
            return Cut(((text, tuple(whole), 0),), False)
    passages: list[Piece] = []
    held: deque[tuple[str, int]] = deque()  # words of the passage being filled, with their token counts
    total = 0  # their sum
    start = 0  # of the first of them, in the text
    fresh = False  # does `held` hold a word that no passage has yet?
    for word in pieces(text):
        size = len(encode(word))
        if fresh and total + size > room:
            passages += _encoded("".join(w for w, _ in held), encode, room, start)
            fresh = False
            if len(passages) >= limit:  # and this word is in none of them
                return Cut(tuple(passages[:limit]), True)
        if not fresh:  # what is left of the last passage is the overlap
            while held and (total > overlap or total + size > room):
                left, tokens = held.popleft()
                total, start = total - tokens, start + len(left)
        held.append((word, size))
        total += size
        fresh = True
    passages += _encoded("".join(w for w, _ in held), encode, room, start)
    return Cut(tuple(passages[:limit]), len(passages) > limit)


def _encoded(text: str, encode: Encode, room: int, start: int) -> list[Piece]:
    """A passage with its ids; halved until it fits, should it encode to more tokens than its words did one by one."""
    ids = tuple(encode(text))
    if len(ids) <= room or len(text) < 2:
        return [(text, ids[:room], start)]
    middle = len(text) // 2
    return [
        *_encoded(text[:middle], encode, room, start),
        *_encoded(text[middle:], encode, room, start + middle),
    ]
