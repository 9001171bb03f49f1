"""What the plug-ins' tests share: the other side, on a real socket, and a receiver of webhooks in a real process."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving import in_thread

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: Any  # parsed JSON, or None


Answer = tuple[int, Any] | tuple[int, Any, str]  # status, body (JSON, or bytes with their content type)


@dataclass
class Other:
    """A server that was started; `seen` is what it was asked, in order."""

    url: str
    seen: list[Asked] = field(default_factory=list)


@contextmanager
def answering(answer: Callable[[Asked], Answer]) -> Iterator[Other]:
    """A server that answers each request with `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, json.loads(data) if data else None)
            other.seen.append(asked)
            status, body, *kind = answer(asked)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind[0] if kind else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, in_thread(server):
        other = Other(f"http://127.0.0.1:{server.server_port}")
        yield other


@contextmanager
def receiving(name: str, **environment: str) -> Iterator[str]:
    """The address of a receiver of `examples/` in a process of its own, on a free port."""
    command = [sys.executable, str(EXAMPLES / name)]
    clean = {"PATH": os.environ["PATH"], "PORT": "0", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        try:
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()
            log = process.stderr.read()
    assert "Traceback" not in log, log


def deliver(url: str, header: str, secret: str, event: object, **headers: str) -> httpx.Response:
    """A webhook's delivery, signed as Discourse and Mastodon sign theirs."""
    body = json.dumps(event).encode()
    signature = "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()
    return httpx.post(url, content=body, headers={header: signature, "Content-Type": "application/json", **headers})
