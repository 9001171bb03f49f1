"""The engine on torch: `score(requests)`, token ids in, log-probabilities of the labels out.

Each policy prefix is computed once and kept, whatever several requests share below it is computed once per batch, and
each request gets its answer or its own error.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from guard.engine.cache import Prefix, PrefixStore, Stream
from guard.engine.generate import Batcher, Generation
from guard.engine.model import TreeModel
from guard.engine.quantized import FULL
from guard.engine.request import BASE, Ids, LogProbs, Request, Sampling
from guard.engine.tree import batches, own_tokens, plan
from guard.errors import EngineError, described

_log = logging.getLogger(__name__)

MOST_TEXTS = 64  # that are generated side by side
_LOOK = 0.01  # seconds until it is looked again whether there is room


class TorchEngine:
    """Scores requests on one model; calls from several threads take turns."""

    def __init__(self, model: TreeModel, *, batch_tokens: int = 2048, memory_bytes: int = 2**30) -> None:
        self.model_id = model.model_id
        self.vocab_size = model.vocab_size
        # The policy must stay in view of every token, so a path fits the window as well as the positions.
        self.max_tokens = min(model.max_positions, model.window or model.max_positions)
        self._model = model
        self._batch_tokens = batch_tokens
        self._memory_bytes = memory_bytes
        self._store = PrefixStore(memory_bytes)
        self._lock = Turns()
        self._batcher = Batcher(model, batch_tokens, MOST_TEXTS)
        self._worker: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False
        atexit.register(_close, weakref.ref(self))  # a thread that is torn out of torch takes the process with it

    @classmethod
    def load(
        cls, folder: Path, *, dtype: str = "auto", kernels: str = "auto", threads: int = 0, batch_tokens: int = 2048,
        memory_bytes: int = 2**30, weights: str = FULL, adapters: Mapping[str, Path] | None = None,
    ) -> TorchEngine:  # fmt: skip
        """An engine on the checkpoint in `folder`, and on LoRA adapters by name. Raises `ModelUnavailable`."""
        if threads:
            torch.set_num_threads(threads)
        model = TreeModel.load(folder, dtype, kernels, weights, adapters, memory_bytes)
        return cls(model, batch_tokens=batch_tokens, memory_bytes=memory_bytes)

    def pin(self, prefixes: Sequence[Ids]) -> None:
        """Keep these prefixes, computed now, whatever else comes; they replace those pinned before.

        Raises `EngineError` for one that cannot be computed or, with those before it, does not fit the memory.
        """
        with self._lock:
            self._store.pin(prefixes)
            for tokens in prefixes:
                fault = self._model.unknown_token(tokens) or self._model.too_large(len(tokens), self._memory_bytes)
                if fault is not None:
                    raise fault
                if self._store.get(tokens) is None and not self._store.put(tokens, self._model.prefill(tokens)):
                    raise EngineError(
                        f"The pinned policies do not fit into {self._memory_bytes} bytes.", hint="Raise memory_mb."
                    )

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """ln P(label | segments) for each label of each request, or that request's error; in order."""
        results: list[LogProbs | EngineError | None] = [self._refusal(request) for request in requests]
        sound = [(number, request) for number, request in enumerate(requests) if results[number] is None]
        with self._lock:
            for batch in batches(sound, self._batch_tokens):
                for (number, _), result in zip(batch, self._score_or_retry([r for _, r in batch]), strict=True):
                    results[number] = result
        return [result if result is not None else EngineError("The request got no answer.") for result in results]

    def check(self) -> None:
        """It answers as long as this process does."""

    def stream(self, adapter: str = BASE) -> Stream:
        """An empty running text under an adapter, to be extended and asked about. Raises `EngineError`."""
        if fault := self._model.unknown_adapter(adapter):
            raise fault
        return self._model.stream(adapter)

    def extend(self, stream: Stream, tokens: Ids) -> None:
        """Take tokens into a running text; the work is that of the new tokens. Raises `EngineError`.

        A text whose extension failed can be neither extended nor asked about any more.
        """
        with self._lock:
            fault = self._model.unknown_token(tokens) or self._model.too_large(stream.length + len(tokens))
            if stream.broken or fault:
                raise fault or EngineError("This text could not be extended before.", hint="Begin it anew.")
            try:
                self._model.extend(stream, tokens, self._batch_tokens)
            except EngineError:  # no room; the text is what it was
                raise
            except Exception as cause:
                stream.broken = True
                _log.error("extending a text of %d tokens failed: %s", stream.length, described(cause))
                raise EngineError(f"Extending failed: {type(cause).__name__}.", hint="See the log.") from cause

    def ask(self, stream: Stream, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """As `score`, of requests that stand behind a running text, under its adapter: their first segment is empty."""
        if stream.broken or not stream.length:
            raise EngineError("There is no text to ask about.", hint="Extend it first.")
        faults = [self._refusal(request, behind=stream) for request in requests]
        sound = [request for request, fault in zip(requests, faults, strict=True) if fault is None]
        with self._lock:
            found = iter(self._score_or_retry(sound, stream) if sound else [])
        return [next(found) if fault is None else fault for fault in faults]

    def generate(self, prompt: Ids, sampling: Sampling, adapter: str = BASE) -> Generation:
        """A text that goes on from `prompt`; iterate over it for its tokens. Raises `EngineError` for a bad prompt."""
        with self._starting:
            if self._closed:
                raise EngineError("The engine has been closed.")
            generation = self._batcher.submit(prompt, sampling, adapter)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="guard-generate", daemon=True)
                self._worker.start()
        return generation

    def _work(self) -> None:
        """Step while there is something to do; between steps whoever waits to ask has a turn."""
        while True:
            with self._starting:
                if not self._batcher.busy:
                    self._worker = None
                    return
            with self._lock:
                try:
                    moved = self._batcher.step()
                except Exception as cause:
                    self._batcher.abandon(cause)
                    moved = True
            if not moved:  # all wait for room that running texts hold
                time.sleep(_LOOK)

    def close(self) -> None:
        """End every text that grows, and the thread at work on them. Done by itself when the process ends."""
        with self._starting:
            self._closed = True
            worker = self._worker
        self._batcher.cancel()
        if worker is not None:
            worker.join()

    def _refusal(self, request: Request, behind: Stream | None = None) -> EngineError | None:
        """Why a request cannot be asked, or None."""
        parts = (*(request.segments[1:] if behind else request.segments), *request.labels)
        if len(request.segments) < 2 or (behind and request.segments[0]) or not request.labels or not all(parts):
            return EngineError("A request needs a prefix, a segment behind it and labels, none of them empty.")
        if len(set(request.labels)) < len(request.labels):
            return EngineError("Two labels have the same tokens.", hint="Give one of them another name.")
        if behind is not None and request.adapter not in (BASE, behind.adapter):
            return EngineError(f"The text is under the adapter {behind.adapter!r}, the question {request.adapter!r}.")
        if fault := self._model.unknown_adapter(request.adapter):
            return fault
        found = (self._model.unknown_token(part) for part in (*parts, (request.terminator,)))
        length = (behind.length if behind else len(request.segments[0])) + own_tokens(request)
        return next(filter(None, found), None) or self._model.too_large(length, None if behind else self._memory_bytes)

    def _score_or_retry(self, requests: list[Request], behind: Stream | None = None) -> list[LogProbs | EngineError]:
        """A batch that fails is asked again one by one: only the guilty request gets the error."""
        try:
            return self._score_batch(requests, behind)
        except Exception as cause:  # whatever the kernels raise, the engine lives and every request is answered
            if len(requests) == 1:
                _log.error("scoring one request of %d tokens failed: %s", own_tokens(requests[0]), described(cause))
                return [EngineError(f"Scoring failed: {type(cause).__name__}.", hint="See the log.")]
            return [result for request in requests for result in self._score_or_retry([request], behind)]

    def _score_batch(self, requests: list[Request], behind: Stream | None) -> list[LogProbs | EngineError]:
        tokens = requests[0].segments[0]
        length = behind.length if behind else len(tokens)
        made = plan(requests, length - len(tokens))
        past = behind or self._prefix(tokens, requests[0].adapter)
        log_probs = self._model.log_probs(self._model.hidden(made, past, length))
        place = {row: i for i, row in enumerate(made.rows)}
        picked = log_probs[[place[read.row] for read in made.reads], [read.token for read in made.reads]].tolist()
        sums = [[0.0] * len(request.labels) for request in requests]
        for read, value in zip(made.reads, picked, strict=True):
            sums[read.request][read.answer] += value
        return [_checked(values) for values in sums]

    def _prefix(self, tokens: Ids, adapter: str) -> Prefix:
        prefix = self._store.get(tokens, adapter)
        if prefix is None:
            prefix = self._model.prefill(tokens, adapter)
            self._store.put(tokens, prefix)
        return prefix


def _close(engine: weakref.ref[TorchEngine]) -> None:
    if (alive := engine()) is not None:
        alive.close()


class Turns:
    """A lock that goes to who has waited longest, so that a busy thread keeps nobody out."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._waiting: deque[threading.Event] = deque()  # the first one has the turn

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._changing:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                return
        try:
            mine.wait()
        except BaseException:  # interrupted: its turn must not come and stay
            self._leave(mine)
            raise

    def __exit__(self, *_: object) -> None:
        self._leave(self._waiting[0])

    def _leave(self, who: threading.Event) -> None:
        with self._changing:
            first = self._waiting[0] is who
            self._waiting.remove(who)
            if first and self._waiting:
                self._waiting[0].set()


def _checked(values: list[float]) -> LogProbs | EngineError:
    """The values, or an error where one is not finite (broken weights, overflow)."""
    if all(value == value and abs(value) != float("inf") for value in values):
        return tuple(values)
    return EngineError("The model gave a number that is not finite.", hint="Check the weights, or set dtype float32.")
