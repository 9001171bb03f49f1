"""Many clients' tasks, judged together by one worker thread.

    submit ──▶ line of asks ──one task of each in turn──▶ batch ──▶ moderator.judge_many ──▶ every ask's verdicts

The one rule: whoever waits is answered, with verdicts or with an error, also when a batch fails, when the worker dies
or hangs, and when the service stops. Work that nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from guard.errors import EngineError, GuardError, InvalidRequest, NotReady, Overloaded, described
from guard.moderator import Moderator, Task
from guard.settings import Settings
from guard.verdict import Verdict

_log = logging.getLogger(__name__)

_STALLED_AFTER = 600.0  # seconds at one batch: the official SDKs give up then too
_LOOK = 1.0  # seconds between a waiter's looks at the worker
_CLOSING = 10.0  # seconds that closing waits for the batch in hand
_CHARACTERS = 4  # of text per token, roughly, to price a text before it is tokenised


class _Ask:
    """One call of `submit`: its tasks, how many the worker has taken, and the verdicts found so far."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self.taken = 0
        self.verdicts: dict[int, Verdict] = {}
        self.future: Future[list[Verdict]] = Future()


class Batcher:
    """The line of waiting tasks and the worker that judges them, up to `batch_items` at a time.

    The worker takes whatever waits as soon as it is free. Each ask in the line gives one task in turn, so a request
    of a thousand texts delays one of a single text by no more than a batch. A long text counts as the passages it
    will be cut into, so a batch of long texts holds fewer of them.
    """

    def __init__(self, moderator: Moderator, settings: Settings, *, stalled_after: float = _STALLED_AFTER) -> None:
        self._moderator = moderator
        self._settings = settings
        self._stalled_after = stalled_after
        self._wake = threading.Condition()  # guards all that follows
        self._line: deque[_Ask] = deque()  # asks with tasks that the worker has not taken
        self._asks: set[_Ask] = set()  # asks without an answer
        self.waiting = 0  # texts in the line
        self._closed = False
        self._busy = False
        self._progress = time.monotonic()
        self._seconds_per_text = 0.0
        self._worker = threading.Thread(target=self._work, name="guard-worker", daemon=True)

    def start(self) -> None:
        self._worker.start()

    async def close(self) -> None:
        """Let the worker finish the batch in hand; fail everything else."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._worker.join, _CLOSING)
        self._fail_all()  # the worker did so itself, unless it hangs

    def check(self) -> None:
        """Raises `NotReady` when the worker is dead, or has been at one batch for too long."""
        if self._closed or not self._worker.is_alive():
            raise NotReady("The worker does not run.", hint="The service stops or must be started again.")
        if self._busy and time.monotonic() - self._progress > self._stalled_after:
            raise NotReady("The engine does not answer.", hint="The service must be started again.")

    def retry_after(self) -> int:
        """Whole seconds until the texts waiting now should have been judged."""
        return min(60, max(1, math.ceil(self.waiting * self._seconds_per_text)))

    async def submit(self, tasks: Sequence[Task]) -> list[Verdict]:
        """One verdict per task, in order. Raises `Overloaded`, `NotReady`, or `InvalidRequest` for too many tasks."""
        if not tasks:
            return []
        self.check()
        ask = _Ask(tasks)
        self._enter(ask)
        answer = asyncio.wrap_future(ask.future)
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=_LOOK)
                if not answer.done():
                    self.check()
            return answer.result()
        finally:
            answer.cancel()
            self._leave(ask)

    def _enter(self, ask: _Ask) -> None:
        limit = self._settings.queue_items
        if len(ask.tasks) > limit:
            raise InvalidRequest(
                f"The request has {len(ask.tasks)} texts; no more than {limit} can wait at all.",
                hint="Send them in several requests.",
                param="input",
            )
        with self._wake:
            if self._closed:
                raise NotReady("The service stops.", hint="Ask another one.")
            if self.waiting + len(ask.tasks) > limit:
                raise Overloaded(f"{self.waiting} of {limit} texts are waiting.", hint="Try again later.")
            self._line.append(ask)
            self._asks.add(ask)
            self.waiting += len(ask.tasks)
            self._wake.notify()

    def _leave(self, ask: _Ask) -> None:
        with self._wake:
            self._asks.discard(ask)
            if ask in self._line:
                self._line.remove(ask)
                self.waiting -= len(ask.tasks) - ask.taken

    def _work(self) -> None:
        try:
            while batch := self._take():
                started = time.monotonic()
                verdicts = self._judge([ask.tasks[i] for ask, i in batch])
                self._seconds_per_text = (time.monotonic() - started) / len(batch)
                self._give(batch, verdicts)
        except BaseException as error:  # the thread ends here whatever came, and nobody may be left waiting
            _log.critical("the worker died: %s", described(error))
        finally:
            self._fail_all()

    def _take(self) -> list[tuple[_Ask, int]]:
        """The next batch, as soon as there is one; empty when the batcher closes."""
        settings = self._settings
        with self._wake:
            self._busy = False
            while not self._line and not self._closed:
                self._wake.wait()
            self._busy, self._progress = True, time.monotonic()
            batch: list[tuple[_Ask, int]] = []
            price = 0
            while self._line and price < settings.batch_items and not self._closed:
                ask = self._line.popleft()
                batch.append((ask, ask.taken))
                passages = 1 + len(ask.tasks[ask.taken].item.text) // (settings.passage_tokens * _CHARACTERS)
                price += min(passages, settings.max_passages)
                ask.taken += 1
                if ask.taken < len(ask.tasks):
                    self._line.append(ask)
            self.waiting -= len(batch)
            return batch

    def _judge(self, tasks: Sequence[Task]) -> list[Verdict]:
        """The verdicts; if the moderator fails on the tasks together, it is asked for each alone."""
        try:
            return self._moderator.judge_many(tasks)
        except (
            Exception
        ) as error:  # whatever it is, it concerns one text, and the others have a right to their verdicts
            _log.error("judging %d texts failed: %s", len(tasks), described(error))
            if len(tasks) == 1:
                return [self._failed(tasks[0], error)]
        finally:
            self._progress = time.monotonic()
        return [verdict for task in tasks for verdict in self._judge([task])]

    def _failed(self, task: Task, error: Exception) -> Verdict:
        if not isinstance(error, GuardError):  # a foreign message may quote the text
            error = EngineError("The engine failed on this text.", hint="The service's log names the cause.")
        return self._moderator.failed(task.policy, error)

    def _give(self, batch: Sequence[tuple[_Ask, int]], verdicts: Sequence[Verdict]) -> None:
        with self._wake:
            for (ask, i), verdict in zip(batch, verdicts, strict=True):
                ask.verdicts[i] = verdict
                if len(ask.verdicts) == len(ask.tasks) and _unanswered(ask):
                    ask.future.set_result([ask.verdicts[j] for j in range(len(ask.tasks))])

    def _fail_all(self) -> None:
        with self._wake:
            self._closed = True
            for ask in self._asks:
                if _unanswered(ask):
                    ask.future.set_exception(NotReady("The worker stopped.", hint="Try again."))


def _unanswered(ask: _Ask) -> bool:
    """May the future be set? False once it is, and for a caller who has gone."""
    return not ask.future.done() and ask.future.set_running_or_notify_cancel()
