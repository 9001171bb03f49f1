"""A source is one file, or one query, of an input: the contract between a `Reader` and what it reads from.

The one rule: a seal is updated with everything that lies before the row last given, and with nothing behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from guard.scan.row import Row, Wanted

_ENCODER = json.JSONEncoder(default=repr)


class Seal(Protocol):
    """A hash that is being made, of `hashlib`."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Changed(Exception):
    """What lies before the place at which to go on is not what was read before."""


class Source:
    """Opened by `start`, read once by `rows`, let go by `close`; then it may be started again.

    Raises `InvalidFile` for what cannot be used at all, and `OSError` for what cannot be read.
    """

    def __init__(self, name: str, wanted: Wanted) -> None:
        self.name = name  # for messages: it holds no password
        self.wanted = wanted
        self.columns: tuple[str, ...] = ()  # known once started
        self.at = 0  # where the row last given ends: bytes of text, or rows
        self.open_end = False  # that row was the last and had no line end: more may have been on its way

    @property
    def share(self) -> float:
        """Of it that has been read, 0 to 1."""
        raise NotImplementedError

    def weigh(self) -> int:
        """How much there is to read, against other sources of an input; at least 1."""
        return 1

    def start(self, seal: Seal, at: int = 0, *, open_end: bool = False) -> None:
        """Open it and go to `at`; the seal is updated with what lies before. Raises `Changed` where it can tell."""
        raise NotImplementedError

    def rows(self, seal: Seal, before: int) -> Iterator[Row]:
        """The rows from there on, numbered from `before + 1`; `at` and the seal follow."""
        raise NotImplementedError

    def skip(self, seal: Seal) -> None:
        """Update the seal with all of it, as reading all its rows would."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what `start` opened."""

    def changed(self) -> bool:
        """Is it possible that it was written to since it was started?"""
        return False


def content(values: Sequence[Any]) -> bytes:
    """What is sealed of a row of which only its cells are known: the same bytes for the same cells."""
    return _ENCODER.encode(values).encode() + b"\n"
