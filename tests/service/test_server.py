"""`serve` in a process of its own: what it prints, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from guard.errors import InvalidSettings
from guard.service.server import serve
from guard.settings import Settings

_PROGRAM = """
import sys
from guard.service.server import serve
from guard.settings import Settings
serve(Settings(model="fake", port=0))
assert not {"torch", "transformers"} & set(sys.modules)
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_serves_and_stops_gracefully(stop: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"guard serves on (http://127\.0\.0\.1:\d+)\n", line)
            assert found, line
            answer = httpx.post(f"{found[1]}/v1/moderations", json={"input": "a secret"}, timeout=60)
            assert answer.status_code == 200
            process.send_signal(stop)
            output, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert output == "" and "POST /v1/moderations 200" in log and "secret" not in log


def test_an_address_in_use_is_told_before_anything_is_loaded() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidSettings, match="in use"):
            serve(Settings(model="no/such/model", port=taken.getsockname()[1]))
        with pytest.raises(InvalidSettings, match="Cannot listen on 256.0.0.1"):
            serve(Settings(model="no/such/model", host="256.0.0.1"))
    finally:
        signal.signal(signal.SIGTERM, before)
