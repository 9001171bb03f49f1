"""The batcher alone: who is answered with whom, and that everybody is answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import pytest

from guard.errors import DeadlineExceeded, EngineError, GuardError, InvalidRequest, NotReady, Overloaded
from guard.moderator import Moderator, Task
from guard.service import batcher as module
from guard.service.batcher import Batcher, text_tokens
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from guard.verdict import Decision, Verdict
from tests.service.support import Engine, contains


class Bench:
    """A batcher and its engine, inside a running event loop."""

    def __init__(self, tokenizer: Tokenizer, stalled_after: float = 60, **changed: Any) -> None:
        self.tokenizer = tokenizer
        self.engine = Engine()
        settings = Settings(**changed)
        self.moderator = Moderator(self.engine, tokenizer, settings=settings)
        self.batcher = Batcher(
            self.moderator.judge_many, lambda task, error: self.moderator.failed(task.policy, error),
            lambda task: text_tokens(task.item.text, settings), settings, stalled_after=stalled_after,
        )  # fmt: skip

    def tasks(self, *texts: str) -> list[Task]:
        return [self.moderator.task(text) for text in texts]

    def submit(self, *texts: str) -> asyncio.Task[list[Verdict]]:
        return asyncio.create_task(self.batcher.submit(self.tasks(*texts)))

    async def held(self, text: str = "first") -> asyncio.Task[list[Verdict]]:
        """A text that the engine is held at, so that what is submitted next has to wait."""
        self.engine.hold()
        task = self.submit(text)
        await asyncio.to_thread(self.engine.entered.wait, 30)
        return task

    def saw(self, text: str) -> bool:
        return self.engine.saw(self.tokenizer.encode(text))


Run = Callable[..., None]


@pytest.fixture
def run(tokenizer: Tokenizer) -> Run:
    """Runs a test's coroutine with a bench of the given settings."""

    @asynccontextmanager
    async def opened(**changed: Any) -> AsyncIterator[Bench]:
        bench = Bench(tokenizer, **changed)
        bench.batcher.start()
        try:
            yield bench
        finally:
            bench.engine.go()
            await bench.batcher.close()

    def running(body: Callable[[Bench], Coroutine[None, None, None]], **changed: Any) -> None:
        async def whole() -> None:
            async with asyncio.timeout(60), opened(**changed) as bench:
                await body(bench)

        asyncio.run(whole())

    return running


async def pause() -> None:
    """Let tasks that were just created reach their first real wait."""
    for _ in range(3):
        await asyncio.sleep(0)


def outcome(tasks: list[asyncio.Task[list[Verdict]]]) -> list[object]:
    return [task.exception() or task.result() for task in tasks]


def test_verdicts_are_those_of_each_text_alone_and_in_order(run: Run) -> None:
    async def body(bench: Bench) -> None:
        texts = [f"text number {i}" for i in range(10)]
        verdicts = await bench.submit(*texts)
        assert verdicts == [bench.moderator.judge(text) for text in texts]
        assert len({verdict.score for verdict in verdicts}) > 5
        assert await bench.batcher.submit([]) == []

    run(body)


