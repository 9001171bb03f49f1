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
from guard.service.server import _bound, serve
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


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_it_listens_on_this_machine_alone(host: str) -> None:
    closed = Settings(model="no/such/model", host=host, port=0)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(InvalidSettings, match="can be reached from other machines") as refused:
            serve(closed)
        assert "guard keys create" in refused.value.hint and "open_access" in refused.value.hint
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "localhost"}, {"host": "127.0.0.2"}, {"host": "0.0.0.0", "open_access": True},
        {"host": "0.0.0.0", "keys": "keys.sqlite"},
    ],
)  # fmt: skip
def test_with_keys_or_open_access_or_at_home_it_listens(changed: dict[str, object]) -> None:
    with _bound(Settings(port=0, **changed)) as listening:  # type: ignore[arg-type]
        assert listening.getsockname()[1]
