"""An assistant that says what it is told over a real socket, and misbehaves on demand; and a judge of single words."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.serving import in_thread
from guard.engine.request import LogProbs, Request
from guard.errors import EngineError
from guard.tokenizer import Tokenizer
from tests.service.support import Engine, one_of

BAD = "zebra"  # what the judge does not accept


class Judge(Engine):
    """Accepts what does not hold the tokens of `BAD`. Answers running texts and whole ones alike."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str] = (BAD, f" {BAD}")) -> None:
        super().__init__()
        self._words = [tuple(tokenizer.encode(word)) for word in words]
        self.broken: EngineError | None = None

    def _answer(self, request: Request) -> LogProbs | EngineError:
        super()._answer(request)
        if self.broken is not None:
            return self.broken
        import math

        ids = tuple(i for segment in request.segments for i in segment)
        found = any(ids[i : i + len(word)] == word for word in self._words for i in range(len(ids)))
        return tuple(map(math.log, one_of(len(request.labels), 1 if found else 0)))


class Scripted(ThreadingHTTPServer):
    """Answers `POST /v1/chat/completions` with the next of `script` (the last one again and again)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Any] = ["Hello there, friend."]
        self.bodies: list[dict[str, Any]] = []  # of the requests that came
        self.headers: list[dict[str, str]] = []
        self.gone = threading.Event()  # has a client left before the end?
        self.pause = 0.0  # seconds between chunks

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """Clients that leave are part of the play."""


@contextmanager
def scripted() -> Iterator[Scripted]:
    with Scripted() as server, in_thread(server):
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        assistant: Scripted = self.server  # type: ignore[assignment]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assistant.bodies.append(body)
        assistant.headers.append(dict(self.headers))
        said = assistant.script[0] if len(assistant.script) == 1 else assistant.script.pop(0)
        try:
            if callable(said):
                said(self)
            elif body.get("stream"):
                self._stream(assistant, said)
            else:
                self._whole(said)
        except (BrokenPipeError, ConnectionResetError):
            assistant.gone.set()

    def _whole(self, said: Any) -> None:
        message = said if isinstance(said, dict) else {"content": "".join(said)}
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", "logprobs": None}
        reply = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "scripted", "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, "secret": "left out",
        }  # fmt: skip
        self.send(200, json.dumps(reply).encode())

    def _stream(self, assistant: Scripted, said: Any) -> None:
        self.begin()
        parts = [said[i : i + 4] for i in range(0, len(said), 4)] if isinstance(said, str) else said
        self.event(chunk({"role": "assistant", "content": ""}))
        for part in parts:
            self.event(part if isinstance(part, dict) and "choices" in part else chunk(delta_of(part)))
            time.sleep(assistant.pause)
        self.event(chunk({}, "stop"))
        self.event(
            {**chunk({}), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
        )
        self.wfile.write(b"data: [DONE]\n\n")

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, data: Any) -> None:
        self.raw(f"data: {json.dumps(data)}\n\n".encode())

    def raw(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def delta_of(part: Any) -> dict[str, Any]:
    return part if isinstance(part, dict) else {"content": part}


def chunk(delta: dict[str, Any], reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "scripted",
        "choices": [choice],
    }
