"""The sentences of a text, judged beside the whole: a bad one cannot hide among good ones."""

from __future__ import annotations

from guard.sentences import Span, sentences

SURE = 0.85  # probability from which on a part counts: alone it lacks what would explain it
_MOST = 16


def parts(text: str) -> list[Span]:
    """Where the sentences of a text are, neighbours together where they are many; none of a text that is one sentence.

    >>> text = "We met at nine. I hate you! Bye."
    >>> [text[start:end] for start, end in parts(text)], parts("I hate you!")
    (['We met at nine.', 'I hate you!', 'Bye.'], [])
    """
    spans = sentences(text, _MOST)
    return spans if len(spans) > 1 else []