def test_what_waits_is_judged_together(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        waiting = [bench.submit(f"text {i}") for i in range(30)]
        await pause()
        assert bench.batcher.waiting == sum(text_tokens(f"text {i}", Settings()) for i in range(30))
        bench.engine.go()
        await asyncio.gather(first, *waiting)
        assert bench.engine.batches == [1, 30]

    run(body)


def test_a_batch_holds_no_more_than_service_tokens(run: Run) -> None:
    async def body(bench: Bench) -> None:
        assert len(await bench.submit(*[f"text {i}" for i in range(10)])) == 10
        assert bench.engine.batches == [4, 4, 2]

    run(body, service_tokens=4 * 26)


def test_a_large_request_does_not_starve_a_small_one(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        large = bench.submit(*[f"large {i}" for i in range(40)])
        await pause()
        small = bench.submit("a small one")
        await pause()
        bench.engine.go()
        await asyncio.gather(first, large, small)
        place = [bench.engine.seen[i] for i in range(1, 5)]  # the first batch after the held one
        assert bench.moderator.judge("a small one") == small.result()[0]
        assert bench.engine.seen[-1] in place

    run(body, service_tokens=4 * 27)


def test_a_text_larger_than_a_batch_goes_alone_and_in_its_turn(run: Run) -> None:
    async def body(bench: Bench) -> None:
        verdicts = await bench.submit("a", "b", "word " * 20, "c", "d")
        assert bench.engine.batches == [2, 1, 2] and len(verdicts) == 5

    run(body, service_tokens=60, passage_tokens=256)


def test_tokens_of_a_text_are_a_quarter_of_its_bytes_up_to_what_is_read() -> None:
    settings = Settings(max_passages=2, passage_tokens=32)
    frame = text_tokens("a", settings) - 1
    assert [text_tokens(text, settings) - frame for text in ("a", "abcd", "abcde", "погода", "天気", "x" * 9999)] == [
        1, 1, 2, 3, 2, 64,
    ]  # fmt: skip


def test_no_more_is_judged_before_a_request_than_some_batches(run: Run) -> None:
    """A newcomer counts what is in hand, a turn of each large request, all of each small one, and itself twice."""

    async def body(bench: Bench) -> None:
        first = await bench.held()  # 27 tokens, and each of the others is 26
        large = bench.submit(*[f"large {i}" for i in range(40)])
        await pause()
        small = [bench.submit(f"small {i}") for i in range(5)]
        await pause()
        assert not any(task.done() for task in small), "of the large request a turn is before each of them"
        more = [bench.submit(f"more {i}") for i in range(4)]
        await pause()
        assert [isinstance(task.exception(), Overloaded) for task in more if task.done()] == [True] * 4
        with pytest.raises(Overloaded):
            await bench.submit(*[f"also large {i}" for i in range(9)])
        bench.engine.go()
        await asyncio.gather(first, large, *small)

    run(body, service_tokens=5 * 26, queue_batches=2)


def test_requests_of_half_a_batch_are_answered_in_the_order_of_their_coming(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        texts = [[f"text {number}{i}" for i in range(3)] for number in range(4)]
        asked = []
        for some in texts:
            asked.append(bench.submit(*some))
            await pause()
        bench.engine.go()
        await asyncio.gather(first, *asked)
        assert bench.engine.batches == [1, 6, 6]
        judged = zip(bench.engine.seen[1:], chain.from_iterable(texts), strict=True)
        assert all(contains(request, bench.tokenizer.encode(text)) for request, text in judged)

    run(body, service_tokens=6 * 27, queue_batches=9)


def test_clients_who_ask_again_at_once_find_the_room_of_what_was_answered(run: Run) -> None:
    """What was in hand does not count any more when its waiters hear of it."""

    async def body(bench: Bench) -> None:
        async def client(number: int) -> None:
            for i in range(60):
                await bench.submit(f"client {number:02} text {i:02}")

        await asyncio.gather(*(client(number) for number in range(8)))

    run(body, service_tokens=4 * 29, queue_batches=3)


def test_a_full_queue_refuses_and_says_when_to_come_again(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        waiting = bench.submit("a", "b")
        await pause()
        with pytest.raises(Overloaded):
            await bench.batcher.submit(bench.tasks("c", "d"))
        fitting = bench.submit("e")
        await pause()
        with pytest.raises(Overloaded):
            await bench.batcher.submit(bench.tasks("f"))
        assert isinstance(bench.batcher.retry_after(), int) and 1 <= bench.batcher.retry_after() <= 60
        bench.engine.go()
        answered = await asyncio.gather(first, waiting, fitting)
        assert [len(verdicts) for verdicts in answered] == [1, 2, 1]
        assert len(await bench.submit("g")) == 1

    run(body, queue_tokens=3 * 25)


def test_a_request_larger_than_the_queue_is_told_so(run: Run) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(InvalidRequest, match="about 100 tokens; no more than 75") as caught:
            await bench.batcher.submit(bench.tasks("a", "b", "c", "d"))
        assert caught.value.param == "input"
        assert bench.engine.batches == []

    run(body, queue_tokens=3 * 25)


def test_work_of_a_caller_who_has_gone_is_dropped(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        leaving, staying = bench.submit("abandoned", "forsaken"), bench.submit("remaining")
        await pause()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert bench.batcher.waiting == text_tokens("remaining", Settings()), "its room in the queue is free at once"
        bench.engine.go()
        await asyncio.gather(first, staying)
        assert bench.saw("remaining") and not bench.saw("abandoned") and not bench.saw("forsaken")

    run(body)


def test_the_rest_of_a_request_half_taken_is_dropped_too(run: Run) -> None:
    async def body(bench: Bench) -> None:
        bench.engine.hold()
        leaving = bench.submit("one", "two", "three")
        await asyncio.to_thread(bench.engine.entered.wait, 30)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert bench.batcher.waiting == 0
        bench.engine.go()
        assert len(await bench.submit("another")) == 1
        assert bench.engine.batches == [1, 1]

    run(body, service_tokens=1)


@pytest.mark.parametrize(
    "error, told",
    [
        (EngineError("The weights are bad.", hint="Mend them."), "The weights are bad."),
        (ValueError("cannot digest: the guilty text"), "The engine failed on this text."),
    ],
)
def test_a_failing_batch_is_retried_one_by_one(
    run: Run, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    async def body(bench: Bench) -> None:
        bench.engine.poison = (bench.tokenizer.encode("the guilty text"), error)
        first = await bench.held()
        waiting = [bench.submit(text) for text in ("innocent", "the guilty text", "harmless")]
        await pause()
        bench.engine.go()
        answered = [verdicts[0] for verdicts in await asyncio.gather(first, *waiting)]
        failing = answered.pop(2)
        assert failing.decision is Decision.ERROR and failing.score is None and not failing.accepted
        assert failing.error is not None and (failing.error.code, failing.error.message) == ("engine_error", told)
        bench.engine.poison = None
        assert answered == [bench.moderator.judge(text) for text in ("first", "innocent", "harmless")]
        assert (await bench.submit("the guilty text"))[0].score is not None

    with caplog.at_level(logging.INFO):
        run(body)
    assert type(error).__name__ in caplog.text and "guilty" not in caplog.text


def test_a_worker_that_dies_answers_everybody_at_once_and_is_started_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOOK", 1000)  # nobody looks: they have to be told

    async def body(bench: Bench) -> None:
        bench.engine.poison = (bench.tokenizer.encode("deadly"), SystemExit(1))
        waiting = [await bench.held("deadly"), *[bench.submit(f"text {i}", "more") for i in range(20)]]
        await pause()
        bench.engine.go()
        await asyncio.wait(waiting)
        assert all(isinstance(error, NotReady) for error in outcome(waiting))
        bench.batcher.check()
        assert bench.batcher.waiting == 0
        assert await bench.submit("later") == [bench.moderator.judge("later")]
        await bench.submit("again")

    run(body)
    assert "the worker died: SystemExit" in caplog.text


def test_a_worker_that_dies_while_it_closes_stays_dead(run: Run) -> None:
    async def body(bench: Bench) -> None:
        bench.engine.poison = (bench.tokenizer.encode("deadly"), SystemExit(1))
        dying = await bench.held("deadly")
        closing = asyncio.create_task(bench.batcher.close())
        await pause()
        bench.engine.go()
        await closing
        await asyncio.wait({dying})
        assert isinstance(dying.exception(), NotReady)
        with pytest.raises(NotReady):
            bench.batcher.check()

    run(body)


def test_what_is_not_begun_by_its_deadline_is_told_so_and_makes_room(run: Run) -> None:
    async def body(bench: Bench) -> None:
        begun = await bench.held()
        late = [bench.submit("too late"), bench.submit("later", "still")]
        await asyncio.wait(late)
        assert all(isinstance(error, DeadlineExceeded) for error in outcome(late))
        assert bench.batcher.waiting == 0
        bench.engine.go()
        assert len(await begun) == 1, "what was begun is finished"
        assert len(await bench.submit("another")) == 1 and not bench.saw("too late")

    run(body, deadline_seconds=0.2)


def test_a_request_that_is_half_begun_has_no_deadline(run: Run) -> None:
    async def body(bench: Bench) -> None:
        bench.engine.hold()
        half = bench.submit("one", "two")
        await asyncio.to_thread(bench.engine.entered.wait, 30)
        await asyncio.sleep(0.2)
        bench.engine.go()
        assert len(await half) == 2

    run(body, deadline_seconds=0.1, service_tokens=1)


class Paced:
    """Answers to numbers, the same numbers as words, at a pace."""

    def __init__(self) -> None:
        self.seconds = 0.0  # a batch
        self.bench: Batcher[int, str]

    def answer(self, numbers: Sequence[int]) -> list[str]:
        time.sleep(self.seconds)
        return [str(number) for number in numbers if number >= 0]

    def failed(self, number: int, error: GuardError) -> str:
        return f"{number}: {error.message}"


def paced(body: Callable[[Paced, Batcher[int, str]], Coroutine[None, None, None]], **changed: Any) -> None:
    """Runs a test with a batcher of numbers, a hundred tokens each."""

    async def whole() -> None:
        pace = Paced()
        batcher = Batcher(pace.answer, pace.failed, lambda _: 100, Settings(**changed))
        batcher.start()
        async with asyncio.timeout(60):
            await body(pace, batcher)
            await batcher.close()

    asyncio.run(whole())


def test_tasks_and_answers_may_be_anything_and_each_task_is_answered() -> None:
    async def body(pace: Paced, batcher: Batcher[int, str]) -> None:
        assert await batcher.submit([1, 2, 3]) == ["1", "2", "3"]
        assert await batcher.submit([1, -2, 3]) == ["1", "-2: The engine gave 0 answers to 1 tasks.", "3"]

    paced(body)


def test_what_would_wait_too_long_at_the_pace_of_late_is_refused() -> None:
    async def body(pace: Paced, batcher: Batcher[int, str]) -> None:
        pace.seconds = 0.05
        await batcher.submit([1, 2, 3])
        waiting = asyncio.create_task(batcher.submit(range(40)))  # two seconds, or more on a busy machine
        await pause()
        with pytest.raises(Overloaded, match="are waiting before it"):
            await batcher.submit([1])
        assert 2 <= batcher.retry_after() <= 60
        pace.seconds = 0
        assert len(await waiting) == 40, "what was admitted is answered"
        assert await batcher.submit([1]) == ["1"]

    paced(body, service_tokens=100, deadline_seconds=1)


async def two_large_requests(pace: Paced, batcher: Batcher[int, str]) -> None:
    """Of which the second one meets the first one waiting; answered quickly."""
    both = [asyncio.create_task(batcher.submit(range(100))) for _ in range(2)]
    await pause()
    pace.seconds = 0.001
    await asyncio.gather(*both)


def test_a_slow_task_alone_says_nothing_about_the_pace() -> None:
    async def body(pace: Paced, batcher: Batcher[int, str]) -> None:
        pace.seconds = 0.3
        await batcher.submit([1])
        await two_large_requests(pace, batcher)  # at that pace the first one would take half a minute

    paced(body, service_tokens=1000, deadline_seconds=1, queue_batches=100)


def test_fast_tasks_alone_mend_a_pace_that_was_slow() -> None:
    """Else a service that was slow once would refuse what it could do, and never learn better."""

    async def body(pace: Paced, batcher: Batcher[int, str]) -> None:
        pace.seconds = 0.5
        await batcher.submit(range(11))
        leaving = asyncio.create_task(batcher.submit(range(100)))
        await pause()
        with pytest.raises(Overloaded):
            await batcher.submit([1])
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        pace.seconds = 0.001
        for _ in range(40):
            await batcher.submit([1])
        await two_large_requests(pace, batcher)

    paced(body, service_tokens=1000, deadline_seconds=1, queue_batches=100)


def test_a_hanging_engine_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.02)

    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.6)
        bench.batcher.check()  # idle for long is not hanging
        waiting = [await bench.held(), bench.submit("behind it")]
        await asyncio.wait(waiting)
        assert all(isinstance(error, NotReady) for error in outcome(waiting))
        with pytest.raises(NotReady, match="does not answer"):
            bench.batcher.check()
        bench.engine.go()
        while bench.batcher._in_hand:
            await asyncio.sleep(0.01)
        assert len(await bench.submit("after it came back")) == 1

    run(body, stalled_after=0.5)


def test_closing_lets_the_batch_in_hand_finish_and_fails_the_rest(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        behind = bench.submit("behind")
        await pause()
        closing = asyncio.create_task(bench.batcher.close())
        await pause()
        with pytest.raises(NotReady):
            await bench.batcher.submit(bench.tasks("too late"))
        bench.engine.go()
        await closing
        await asyncio.wait({first, behind})
        assert len(first.result()) == 1 and isinstance(behind.exception(), NotReady)

    run(body)


def test_closing_fails_everybody_when_the_engine_hangs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSING", 0.05)

    async def body(bench: Bench) -> None:
        waiting = [await bench.held(), bench.submit("behind")]
        await pause()
        await bench.batcher.close()
        await asyncio.wait(waiting)
        assert all(isinstance(error, NotReady) for error in outcome(waiting))

    run(body)
