"""Engines that are loaded in another process: they have to be importable there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guard.engine.fake import FakeEngine
from guard.engine.request import BASE, Growing, Ids, LogProbs, Request, Sampling
from guard.errors import EngineError, InvalidItem, ModelUnavailable

if TYPE_CHECKING:
    from guard.engine.engine import TorchEngine

SLOW, FOREIGN, OURS, UNPICKLABLE, DEADLY = 1001, 1002, 1003, 1004, 1005  # contents that make the engine misbehave


class Endless(Growing):
    """A text that never ends by itself."""

    def cancel(self) -> None:
        """It is torn away with its process."""

    def _next(self) -> int | None:
        time.sleep(0.01)
        self.tokens.append(len(self.tokens))
        return self.tokens[-1]


class Tokens(list[int]):
    """A running text that cannot be closed."""

    def close(self) -> None:
        raise ValueError("a secret text")


class Marked(FakeEngine):
    """The fake engine, which misbehaves at some contents and writes to a file what is pinned and in which process."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = notes
        self._note(f"loaded {os.getpid()}")

    def pin(self, prefixes: Sequence[Ids]) -> None:
        self._note(f"pinned {[*prefixes]}")

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        contents = {request.segments[1][0] for request in requests}
        if SLOW in contents:
            self._note("entered")
            time.sleep(60)
        if FOREIGN in contents:
            raise ValueError("a secret text")
        if OURS in contents:
            raise InvalidItem("No.", hint="Never.", param="input.3")
        if UNPICKLABLE in contents:
            return [lambda: None]  # type: ignore[list-item]
        if DEADLY in contents:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(requests)

    def stream(self, adapter: str = BASE) -> Tokens:
        return Tokens()

    def extend(self, stream: Tokens, tokens: Ids) -> None:
        stream.extend(tokens)

    def ask(self, stream: Tokens, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        return [(float(len(stream)),) for _ in requests]

    def generate(self, prompt: Ids, sampling: Sampling, adapter: str = BASE) -> Endless:
        return Endless(prompt, sampling, adapter)

    def _note(self, line: str) -> None:
        with self._notes.open("a") as file:
            file.write(line + "\n")


class Bare:
    """An engine that keeps no running texts."""

    def __init__(self) -> None:
        self.model_id, self.vocab_size, self.max_tokens = "bare", 100, 100

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        return [(0.0,) for _ in requests]

    def pin(self, prefixes: Sequence[Ids]) -> None:
        pass

    def check(self) -> None:
        pass


class Other(FakeEngine):
    """The fake engine under the name that a file holds."""

    def __init__(self, name: Path) -> None:
        super().__init__()
        self.model_id = name.read_text()


def tiny(folder: Path) -> TorchEngine:
    """A real engine whose memory is full with a handful of running texts."""
    from guard.engine.engine import TorchEngine  # seconds, which the others need not wait for

    return TorchEngine.load(folder, dtype="float32", threads=1, memory_bytes=2**18)


def refused() -> FakeEngine:
    raise ModelUnavailable("No such model.", hint="Make one.")


def failing() -> FakeEngine:
    raise ValueError("a secret path")


def dying() -> FakeEngine:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def dies_unless(file: Path) -> FakeEngine:
    """Dies at loading where the file is not there."""
    return FakeEngine() if file.exists() else dying()


def sleeping(notes: Path) -> FakeEngine:
    notes.write_text(f"loaded {os.getpid()}\n")
    time.sleep(60)
    return FakeEngine()
