"""Foreign text on a terminal, in a report or a log."""

from __future__ import annotations


def printable(text: str, limit: int | None = None) -> str:
    r"""One line that does nothing to a terminal: what is not printable stands there as an escape.

    >>> printable("so\n[2J\x1b[2J \u202e!")
    'so\\n[2J\\x1b[2J \\u202e!'
    >>> printable("one two three", limit=8)
    'one two…'
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
