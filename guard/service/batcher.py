"""Many clients' tasks, answered together by one worker thread.

    submit ──▶ line of asks ──some tasks of each in turn──▶ batch of so many tokens ──▶ answer ──▶ every ask's answers

What a task is and who answers it is the caller's: texts and their verdicts, requests and the engine's numbers.

The one rule: whoever waits is answered, with answers or with an error, also when a batch fails, when the worker dies
or hangs, when the wait gets too long, and when the service stops. Work that nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

from guard.engine.request import Request
from guard.errors import (
    DeadlineExceeded,
    EngineError,
    GuardError,
    InvalidRequest,
    NotReady,
    Overloaded,
    described,
)
from guard.service.allowance import estimated_tokens
from guard.settings import Settings

_log = logging.getLogger(__name__)

_STALLED_AFTER = 600.0  # seconds at one batch: the official SDKs give up then too
_LOOK = 1.0  # seconds between a waiter's looks at the worker
_CLOSING = 10.0  # seconds that closing waits for the batch in hand
_SMOOTHING = 0.2  # the latest batch's share of the rate: one odd batch does not rule, ten tell a new pace
_FRAME = 24  # tokens around a text: quotes and question of the shipped templates are 18 to 29

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class _Ask(Generic[Task, Answer]):
    """One call of `submit`: its tasks and their tokens, how many the worker has taken, and the answers so far."""

    def __init__(self, tasks: Sequence[Task], tokens: Sequence[int], deadline: float) -> None:
        self.tasks = tasks
        self.tokens = tokens
        self.deadline = deadline
        self.taken = 0
        self.answers: dict[int, Answer] = {}
        self.future: Future[list[Answer]] = Future()

    @property
    def waiting(self) -> int:
        """Tokens that the worker has not taken."""
        return sum(self.tokens[self.taken :])


class _Batch(NamedTuple, Generic[Task, Answer]):
    """Tasks by their asks and places there. `full`: others had to stay in the line."""

    parts: list[tuple[_Ask[Task, Answer], int]]
    tokens: int
    full: bool


class Batcher(Generic[Task, Answer]):
    """The line of waiting tasks and the worker that has them answered, up to `service_tokens` at a time.

    The worker takes whatever waits as soon as it is free. Each ask in the line gives tasks of half a batch in turn, so
    a request of a thousand texts delays one of a single text by no more than a batch; with less, requests of a dozen
    texts would all be at work at once and all end late. A task that alone is more than a batch goes alone.

    `answer` answers tasks together, `failed` makes an answer of what kept one from being answered, and `tokens`
    estimates how many tokens a task is.
    """

    def __init__(
        self, answer: Callable[[Sequence[Task]], Sequence[Answer]], failed: Callable[[Task, GuardError], Answer],
        tokens: Callable[[Task], int], settings: Settings, *, stalled_after: float = _STALLED_AFTER,
    ) -> None:  # fmt: skip
        self._answer, self._failed, self._tokens = answer, failed, tokens
        self._settings = settings
        self._stalled_after = stalled_after
        self._turn = settings.service_tokens // 2  # tokens that an ask gives at a time
        self._most_ahead = settings.queue_batches * settings.service_tokens
        self._wake = threading.Condition()  # guards all that follows
        self._line: deque[_Ask[Task, Answer]] = deque()  # asks with tasks that the worker has not taken
        self._asks: set[_Ask[Task, Answer]] = set()  # asks without an answer
        self.waiting = 0  # tokens in the line
        self._closed = False
        self._in_hand = 0  # tokens of the batch that the worker is at
        self._progress = time.monotonic()
        self._rate = 0.0  # tokens a second; 0: not known yet
        self._worker: threading.Thread | None = None

    def start(self) -> None:
        worker = threading.Thread(target=self._work, name="guard-worker", daemon=True)
        worker.start()
        self._worker = worker

    async def close(self) -> None:
        """Let the worker finish the batch in hand; fail everything else."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.join, _CLOSING)
        self._fail_all()  # the worker did so itself, unless it hangs

    def check(self) -> None:
        """Raises `NotReady` when the worker does not run, or has been at one batch for too long."""
        if self._closed or self._worker is None or not self._worker.is_alive():
            raise NotReady("The worker does not run.", hint="The service stops or must be started again.")
        if self._in_hand and time.monotonic() - self._progress > self._stalled_after:
            raise NotReady("The engine does not answer.", hint="The service must be started again.")

    def retry_after(self) -> int:
        """Whole seconds until what waits now should have been answered."""
        seconds = self.waiting / self._rate if self._rate else 0.0
        return min(60, max(1, math.ceil(seconds)))

    async def submit(self, tasks: Sequence[Task], param: str = "input") -> list[Answer]:
        """One answer per task, in order. `param` is the field of the request that holds the tasks, for an error.

        Raises `Overloaded`, `DeadlineExceeded`, `NotReady`, or `InvalidRequest` for too large tasks.
        """
        if not tasks:
            return []
        self.check()
        deadline = time.monotonic() + self._settings.deadline_seconds
        ask: _Ask[Task, Answer] = _Ask(tasks, [self._tokens(task) for task in tasks], deadline)
        self._enter(ask, param)
        answer = asyncio.wrap_future(ask.future)
        try:
            while not answer.done():
                left = math.inf if ask.taken else ask.deadline - time.monotonic()
                await asyncio.wait({answer}, timeout=min(_LOOK, max(0.0, left)))
                if not answer.done():
                    self.check()
                    self._check_deadline(ask)
            return answer.result()
        finally:
            answer.cancel()
            self._leave(ask)

    def _enter(self, ask: _Ask[Task, Answer], param: str) -> None:
        limit, longest = self._settings.queue_tokens, self._settings.deadline_seconds
        more = ask.waiting
        if more > limit:
            raise InvalidRequest(
                f"The request has about {more} tokens; no more than {limit} can wait at all.",
                hint="Send several requests.",
                param=param,
            )
        with self._wake:
            if self._closed:
                raise NotReady("The service stops.", hint="Ask another one.")
            if self.waiting + more > limit:
                raise Overloaded(f"About {self.waiting} of {limit} tokens are waiting.", hint="Try again later.")
            # Refused now, and not answered too late: by then the client has given up and the work was for nobody.
            # Behind a single large text one may always wait.
            late = self._rate and self.waiting / self._rate > longest
            if late or (self._line and self._ahead(more) + self._own(more) > self._most_ahead):
                raise Overloaded(f"About {self.waiting} tokens are waiting before it.", hint="Try again later.")
            self._line.append(ask)
            self._asks.add(ask)
            self.waiting += more
            self._wake.notify()

    def _ahead(self, tokens: int) -> int:
        """How many tokens are judged before an ask of so many is: those in hand, and of each other ask, since all take
        turns, no more than a turn or than it has itself."""
        return self._in_hand + sum(min(ask.waiting, max(tokens, self._turn)) for ask in self._line)

    def _own(self, tokens: int) -> int:
        """What an ask of so many tokens counts itself: twice, since the batch that answers it may hold as much again of
        others; but no more than a batch, or a large one would find no room behind anybody."""
        return min(2 * tokens, self._settings.service_tokens)

    def _check_deadline(self, ask: _Ask[Task, Answer]) -> None:
        """Raises `DeadlineExceeded` for an ask that should have been begun by now."""
        if not ask.taken and time.monotonic() >= ask.deadline:
            seconds = self._settings.deadline_seconds
            raise DeadlineExceeded(f"The request was not begun within {seconds:g} seconds.", hint="Try again later.")

    def _leave(self, ask: _Ask[Task, Answer]) -> None:
        with self._wake:
            self._asks.discard(ask)
            if ask in self._line:
                self._line.remove(ask)
                self.waiting -= ask.waiting

    def _work(self) -> None:
        try:
            while (batch := self._take()) is not None:
                started = time.monotonic()
                answers = self._answered([ask.tasks[i] for ask, i in batch.parts])
                self._measure(batch, time.monotonic() - started)
                self._give(batch, answers)
        except BaseException as error:  # the thread ends here whatever came, and nobody may be left waiting
            _log.critical("the worker died: %s", described(error))
        finally:
            self._fail_all()
            with self._wake:
                if not self._closed:  # it died
                    self.start()

    def _take(self) -> _Batch[Task, Answer] | None:
        """The next batch, as soon as there is one; None when the batcher closes."""
        with self._wake:
            while not self._line and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            self._progress = time.monotonic()
            parts: list[tuple[_Ask[Task, Answer], int]] = []
            tokens = turn = 0  # of the batch, and of the ask whose turn it is
            while self._line:
                ask = self._line[0]
                more = ask.tokens[ask.taken]
                if parts and tokens + more > self._settings.service_tokens:
                    break  # a smaller one behind it must wait for its turn, or the large one would wait for ever
                parts.append((ask, ask.taken))
                tokens += more
                turn += more
                ask.taken += 1
                if ask.taken == len(ask.tasks):
                    self._line.popleft()
                    turn = 0
                elif turn >= self._turn:
                    self._line.rotate(-1)
                    turn = 0
            self.waiting -= tokens
            self._in_hand = tokens
            return _Batch(parts, tokens, full=bool(self._line))

    def _answered(self, tasks: Sequence[Task]) -> Sequence[Answer]:
        """The answers; if there are none to the tasks together, each is put alone."""
        try:
            answers = self._answer(tasks)
            if len(answers) != len(tasks):
                raise EngineError(f"The engine gave {len(answers)} answers to {len(tasks)} tasks.")
            return answers
        except Exception as error:  # whatever it is, it concerns one task, and the others have a right to their answers
            _log.error("answering %d tasks failed: %s", len(tasks), described(error))
            if len(tasks) == 1:
                if not isinstance(error, GuardError):  # a foreign message may quote the text
                    error = EngineError("The engine failed on this text.", hint="The service's log names the cause.")
                return [self._failed(tasks[0], error)]
        finally:
            self._progress = time.monotonic()
        return [answer for task in tasks for answer in self._answered([task])]

    def _measure(self, batch: _Batch[Task, Answer], seconds: float) -> None:
        """Take a batch into the rate. One that was not full says only that the worker is at least so fast."""
        rate = batch.tokens / max(seconds, 1e-6)
        if self._rate:
            if batch.full or rate > self._rate:
                # by factors: one batch that rules settled in no time would else count like a hundred others
                self._rate *= (rate / self._rate) ** _SMOOTHING
        elif batch.full:
            self._rate = rate

    def _give(self, batch: _Batch[Task, Answer], answers: Sequence[Answer]) -> None:
        with self._wake:
            self._in_hand = 0  # now: whoever is answered here asks again before the worker takes its next batch
            for (ask, i), answer in zip(batch.parts, answers, strict=True):
                ask.answers[i] = answer
                if len(ask.answers) == len(ask.tasks) and _unanswered(ask):
                    ask.future.set_result([ask.answers[j] for j in range(len(ask.tasks))])

    def _fail_all(self) -> None:
        with self._wake:
            for ask in self._asks:
                if _unanswered(ask):
                    ask.future.set_exception(NotReady("The worker stopped.", hint="Try again."))
            self._asks.clear()
            self._line.clear()
            self.waiting = self._in_hand = 0


def text_tokens(text: str, settings: Settings) -> int:
    """About how many tokens a text is, with what stands around it, before it is tokenised.

    Counted in bytes because a character costs as many tokens as its writing takes bytes: four bytes a token is what
    the embedded model takes for English, other alphabets take up to four times that. It need not be right: the rate is
    measured in the same tokens. Of a text that is too long only what is read counts.

    >>> text_tokens("You fool", Settings())
    26
    """
    return min(estimated_tokens([text]), settings.max_passages * settings.passage_tokens) + _FRAME


def request_tokens(request: Request) -> int:
    """How many tokens a request is, its first segment included.

    What several share is read once and kept, but none is counted as less than it may cost: small ones behind large
    segments that nobody shares would else fill a batch without end.
    """
    return sum(map(len, request.segments))


def _unanswered(ask: _Ask[Task, Answer]) -> bool:
    """May the future be set? False once it is, and for a caller who has gone."""
    return not ask.future.done() and ask.future.set_running_or_notify_cancel()
