"""The batcher alone: who is judged with whom, and that everybody is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from guard.errors import EngineError, InvalidRequest, NotReady, Overloaded
from guard.moderator import Moderator, Task
from guard.service import batcher as module
from guard.service.batcher import Batcher
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from guard.verdict import Decision, Verdict
from tests.service.support import Engine


class Bench:
    """A batcher and its engine, inside a running event loop."""

    def __init__(self, tokenizer: Tokenizer, stalled_after: float = 60, **changed: Any) -> None:
        self.tokenizer = tokenizer
        self.engine = Engine()
        settings = Settings(**changed)
        self.moderator = Moderator(self.engine, tokenizer, settings=settings)
        self.batcher = Batcher(self.moderator, settings, stalled_after=stalled_after)

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
        assert bench.batcher.waiting == 30
        bench.engine.go()
        await asyncio.gather(first, *waiting)
        assert bench.engine.batches == [1, 30]

    run(body)


def test_a_batch_holds_no_more_than_batch_items(run: Run) -> None:
    async def body(bench: Bench) -> None:
        assert len(await bench.submit(*[f"text {i}" for i in range(10)])) == 10
        assert bench.engine.batches == [4, 4, 2]

    run(body, batch_items=4)


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

    run(body, batch_items=4)


def test_a_long_text_counts_as_its_passages(run: Run) -> None:
    async def body(bench: Bench) -> None:
        long = "word " * 60  # 300 characters: some three passages of 32 tokens
        await bench.submit(*[f"{long}{i}" for i in range(4)])
        assert len(bench.engine.batches) == 2, "two long texts fill a batch of four items"
        bench.engine.batches.clear()
        await bench.submit(*[f"short {i}" for i in range(4)])
        assert bench.engine.batches == [4]

    run(body, batch_items=4, passage_tokens=32)


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

    run(body, queue_items=3)


def test_a_request_larger_than_the_queue_is_told_so(run: Run) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(InvalidRequest, match="4 texts; no more than 3") as caught:
            await bench.batcher.submit(bench.tasks("a", "b", "c", "d"))
        assert caught.value.param == "input"
        assert bench.engine.batches == []

    run(body, queue_items=3)


def test_work_of_a_caller_who_has_gone_is_dropped(run: Run) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.held()
        leaving, staying = bench.submit("abandoned", "forsaken"), bench.submit("remaining")
        await pause()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert bench.batcher.waiting == 1, "its room in the queue is free at once"
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

    run(body, batch_items=1)


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


def test_a_dead_worker_answers_everybody_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 1000)  # nobody looks: they have to be told

    async def body(bench: Bench) -> None:
        bench.engine.poison = (bench.tokenizer.encode("deadly"), SystemExit(1))
        waiting = [await bench.held("deadly"), *[bench.submit(f"text {i}", "more") for i in range(20)]]
        await pause()
        bench.engine.go()
        await asyncio.wait(waiting)
        assert all(isinstance(error, NotReady) for error in outcome(waiting))
        with pytest.raises(NotReady):
            bench.batcher.check()
        with pytest.raises(NotReady):
            await bench.batcher.submit(bench.tasks("too late"))

    run(body)


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
        while bench.batcher._busy:
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
