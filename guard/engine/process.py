"""An engine in a process of its own, which may die without taking anybody with it. No torch here.

    callers ──▶ outgoing ──pipe──▶ _Serving: a few threads ──▶ the engine
    futures ◀── _Child   ◀──pipe── answers, tokens, lines for the log

The one rule: whoever waits is answered, by the engine or with an error, also when its process dies or hangs; and then
another one is started.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from guard.engine.request import BASE, Ended, Engine, Growing, Ids, LogProbs, Request, RunningEngine, Sampling
from guard.errors import EngineError, GuardError, ModelUnavailable, NotOffered, NotReady, described

_log = logging.getLogger(__name__)

_THREADS = 4  # of the child that wait for the engine's turns
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds between attempts to start it; the last one again and again
_GOING = 10.0  # seconds that a killed process may take to be gone
_STOPS = (signal.SIGINT, signal.SIGTERM)
_spawn = get_context("spawn")  # a fork would share torch's threads and locks


class _About(NamedTuple):
    """What a loaded engine is."""

    model_id: str
    vocab_size: int
    max_tokens: int


class EngineProcess:
    """The engine that `load` gives, in a process of its own; safe to share between threads.

    `load` has to be picklable. A call that takes longer than `patience` seconds counts as a death of the process. Every
    method raises `NotReady` until the process that was started in its place has loaded the same model.
    """

    def __init__(self, load: Callable[[], Engine], *, patience: float = 600.0) -> None:
        """Blocks until it is loaded. Raises what `load` raises, and `ModelUnavailable` when its process dies at it."""
        self._load = load
        self._patience = patience
        self._pinned: tuple[Ids, ...] = ()
        self._closing = threading.Event()
        self._starter: threading.Thread | None = None
        self._lock = threading.Lock()  # guards the two that follow
        self._child: _Child | None = None  # the newest one
        self._ready = False
        try:
            child, about = self._begin()
        except NotReady as cause:
            raise ModelUnavailable(
                "The engine's process ended while it loaded the model.",
                hint="See the log, and whether the model fits into the memory.",
            ) from cause
        self._about = about
        self.model_id, self.vocab_size, self.max_tokens = about
        self._admit(child)
        atexit.register(self.close)

    def check(self) -> None:
        """Raises `NotReady` while there is no process that answers."""
        self._answering()

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """As the engine's own. Raises `NotReady`."""
        found: list[LogProbs | EngineError] = self._answering().call("score", list(requests))
        return found

    def pin(self, prefixes: Sequence[Ids]) -> None:
        """As the engine's own; a new process pins them again. Raises `EngineError` or `NotReady`."""
        pinned = tuple(prefixes)
        self._answering().call("pin", pinned)
        self._pinned = pinned

    def stream(self, adapter: str = BASE) -> RunningText:
        """An empty running text under an adapter. It lasts as long as the process: `NotReady` from then on."""
        return self._answering().stream(adapter)

    def extend(self, stream: RunningText, tokens: Ids) -> None:
        """As the engine's own. Raises `EngineError` or `NotReady`."""
        stream.child.call("extend", stream.number, tokens)

    def ask(self, stream: RunningText, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """As the engine's own. Raises `EngineError` or `NotReady`."""
        found: list[LogProbs | EngineError] = stream.child.call("ask", stream.number, list(requests))
        return found

    def generate(self, prompt: Ids, sampling: Sampling, adapter: str = BASE) -> Growing:
        """As the engine's own. Raises `EngineError` for a bad prompt, or `NotReady`."""
        return self._answering().generate(prompt, sampling, adapter)

    def close(self) -> None:
        """End the process and wait for it; whoever waits gets `NotReady`. Done by itself when ours ends."""
        atexit.unregister(self.close)
        with self._lock:
            self._closing.set()
            self._ready = False
            child, starter = self._child, self._starter
        if child is not None:
            child.end()
        if starter is not None:
            starter.join()

    def _answering(self) -> _Child:
        with self._lock:
            if self._child is not None and self._ready:
                return self._child
        if self._closing.is_set():
            raise NotReady("The engine has been closed.")
        raise NotReady("The engine is being started again.", hint="Try again in a moment.")

    def _begin(self) -> tuple[_Child, _About]:
        """A new process and what it has loaded. Raises `NotReady` where it died, and what loading raised."""
        child = _Child(self._patience, self._replace)
        with self._lock:
            self._child = child
        try:
            if self._closing.is_set():
                raise NotReady("The engine has been closed.")
            return child, child.load(self._load)
        except BaseException:  # KeyboardInterrupt too: nobody else knows this process
            child.end()
            raise

    def _admit(self, child: _Child) -> None:
        """From now on it is asked, unless it is dead by now."""
        with self._lock:
            self._ready = not self._closing.is_set()
        if child.dead:
            self._replace(child)

    def _replace(self, child: _Child) -> None:
        """Start another process in place of this one, once, if it was the one that is asked."""
        with self._lock:
            if child is not self._child or not self._ready:
                return
            self._ready = False
            self._starter = threading.Thread(target=self._start_again, name="guard-engine-start", daemon=True)
            self._starter.start()

    def _start_again(self) -> None:
        pauses = itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
        began = time.monotonic()
        while not self._closing.is_set():
            try:
                child, about = self._begin()
                try:
                    if about != self._about:  # tokenizer, calibration and thresholds here are of the other one
                        raise ModelUnavailable(f"The files hold {about} now, and not {self._about}.")
                    child.call("pin", self._pinned)
                except BaseException:
                    child.end()
                    raise
            except Exception as error:
                pause = next(pauses)
                _log.error("the engine could not be started, again in %.0f s: %s", pause, described(error))
                self._closing.wait(pause)
                continue
            _log.info("the engine answers again after %.1f s", time.monotonic() - began)
            self._admit(child)
            return


class RunningText:
    """A running text in the engine's process: closed by `close`, or when nobody refers to it any more."""

    def __init__(self, child: _Child, number: int) -> None:
        self.child = child
        self.number = number

    def close(self) -> None:
        """Give its memory back now: nothing may be taken into it or asked about it any more."""
        self.child.post(self.number, "close")

    def __del__(self) -> None:
        self.close()


@dataclass(eq=False, kw_only=True)
class _Text(Growing):
    """A text that grows in the engine's process."""

    child: _Child
    number: int

    def cancel(self) -> None:
        if self.ended is None:
            self.child.post(self.number, "cancel")

    def take(self, token: int) -> None:
        self.tokens.append(token)
        self._coming.put(token)

    def end(self, why: Ended, error: GuardError | None) -> None:
        self.error, self.ended = error, why
        self._coming.put(None)

    def _next(self) -> int | None:
        while True:
            try:
                return self._coming.get(timeout=self.child.patience)
            except Empty:  # it may wait for room, rightly; an engine that takes no turns any more dies of this call
                self.child.call("score", [])


class _Child:
    """One process with an engine in it, and everybody who waits for it. Once dead it stays so."""

    def __init__(self, patience: float, died: Callable[[_Child], None]) -> None:
        self.patience = patience
        self.dead = False
        self._died = died
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards `dead` and the two that follow
        self._calls: dict[int, Future[Any]] = {}
        self._texts: dict[int, _Text] = {}
        # Whoever posts never blocks, and the garbage collector may do it at any moment: `put` can be entered twice.
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        ours, theirs = _spawn.Pipe()
        level = logging.getLogger().getEffectiveLevel()
        self._process = _spawn.Process(target=_serve, args=(theirs, level), name="guard-engine", daemon=True)
        with _signals_held():
            self._process.start()
        theirs.close()
        self._sender = threading.Thread(target=self._send, args=(ours,), name="guard-engine-send", daemon=True)
        self._receiver = threading.Thread(target=self._receive, args=(ours,), name="guard-engine-hear", daemon=True)
        self._sender.start()
        self._receiver.start()

    def load(self, load: Callable[[], Engine]) -> _About:
        """Have it load its engine, however long that takes. Raises `NotReady` where it dies, or what `load` raised."""
        about: _About = self._call(next(self._numbers), "load", (load,), None)
        return about

    def call(self, name: str, *args: Any) -> Any:
        """What the engine answers. Raises the `GuardError` that it raised, or `NotReady`."""
        return self._call(next(self._numbers), name, args, self.patience)

    def stream(self, adapter: str) -> RunningText:
        text = RunningText(self, next(self._numbers))
        self._call(text.number, "stream", (adapter,), self.patience)
        return text

    def generate(self, prompt: Ids, sampling: Sampling, adapter: str) -> Growing:
        text = _Text(prompt, sampling, adapter, child=self, number=next(self._numbers))
        with self._lock:
            self._texts[text.number] = text
        try:
            self._call(text.number, "generate", (prompt, sampling, adapter), self.patience)
        except BaseException:
            text.cancel()
            with self._lock:
                self._texts.pop(text.number, None)
            raise
        return text

    def post(self, number: int, name: str) -> None:
        """Tell it something that has no answer."""
        self._outgoing.put(pickle.dumps((number, name, ())))

    def end(self) -> None:
        """Kill it, which loses nothing, because it holds nothing that outlives it; then wait until it is gone."""
        self._lose()
        self._receiver.join(_GOING)

    def _call(self, number: int, name: str, args: tuple[Any, ...], patience: float | None) -> Any:
        message = pickle.dumps((number, name, args))
        future: Future[Any] = Future()
        with self._lock:
            if self.dead:
                raise _lost()
            self._calls[number] = future
        self._outgoing.put(message)
        try:
            return future.result(patience)
        except TimeoutError:
            _log.critical("the engine did not answer for %.0f s and is killed", patience)
            self._lose()
            raise _lost() from None

    def _lose(self) -> None:
        """It is dead, or will be: answer everybody."""
        with self._lock:
            if self.dead:
                return
            self.dead = True
            calls, texts = list(self._calls.values()), list(self._texts.values())
            self._calls.clear()
            self._texts.clear()
        self._process.kill()
        self._outgoing.put(None)
        for call in calls:
            call.set_exception(_lost())
        for text in texts:
            text.end(Ended.ERROR, _lost())
        self._died(self)

    def _send(self, pipe: Connection) -> None:
        with contextlib.suppress(OSError):  # it is dead: the receiver hears of it
            while (message := self._outgoing.get()) is not None:
                pipe.send_bytes(message)

    def _receive(self, pipe: Connection) -> None:
        try:
            while True:
                self._take(*pipe.recv())
        except (EOFError, OSError):
            pass
        except Exception as error:
            _log.critical("what the engine's process says cannot be read: %s", described(error))
        expected = self.dead
        self._lose()
        self._process.join()
        self._sender.join()
        pipe.close()
        if not expected:
            _log.critical("the engine's process ended by itself: exit status %s", self._process.exitcode)

    def _take(self, number: int, what: str, said: Any) -> None:
        """One message. What nobody waits for any more is dropped."""
        if what == "log":
            name, level, line = said
            logging.getLogger(name).log(level, "%s", line)
            return
        with self._lock:
            text = self._texts.pop(number, None) if what == "ended" else self._texts.get(number)
            call = self._calls.pop(number, None) if what in ("result", "error") else None
        if what == "token" and text is not None:
            text.take(said)
        elif what == "ended" and text is not None:
            text.end(*said)
        elif what == "result" and call is not None:
            call.set_result(said)
        elif what == "error" and call is not None:
            call.set_exception(said)


def _lost() -> NotReady:
    return NotReady("The engine's process has ended.", hint="Try again in a moment; begin running texts anew.")


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """A process that is started meanwhile keeps these signals waiting until it has said that it ignores them."""
    resource_tracker.ensure_running()  # it lets them through when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, level: int) -> None:
    """The whole life of the engine's process. It ends when the pipe does: with its parent, or by its parent's hand."""
    for stop in _STOPS:  # a terminal or a service manager sends them to all; the parent decides
        signal.signal(stop, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    serving = _Serving(pipe)
    logging.basicConfig(level=level, handlers=[_ToParent(serving)])
    reading = threading.Thread(target=serving.read, name="guard-engine-read", daemon=True)
    reading.start()
    serving.load()
    reading.join()


class _Serving:
    """The engine's side of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._loading: SimpleQueue[tuple[int, Callable[[], Engine]]] = SimpleQueue()
        self._pool = ThreadPoolExecutor(_THREADS, "guard-engine")
        self._engine: Engine
        self._streams: dict[int, Any] = {}
        self._texts: dict[int, Growing] = {}
        self._slow: dict[str, Callable[..., Any]] = {
            "score": self._score, "pin": self._pin, "extend": self._extend, "ask": self._ask,
        }  # fmt: skip

    def load(self) -> None:
        """Load the engine, in this thread."""
        number, load = self._loading.get()
        self._answer(number, self._loaded, load)

    def read(self) -> None:
        """Take what comes, until the pipe ends, and the process with it: a thread may be at work for long."""
        try:
            while True:
                self._take(*self._pipe.recv())
        except (EOFError, OSError):
            os._exit(0)
        except BaseException as error:
            _log.critical("what the parent says cannot be read: %s", described(error))
            os._exit(1)

    def say(self, number: int, what: str, said: Any) -> None:
        message = pickle.dumps((number, what, said))
        with self._sending, contextlib.suppress(OSError):  # the parent is gone: `read` ends this process
            self._pipe.send_bytes(message)

    def _take(self, number: int, name: str, args: tuple[Any, ...]) -> None:
        match name:
            case "load":
                self._loading.put((number, *args))
            case "close":
                if (stream := self._streams.pop(number, None)) is not None:
                    self._answer(number, stream.close)  # nobody waits for it, and a failure is in the log
            case "cancel":
                if (text := self._texts.get(number)) is not None:
                    self._answer(number, text.cancel)
            case "stream":  # in this thread, so that what the parent says next finds it
                self._answer(number, self._stream, number, *args)
            case "generate":
                self._answer(number, self._generate, number, *args)
                if number in self._texts:
                    threading.Thread(target=self._push, args=(number,), name="guard-engine-push", daemon=True).start()
            case _:
                self._pool.submit(self._answer, number, self._slow[name], *args)

    def _answer(self, number: int, work: Callable[..., Any], *args: Any) -> None:
        try:
            self.say(number, "result", work(*args))
        except GuardError as error:
            self.say(number, "error", error)
        except BaseException as error:  # its message may quote a text
            _log.error("the engine failed: %s", described(error))
            self.say(number, "error", EngineError(f"The engine failed: {type(error).__name__}.", hint="See the log."))

    def _loaded(self, load: Callable[[], Engine]) -> _About:
        self._engine = load()
        return _About(self._engine.model_id, self._engine.vocab_size, self._engine.max_tokens)

    def _score(self, requests: list[Request]) -> list[LogProbs | EngineError]:
        return self._engine.score(requests)

    def _pin(self, prefixes: tuple[Ids, ...]) -> None:
        self._engine.pin(prefixes)

    def _stream(self, number: int, adapter: str) -> None:
        self._streams[number] = self._running().stream(adapter)

    def _extend(self, number: int, tokens: Ids) -> None:
        self._running().extend(self._kept(number), tokens)

    def _ask(self, number: int, requests: list[Request]) -> list[LogProbs | EngineError]:
        return self._running().ask(self._kept(number), requests)

    def _generate(self, number: int, prompt: Ids, sampling: Sampling, adapter: str) -> None:
        self._texts[number] = self._running().generate(prompt, sampling, adapter)

    def _push(self, number: int) -> None:
        """Pass on the tokens of a text as they come, and how it ended."""
        text = self._texts[number]
        with contextlib.suppress(GuardError):  # it stands in `error`
            for token in text:
                self.say(number, "token", token)
        del self._texts[number]
        self.say(number, "ended", (text.ended, text.error))

    def _kept(self, number: int) -> Any:
        if (stream := self._streams.get(number)) is None:
            raise EngineError("This text has ended.", hint="Begin it anew.")
        return stream

    def _running(self) -> RunningEngine[Any]:
        if not isinstance(self._engine, RunningEngine):
            raise NotOffered("This model's engine keeps no running texts.", hint="Choose another model.")
        return self._engine


class _ToParent(logging.Handler):
    """Passes the log's lines on, so that the parent's settings decide what becomes of them."""

    def __init__(self, serving: _Serving) -> None:
        super().__init__()
        self._serving = serving

    def emit(self, record: logging.LogRecord) -> None:
        self._serving.say(0, "log", (record.name, record.levelno, self.format(record)))
