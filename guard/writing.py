"""Tokens as they are generated → text as it can be shown: whole characters, and nothing of a stop string.

Stop strings are matched in the text, because a tokenizer may spell them in many ways and across other words' tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

_HALF = "\ufffd"  # what a decoder makes of the first bytes of a character


def written(tokens: Iterable[int], decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> Generator[str]:
    """The text of `tokens` in the parts in which it comes, up to the first stop string and without it.

    What may yet become a stop string is held back. Whoever closes this, and a stop string, closes `tokens`.

    >>> letters = lambda ids: "".join(map(chr, ids))
    >>> list(written(map(ord, "so be it. END of it"), letters, stops=["END"]))
    ['s', 'o', ' ', 'b', 'e', ' ', 'i', 't', '.', ' ']
    """
    stops = [stop for stop in stops if stop]
    coming, held = iter(tokens), ""
    try:
        for part in _characters(coming, decode):
            held += part
            if (end := _first(held, stops)) is not None:
                if end:
                    yield held[:end]
                return
            keep = max((_overlap(held, stop) for stop in stops), default=0)
            if len(held) > keep:
                yield held[: len(held) - keep]
                held = held[len(held) - keep :]
        if held:
            yield held
    finally:
        if isinstance(coming, Generator):
            coming.close()


def _characters(tokens: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Generator[str]:
    """What each token adds to the text; held back while it ends within a character.

    A token's text may depend on the ones before it (a leading space, say), so that those since the last text but one
    are decoded again.
    """
    ids: list[int] = []
    shown, first = 0, 0  # tokens whose text was given out; where decoding begins
    for token in tokens:
        ids.append(token)
        before, now = decode(ids[first:shown]), decode(ids[first:])
        if len(now) > len(before) and not now.endswith(_HALF):
            yield now[len(before) :]
            first, shown = shown, len(ids)
    if rest := decode(ids[first:])[len(decode(ids[first:shown])) :]:
        yield rest  # it ended within a character


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` is the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
