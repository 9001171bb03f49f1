"""What an engine is asked and what it answers. Plain data: no torch here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue
from typing import Protocol, TypeVar, runtime_checkable

from guard.errors import EngineError, GuardError

Ids = tuple[int, ...]
LogProbs = tuple[float, ...]
BASE = ""  # the name of no adapter
T = TypeVar("T")  # an engine's running text


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


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when it ends. Temperature 0 takes the likeliest token.

    `top_p`: of the likeliest tokens the fewest whose probabilities add up to it (Holtzman et al. 2020, arXiv
    1904.09751, section 3.1). The draws depend on `seed` alone.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: frozenset[int] = frozenset()  # tokens that end a text and are not given out

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise EngineError("max_tokens is at least 1, temperature at least 0, top_p above 0 and at most 1.")


class Ended(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(eq=False)
class Growing(ABC):
    """One text that grows: iterate over it for its tokens as they come; `ended` then says why no more do."""

    prompt: Ids
    sampling: Sampling
    adapter: str = BASE
    tokens: list[int] = field(default_factory=list)
    ended: Ended | None = None
    error: GuardError | None = None
    _coming: SimpleQueue[int | None] = field(default_factory=SimpleQueue)

    def __iter__(self) -> Iterator[int]:
        """Raises the error that ended it, if one did. Whoever stops reading ends the text; who never began to read
        has to `cancel` it."""
        try:
            while (token := self._next()) is not None:
                yield token
            self._coming.put(None)  # for who reads again
        finally:
            self.cancel()
        if self.error is not None:
            raise self.error

    @abstractmethod
    def cancel(self) -> None:
        """End it, soon."""

    def _next(self) -> int | None:
        return self._coming.get()


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

    def check(self) -> None:
        """Raises `NotReady` while it cannot answer."""
        ...


@runtime_checkable
class RunningEngine(Engine, Protocol[T]):
    """An engine that also keeps running texts, each of them a `T`, and makes text. All raise `EngineError`."""

    def stream(self, adapter: str = BASE) -> T:
        """An empty running text under an adapter. Its memory is free when it is closed or nobody refers to it."""
        ...

    def extend(self, stream: T, tokens: Ids) -> None:
        """Take tokens into a running text."""
        ...

    def ask(self, stream: T, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """As `score`, of requests that stand behind a running text: their first segment is empty."""
        ...

    def generate(self, prompt: Ids, sampling: Sampling, adapter: str = BASE) -> Growing:
        """A text that goes on from `prompt`."""
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
