"""What the service's tests share: an engine with hands on it, a socket, and what to expect of an answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
import uvicorn
from fastapi import FastAPI

from guard.engine.fake import FakeEngine
from guard.engine.request import LogProbs, Request
from guard.errors import EngineError
from guard.moderator import Moderator
from guard.service.batcher import text_tokens
from guard.service.desk import Desk
from guard.tokenizer import Tokenizer


class Engine(FakeEngine):
    """The fake engine, to be held back, broken, and watched."""

    def __init__(self, script: Sequence[Sequence[float] | EngineError] | None = None) -> None:
        super().__init__(script)
        self.batches: list[int] = []  # requests of each call
        self.entered = threading.Event()  # was score() called since the engine was held?
        self.poison: tuple[Sequence[int], BaseException] | None = None  # ids that make a batch fail, and how
        self._gate = threading.Event()
        self._gate.set()

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        self.batches.append(len(requests))
        self.entered.set()
        assert self._gate.wait(60), "nobody let the engine go"
        if self.poison is not None and any(contains(request, self.poison[0]) for request in requests):
            raise self.poison[1]
        return super().score(requests)

    def answer_by_hash(self) -> None:
        """Forget the script."""
        self._script = None

    def hold(self) -> None:
        """From now on score() does not return."""
        self.entered.clear()
        self._gate.clear()

    def go(self) -> None:
        self._gate.set()

    def saw(self, ids: Sequence[int]) -> bool:
        return any(contains(request, ids) for request in self.seen)


@dataclass
class Service:
    """A service under test and two clients of it."""

    engine: Engine
    moderator: Moderator
    tokenizer: Tokenizer
    desk: Desk
    url: str
    http: httpx.Client
    sdk: openai.OpenAI

    def post(self, **body: object) -> httpx.Response:
        return self.http.post("/v1/moderations", json=body)

    def raw(self, body: bytes) -> httpx.Response:
        return self.http.post("/v1/moderations", content=body)

    def saw(self, text: str) -> bool:
        return self.engine.saw(self.tokenizer.encode(text))

    def waiting(self, *texts: str) -> bool:
        """Are these texts waiting, and no others?"""
        return self.desk.batcher.waiting == sum(text_tokens(text, self.desk.settings) for text in texts)


@contextmanager
def listening(app: FastAPI, grace: int = 5) -> Iterator[str]:
    """The address of an application that uvicorn serves in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=grace)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        until(lambda: server.started)
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def one_of(labels: int, likely: int, probability: float = 0.87) -> list[float]:
    """Label probabilities with most on one of them; label 0 is `acceptable`.

    >>> one_of(3, 1, 0.8)
    [0.1, 0.8, 0.1]
    """
    rest = round((1 - probability) / (labels - 1), 12)
    return [probability if i == likely else rest for i in range(labels)]


def contains(request: Request, ids: Sequence[int]) -> bool:
    """Do these ids stand together in the content of a request?"""
    content, wanted = request.segments[1], tuple(ids)
    return any(content[i : i + len(wanted)] == wanted for i in range(len(content)))


def error_of(response: httpx.Response, status: int) -> dict[str, str | None]:
    """The error object of a response, once its status and its form are right."""
    assert response.status_code == status, response.text
    error: dict[str, str | None] = response.json()["error"]
    assert set(response.json()) == {"error"} and set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] and error["code"]
    assert response.headers["x-request-id"] and int(response.headers["openai-processing-ms"]) >= 0
    return error
