"""Servers that are measured or measured with: `guard serve` in a process of its own, and small ones in a thread."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

PATIENCE = 120.0  # seconds that a client waits


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, int]]:
    """`guard serve` on a free port, with further arguments and variables: its address once ready, and its process."""
    command = [str(Path(sys.executable).with_name("guard")), "serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | environment
    ) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            while httpx.get(f"{url}/readyz", timeout=PATIENCE).status_code != 200:
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()


@contextmanager
def in_thread(server: socketserver.BaseServer) -> Iterator[None]:
    """A server at work beside whoever uses it."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
