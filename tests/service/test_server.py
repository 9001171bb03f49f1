"""`serve` in a process of its own: what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from guard.errors import InvalidSettings
from guard.service.server import _bound, serve
from guard.settings import Settings
from tests.service.support import error_of, until

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


def engine_of(server: int) -> int | None:
    """The process of a server's engine, if it has one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server and b"spawn_main" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:  # gone meanwhile
            continue
    return None


def test_it_survives_its_engine(tmp_path: Path) -> None:
    """Whoever asks meanwhile is told that it is not ready, and nothing else; then it answers again."""
    written = tmp_path / "log"  # more than a pipe holds
    with written.open("w") as file, subprocess.Popen(
        [sys.executable, "-m", "guard", "serve", "--model", "fake", "--port", "0"],
        stdout=subprocess.PIPE, stderr=file, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            done = threading.Event()
            with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(8) as pool:

                def asking(number: int) -> list[httpx.Response]:
                    answers = []
                    while not done.is_set():
                        answers.append(client.post("/v1/moderations", json={"input": [f"text {number}"] * 20}))
                    return answers

                def ready() -> int:
                    return client.get("/readyz").status_code

                until(lambda: ready() == 200)
                try:
                    found = [pool.submit(asking, number) for number in range(7)]
                    for _ in range(2):
                        engine = engine_of(process.pid)
                        assert engine is not None
                        os.kill(engine, signal.SIGKILL)
                        until(lambda: ready() == 503)
                        until(lambda: ready() == 200)
                finally:
                    done.set()
                answers = [answer for asked in found for answer in asked.result()]
                assert client.post("/v1/moderations", json={"input": "hello"}).status_code == 200
            failed = [answer for answer in answers if answer.status_code != 200]
            assert failed and len(failed) < len(answers)
            assert {error_of(answer, 503)["code"] for answer in failed} == {"not_ready"}
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    log = written.read_text()
    assert process.returncode == 0, log
    assert log.count("the engine's process ended by itself") == log.count("the engine answers again") == 2
    assert engine_of(process.pid) is None


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
