"""A scripted engine for tests and try-outs, with the interface of the real one and no model behind it.

Without a script it answers from the text alone (every word of a request counts, by hash), so that a service or a scan
of a million rows can be tried without weights. With a script it hands out the scripted probabilities in order and
fails loudly when they run out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from guard.engine.request import BASE, Ended, Growing, Ids, LogProbs, Request, Sampling
from guard.errors import EngineError

_SEEN = 5_000  # requests that are kept at least


class FakeEngine:
    """Scripted scores. Each entry is the label probabilities (C + 1) of one request, or an error to answer with."""

    def __init__(self, script: Iterable[Sequence[float] | EngineError] | None = None, max_tokens: int = 4096) -> None:
        self.model_id = "fake"
        self.vocab_size = 2**20  # it takes any id that a tokenizer could give
        self.max_tokens = max_tokens
        self.seen: list[Request] = []  # for assertions: every request of a script, else the last thousands
        self._script = None if script is None else list(script)

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """Answer from the script, or by hash."""
        return [self._answer(request) for request in requests]

    def pin(self, prefixes: Sequence[Ids]) -> None:
        """Nothing is computed, so nothing is kept."""

    def check(self) -> None:
        """It always answers."""

    def stream(self, adapter: str = BASE) -> FakeStream:
        """A running text, which is its tokens and nothing else."""
        return FakeStream()

    def extend(self, stream: FakeStream, tokens: Ids) -> None:
        """Take tokens in."""
        stream.tokens += tokens

    def ask(self, stream: FakeStream, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """As `score`, of the whole texts."""
        return self.score([replace(r, segments=((), (*stream.tokens, *_joined(r.segments)))) for r in requests])

    def generate(self, prompt: Ids, sampling: Sampling, adapter: str = BASE) -> Growing:
        """An echo of the prompt."""
        return Echo(prompt, sampling, adapter)

    def _answer(self, request: Request) -> LogProbs | EngineError:
        self.seen.append(request)
        if self._script is None:
            if len(self.seen) > 2 * _SEEN:
                del self.seen[:_SEEN]
            return _by_hash(request)
        if not self._script:
            raise AssertionError(f"the fake engine's script ended before request number {len(self.seen)}")
        entry = self._script.pop(0)
        if isinstance(entry, EngineError):
            return entry
        if len(entry) != len(request.labels):
            raise AssertionError(f"the script gives {len(entry)} probabilities to {len(request.labels)} labels")
        return tuple(math.log(max(p, 1e-12)) for p in entry)


class FakeStream:
    """The tokens of a running text."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(eq=False)
class Echo(Growing):
    """A text that repeats its prompt as far as it may."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt[: self.sampling.max_tokens])
        self.ended = Ended.STOP if len(self.tokens) == len(self.prompt) else Ended.LENGTH
        for token in (*self.tokens, None):
            self._coming.put(token)

    def cancel(self) -> None:
        """It has ended already."""


def _joined(segments: Sequence[Ids]) -> Ids:
    return tuple(chain.from_iterable(segments))


def _by_hash(request: Request) -> LogProbs:
    digest = hashlib.sha256(repr(_joined(request.segments)).encode()).digest()
    weights = [1 + digest[i % len(digest)] for i in range(len(request.labels))]
    weights[0] *= 4  # most texts are acceptable
    return tuple(math.log(w / sum(weights)) for w in weights)
