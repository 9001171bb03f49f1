"""What an engine is asked and what it answers. Plain data: no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from guard.errors import EngineError

Ids = tuple[int, ...]
LogProbs = tuple[float, ...]
BASE = ""  # the name of no adapter


@dataclass(frozen=True, slots=True)
class Request:
    """One closed question: a path of segments, and the C labels that may follow it.

    `segments[0]` is the part that many requests share (the policy); its keys and values are kept between calls.
    A label that is the beginning of another one is scored together with `terminator`, so that the set of answers is
    free of prefixes and their probabilities can be compared. `adapter` names the LoRA adapter that it is asked under.
    """

    segments: tuple[Ids, ...]
    labels: tuple[Ids, ...]
    terminator: int
    adapter: str = BASE


class Engine(Protocol):
    """What the moderator needs of an engine."""

    model_id: str
    vocab_size: int  # token ids are below it
    max_tokens: int  # the longest path, labels included, that one request may have

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """ln P(label | segments) for each label (C values), or the error that this request alone met; in order."""
        ...

    def pin(self, prefixes: Sequence[Ids]) -> None:
        """Compute these first segments now and keep them whatever comes, in place of those pinned before.

        Raises `EngineError` where that cannot be.
        """
        ...


def answers(request: Request) -> tuple[Ids, ...]:
    """The labels as they are scored: terminated where they begin another one.

    >>> answers(Request(segments=((1,),), labels=((7,), (7, 8), (9,)), terminator=2))
    ((7, 2), (7, 8), (9,))
    """
    labels = request.labels
    return tuple(
        (*label, request.terminator) if any(_begins(label, other) for other in labels) else label for label in labels
    )


def _begins(label: Ids, other: Ids) -> bool:
    return len(label) < len(other) and other[: len(label)] == label
