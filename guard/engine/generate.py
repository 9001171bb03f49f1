"""Generation: many texts grow side by side, a token each per step, and newcomers are taken in between steps.

The linear layers see all running texts at once (continuous batching; Yu et al. 2022, "Orca", section 3.1); only
attention goes text by text, each over its own rolling buffer. What one text becomes does not depend on the others.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

import torch
from torch import Tensor

from guard.engine.cache import Stream
from guard.engine.model import TreeModel
from guard.engine.request import BASE, Ended, Growing, Ids, Sampling
from guard.errors import EngineError, described

_COLD = 1e-3  # temperatures below leave nothing to draw, and overflow

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Generation(Growing):
    """A growing text with what it grows from. Its memory is free before the step that follows `cancel`."""

    _stream: Stream | None = None
    _taken: int = 0  # tokens of the prompt that are in the stream
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._draws = torch.Generator().manual_seed(self.sampling.seed % 2**63)

    @property
    def most_tokens(self) -> int:
        """The length that it may come to."""
        return len(self.prompt) + self.sampling.max_tokens

    def cancel(self) -> None:
        self._cancelled.set()


class Batcher:
    """The texts that are growing. `submit` from any thread; `step` from one at a time."""

    def __init__(self, model: TreeModel, chunk: int, most: int) -> None:
        """`chunk`: tokens of prompts taken in per step; `most`: texts that grow side by side.

        Others wait, also for room: a text takes the pages that it may come to need when it begins.
        """
        self._model, self._chunk, self._most = model, chunk, most
        self._coming: SimpleQueue[Generation] = SimpleQueue()  # from any thread
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []

    def submit(self, prompt: Ids, sampling: Sampling, adapter: str = BASE) -> Generation:
        """A text that begins with `prompt`, under an adapter. Raises `EngineError` for one that cannot be."""
        if not prompt:
            raise EngineError("There is nothing to go on from: the prompt is empty.")
        length = len(prompt) + sampling.max_tokens
        fault = (
            self._model.unknown_adapter(adapter) or self._model.unknown_token(prompt) or self._model.too_large(length)
        )
        if fault is not None:
            raise fault
        generation = Generation(prompt, sampling, adapter)
        self._coming.put(generation)
        return generation

    @property
    def busy(self) -> bool:
        """Is there anything to do?"""
        return bool(self._waiting or self._running) or not self._coming.empty()

    @property
    def num_bytes(self) -> int:
        """Memory that the growing texts hold between steps."""
        return sum(generation._stream.num_bytes for generation in self._running if generation._stream)

    def cancel(self) -> None:
        """Cancel every text; they end with the next step."""
        for generation in self._known():
            generation.cancel()

    def step(self) -> bool:
        """Take in a chunk of one prompt, and let every text whose prompt is in grow by one token.

        False where nothing could be done, because all wait for room.
        """
        for generation in self._known():
            if generation._cancelled.is_set():
                self._end(generation, Ended.CANCELLED)
        while self._waiting and len(self._running) < self._most and self._has_room(self._waiting[0]):
            newcomer = self._waiting.popleft()
            self._running.append(newcomer)
            self._guarded([newcomer], self._begin)
        growing = [generation for generation in self._running if generation.tokens]
        coming = next((generation for generation in self._running if not generation.tokens), None)
        if coming is not None:
            self._guarded([coming], self._take_in)
        self._guarded([generation for generation in growing if generation.ended is None], self._grow)
        return coming is not None or bool(growing) or not self._waiting

    def _begin(self, generations: list[Generation]) -> None:
        (generation,) = generations
        generation._stream = self._model.stream(generation.adapter)
        generation._stream.reserve(generation.most_tokens)

    def _has_room(self, newcomer: Generation) -> bool:
        return self._model.pages(newcomer.most_tokens) <= self._model.pool.free_pages

    def abandon(self, cause: Exception) -> None:
        """End every text, because a step failed as a whole: none is left waiting for a token that never comes."""
        _log.error("a step of generation failed: %s", described(cause))
        for generation in self._known():
            self._fail(generation, cause)

    def _known(self) -> list[Generation]:
        """Every text that has not ended, those included that came since the last step."""
        while not self._coming.empty():
            self._waiting.append(self._coming.get())
        return [*self._running, *self._waiting]

    def _guarded(self, generations: list[Generation], work: Callable[[list[Generation]], None]) -> None:
        """What fails together is tried one by one, so that the guilty text alone ends with the error."""
        if not generations:
            return
        before = [generation._stream.length for generation in generations if generation._stream]
        try:
            work(generations)
        except Exception as cause:  # memory, or whatever the kernels raise; the others go on
            if len(generations) > 1 and before == [g._stream.length for g in generations if g._stream]:
                for generation in generations:
                    self._guarded([generation], work)
                return
            _log.error("generating %d texts failed: %s", len(generations), described(cause))
            for generation in generations:
                self._fail(generation, cause)

    def _take_in(self, generations: list[Generation]) -> None:
        (generation,) = generations
        assert generation._stream is not None
        part = generation.prompt[generation._taken : generation._taken + self._chunk]
        hidden = self._model.extend(generation._stream, part, self._chunk)
        generation._taken += len(part)
        if generation._taken == len(generation.prompt):
            self._choose(generations, hidden)

    def _grow(self, generations: list[Generation]) -> None:
        streams = [generation._stream for generation in generations if generation._stream]
        self._choose(generations, self._model.decode(streams, [generation.tokens[-1] for generation in generations]))

    def _choose(self, generations: list[Generation], hidden: Tensor) -> None:
        for generation, log_probs in zip(generations, self._model.log_probs(hidden), strict=True):
            try:
                token = chosen(log_probs, generation.sampling, generation._draws)
            except Exception as cause:  # what one text asks of its draws is no fault of the others
                self._fail(generation, cause)
                continue
            if token in generation.sampling.stops:
                self._end(generation, Ended.STOP)
                continue
            generation.tokens.append(token)
            generation._coming.put(token)
            if len(generation.tokens) == generation.sampling.max_tokens:
                self._end(generation, Ended.LENGTH)

    def _fail(self, generation: Generation, cause: Exception) -> None:
        """End it with an error of ours as it stands, or with one that names another's."""
        if isinstance(cause, EngineError):
            generation.error = cause
        else:
            generation.error = EngineError(f"Generating failed: {type(cause).__name__}.", hint="See the log.")
        self._end(generation, Ended.ERROR)

    def _end(self, generation: Generation, why: Ended) -> None:
        if generation._stream is not None:
            generation._stream.close()
        generation.ended, generation._stream = why, None
        if generation in self._running:
            self._running.remove(generation)
        else:
            self._waiting.remove(generation)
        generation._coming.put(None)


def chosen(log_probs: Tensor, sampling: Sampling, draws: torch.Generator) -> int:
    """The next token, by its log-probabilities (V,). Raises `EngineError` where they are no numbers.

    >>> log_probs = torch.tensor([0.5, 0.3, 0.2]).log()
    >>> nucleus = Sampling(temperature=1, top_p=0.6)  # 0.5 does not reach it, 0.5 + 0.3 does
    >>> {chosen(log_probs, nucleus, torch.Generator().manual_seed(seed)) for seed in range(20)}
    {0, 1}
    """
    if log_probs.isnan().any():
        raise EngineError(
            "The model gave a number that is not finite.", hint="Check the weights, or set dtype float32."
        )
    if sampling.temperature < _COLD:
        return int(log_probs.argmax())
    probabilities, order = (log_probs.cpu() / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.where(before < sampling.top_p, 0)
    return int(order[torch.multinomial(kept, 1, generator=draws)])
