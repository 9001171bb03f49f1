"""An engine in another process: it answers as it does here, and whoever waits for one that dies is told at once."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from guard.engine.engine import TorchEngine
from guard.engine.fake import FakeEngine
from guard.engine.process import EngineProcess
from guard.engine.request import Ended, Request, Sampling
from guard.errors import EngineError, InvalidItem, ModelUnavailable, NotOffered, NotReady
from tests.engine import support
from tests.engine.support import DEADLY, FOREIGN, OURS, SLOW, UNPICKLABLE, Marked
from tests.families import ids
from tests.oracles import tiny_mistral

ROOT = Path(__file__).resolve().parents[2]


def asked(content: int = 2, labels: int = 3) -> Request:
    return Request(((1,), (content,), (5,)), tuple((10 + i,) for i in range(labels)), 99)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def engine(notes: Path) -> Iterator[EngineProcess]:
    made = EngineProcess(partial(Marked, notes))
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("process")
    tiny_mistral(made, window=8, max_position_embeddings=256)
    return made


@pytest.fixture(scope="module")
def here(folder: Path) -> TorchEngine:
    return support.tiny(folder)


@pytest.fixture(scope="module")
def there(folder: Path) -> Iterator[EngineProcess]:
    made = EngineProcess(partial(support.tiny, folder))
    yield made
    made.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def pid(notes: Path) -> int:
    """The process that was loaded last."""
    return int(re.findall(r"loaded (\d+)", notes.read_text())[-1])


def is_alive(process: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_ready(engine: EngineProcess) -> bool:
    with suppress(NotReady):
        engine.check()
        return True
    return False


def dead(engine: EngineProcess, notes: Path) -> None:
    """Kill it, and see that it is noticed."""
    os.kill(pid(notes), signal.SIGKILL)
    until(lambda: not is_ready(engine))


def slow_calls(engine: EngineProcess, notes: Path, count: int) -> list[Future[Any]]:
    """Threads that wait for the engine."""
    pool = ThreadPoolExecutor(count)
    futures = [pool.submit(engine.score, [asked(SLOW)]) for _ in range(count)]
    pool.shutdown(wait=False)
    until(lambda: "entered" in notes.read_text())
    return futures


# ---------------------------------------------------------------------------------------------------------------------
# As the engine inside


def test_it_answers_as_the_engine_does(engine):
    requests = [asked(2), asked(3, labels=14), asked(2)]
    assert engine.score(requests) == FakeEngine().score(requests)
    assert engine.score([]) == []
    plain = FakeEngine()
    assert (engine.model_id, engine.vocab_size, engine.max_tokens) == ("fake", plain.vocab_size, plain.max_tokens)
    engine.check()


def test_many_threads_each_get_their_own_answer(engine):
    def rounds(seed: int) -> bool:
        requests = [[asked(2 + (seed * 31 + n) % 50, labels=1 + n % 5)] for n in range(60)]
        return [engine.score(some) for some in requests] == [FakeEngine().score(some) for some in requests]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(rounds, range(16)))


def test_one_that_keeps_no_running_texts_says_so():
    engine = EngineProcess(support.Bare)
    try:
        with pytest.raises(NotOffered):
            engine.stream()
        with pytest.raises(NotOffered):
            engine.generate((1,), Sampling())
        assert engine.score([asked()]) == [(0.0,)]
    finally:
        engine.close()


def test_scores_of_a_model_with_the_errors_of_single_requests(here, there):
    prefix = ids(5)
    requests = [
        Request((prefix, ids(6, 1), ids(3, 2)), ((7,), (9,), (7, 8)), 2), Request((prefix, (999,)), ((7,),), 2),
        Request((prefix, ids(2, 3)), ((8,), (9,)), 2),
    ]  # fmt: skip
    there.pin([prefix])
    first, second, third = there.score(requests)
    expected = here.score(requests)
    assert (first, third) == (expected[0], expected[2])
    assert isinstance(second, EngineError) and str(second) == str(expected[1])
    assert there.max_tokens == 8 and there.vocab_size == 61 and there.model_id == here.model_id
    with pytest.raises(EngineError, match="999"):
        there.pin([(999,)])


def test_running_texts(here, there):
    question = [Request(((), ids(3, 9)), ((7,), (9,)), 2)]
    found = []
    for engine in (here, there):
        text, other = engine.stream(), engine.stream()
        answers = []
        for length in (1, 7, 20):
            engine.extend(text, ids(length, length))
            engine.extend(other, ids(3))
            answers.append(engine.ask(text, question))
        found.append(answers)
        with pytest.raises(EngineError, match="999"):
            engine.extend(text, (999,))
        with pytest.raises(EngineError, match="adapter"):
            engine.stream("nobody")
    assert found[0] == found[1]


def test_a_text_that_is_closed_or_forgotten_gives_its_memory_back(there):
    """Those that stayed would fill it."""
    for _ in range(20):
        text = there.stream()
        there.extend(text, ids(100))
        text.close()
    with pytest.raises(EngineError, match="has ended"):
        there.extend(text, ids(1))
    for _ in range(20):
        text = there.stream()
        there.extend(text, ids(100))
        del text
        gc.collect()
    kept = []
    with pytest.raises(EngineError, match="is full"):
        for _ in range(20):
            kept.append(there.stream())
            there.extend(kept[-1], ids(100))


def test_a_text_that_cannot_be_closed_harms_nobody(engine, notes, caplog):
    text = engine.stream()
    engine.extend(text, (1, 2))
    assert engine.ask(text, [asked()]) == [(2.0,)]
    text.close()
    until(lambda: "the engine failed: ValueError" in caplog.text)
    assert "secret" not in caplog.text and notes.read_text().count("loaded") == 1


def test_generated_text(here, there):
    samplings = [Sampling(max_tokens=12), Sampling(max_tokens=30, temperature=1.0, top_p=0.9, seed=4)]
    growing = [[engine.generate(ids(6), sampling) for sampling in samplings] for engine in (here, there)]
    inside, outside = [[list(text) for text in texts] for texts in growing]
    assert inside == outside
    for text, tokens in zip(growing[1], outside, strict=True):
        assert (text.tokens, text.ended, text.error) == (tokens, Ended.LENGTH, None)
        assert list(text) == [], "whoever reads again is not left waiting"
    stopped = there.generate(ids(6), Sampling(max_tokens=12, stops=frozenset({outside[0][4]})))
    assert list(stopped) == outside[0][: outside[0].index(outside[0][4])] and stopped.ended is Ended.STOP
    with pytest.raises(EngineError, match="empty"):
        there.generate((), Sampling())


def test_a_text_that_nobody_reads_on_ends(there):
    cancelled, left = (there.generate(ids(3, n), Sampling(max_tokens=240)) for n in (1, 2))
    cancelled.cancel()
    next(iter(left))
    until(lambda: None not in (cancelled.ended, left.ended))
    assert cancelled.ended is left.ended is Ended.CANCELLED and len(left.tokens) < 240


def test_what_the_engine_raises(engine):
    with pytest.raises(InvalidItem) as ours:
        engine.score([asked(OURS)])
    assert (ours.value.message, ours.value.hint, ours.value.param) == ("No.", "Never.", "input.3")
    with pytest.raises(EngineError, match="ValueError") as foreign:
        engine.score([asked(FOREIGN)])
    assert "secret" not in str(foreign.value)
    with pytest.raises(EngineError, match="failed"):
        engine.score([asked(UNPICKLABLE)])
    assert engine.score([asked()]) == FakeEngine().score([asked()])


def test_the_childs_log_comes_here(engine, caplog):
    with pytest.raises(EngineError):
        engine.score([asked(FOREIGN)])
    assert "the engine failed: ValueError at" in caplog.text and "secret" not in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Death


def test_whoever_waits_for_one_that_is_killed_is_told_at_once_and_another_one_answers(engine, notes):
    engine.pin([(1,), (2, 3)])
    waiting = slow_calls(engine, notes, 8)
    killed = time.monotonic()
    os.kill(pid(notes), signal.SIGKILL)
    for future in waiting:
        assert isinstance(future.exception(timeout=5), NotReady)
    assert time.monotonic() - killed < 1
    with pytest.raises(NotReady, match="started again"):
        engine.check()
    with pytest.raises(NotReady):
        engine.score([asked()])
    with pytest.raises(NotReady):
        engine.pin([(9,)])
    until(lambda: is_ready(engine))
    assert engine.score([asked()]) == FakeEngine().score([asked()])
    lines = notes.read_text().splitlines()
    assert [line for line in lines if "pinned" in line] == ["pinned [(1,), (2, 3)]"] * 2, "before it counted as ready"
    dead(engine, notes)
    until(lambda: is_ready(engine))


def test_a_request_that_kills_it(engine):
    with pytest.raises(NotReady, match="has ended"):
        engine.score([asked(DEADLY)])
    until(lambda: is_ready(engine))


def test_one_that_answers_nothing_any_more_is_killed(notes):
    engine = EngineProcess(partial(Marked, notes), patience=0.5)
    try:
        first = pid(notes)
        with pytest.raises(NotReady):
            engine.score([asked(SLOW)])
        until(lambda: is_ready(engine))
        second = pid(notes)
        assert first != second and not is_alive(first)
        os.kill(second, signal.SIGSTOP)
        much = [Request((tuple(range(10**6)), (2,), (5,)), ((7,),), 99)]  # more than a pipe holds
        with pytest.raises(NotReady):
            engine.score(much)
        until(lambda: is_ready(engine))
        assert not is_alive(second)
    finally:
        engine.close()


def test_running_texts_die_with_it_for_good(engine, notes):
    text = engine.stream()
    engine.extend(text, (1,))
    growing, unread = (engine.generate((n,), Sampling()) for n in (1, 2))
    tokens = iter(growing)
    assert next(tokens) == 0
    dead(engine, notes)
    with pytest.raises(NotReady):
        list(tokens)
    assert growing.ended is unread.ended is Ended.ERROR and isinstance(unread.error, NotReady)
    with pytest.raises(NotReady):
        list(unread)
    until(lambda: is_ready(engine))
    for use in (lambda: engine.extend(text, (1,)), lambda: engine.ask(text, [])):
        with pytest.raises(NotReady, match="anew"):
            use()
    text.close()
    again = engine.stream()
    engine.extend(again, (1,))
    assert engine.ask(again, [asked()]) == [(1.0,)]


def test_a_text_whose_engine_takes_no_turns_any_more_ends(notes):
    engine = EngineProcess(partial(Marked, notes), patience=0.5)
    try:
        tokens = iter(engine.generate((1,), Sampling()))
        next(tokens)
        os.kill(pid(notes), signal.SIGSTOP)
        with pytest.raises(NotReady):
            list(tokens)
    finally:
        engine.close()


def test_it_is_tried_again_until_it_can_be_loaded(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("guard.engine.process._PAUSES", (0.05,))
    file = tmp_path / "there"
    file.touch()
    engine = EngineProcess(partial(support.dies_unless, file))
    try:
        file.unlink()
        os.kill(engine._child._process.pid, signal.SIGKILL)
        until(lambda: caplog.text.count("could not be started") >= 2)
        assert not is_ready(engine)
        file.touch()
        until(lambda: is_ready(engine))
    finally:
        engine.close()


def test_another_model_in_its_place_is_not_asked(tmp_path, monkeypatch, caplog):
    """The tokenizer and the thresholds in this process belong to the first one."""
    monkeypatch.setattr("guard.engine.process._PAUSES", (0.05,))
    name = tmp_path / "name"
    name.write_text("one")
    engine = EngineProcess(partial(support.Other, name))
    try:
        name.write_text("another")
        os.kill(engine._child._process.pid, signal.SIGKILL)
        until(lambda: "could not be started" in caplog.text)
        assert not is_ready(engine)
        name.write_text("one")
        until(lambda: is_ready(engine))
    finally:
        engine.close()


# ---------------------------------------------------------------------------------------------------------------------
# Loading, and the end


def test_what_loading_raises_is_raised_here():
    with pytest.raises(ModelUnavailable) as refused:
        EngineProcess(support.refused)
    assert (refused.value.message, refused.value.hint) == ("No such model.", "Make one.")
    with pytest.raises(EngineError, match="ValueError") as failed:
        EngineProcess(support.failing)
    assert "secret" not in str(failed.value)
    with pytest.raises(ModelUnavailable, match="ended while it loaded"):
        EngineProcess(support.dying)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        EngineProcess(lambda: FakeEngine())


def test_closing_ends_it_and_whoever_waits_and_can_be_done_twice(engine, notes):
    waiting = slow_calls(engine, notes, 3)
    engine.close()
    assert not is_alive(pid(notes))
    for future in waiting:
        assert isinstance(future.exception(timeout=5), NotReady)
    for use in (engine.check, lambda: engine.score([asked()]), engine.stream):
        with pytest.raises(NotReady, match="closed"):
            use()
    engine.close()
    assert notes.read_text().count("loaded") == 1, "nothing is started again"


def test_closing_while_another_one_is_started(engine, notes):
    dead(engine, notes)
    engine.close()
    assert not is_ready(engine)
    until(lambda: not [t for t in threading.enumerate() if t.name == "guard-engine-start"])


_PARENT = """
import sys
from functools import partial
from pathlib import Path
from guard.engine.process import EngineProcess
from tests.engine import support
engine = EngineProcess(partial(getattr(support, sys.argv[1]), Path(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
"""


def parent(what: str, notes: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PARENT, what, str(notes)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["Marked", "sleeping"])
def test_it_ends_when_its_parent_is_killed_also_while_it_loads(what, notes):
    with parent(what, notes) as process:
        until(lambda: notes.exists() and "loaded" in notes.read_text())
        child = pid(notes)
        assert is_alive(child)
        process.kill()
        process.communicate()
    until(lambda: not is_alive(child), 5)


def test_it_ends_with_its_parent(notes):
    with parent("Marked", notes) as process:
        output, log = process.communicate("\n", timeout=60)
    assert (process.returncode, output, log) == (0, "ready\n", "")
    assert not is_alive(pid(notes))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_a_terminal_sends_to_all_is_for_the_parent_to_decide(engine, notes, stop):
    os.kill(pid(notes), stop)
    assert engine.score([asked()]) == FakeEngine().score([asked()])
    assert notes.read_text().count("loaded") == 1
