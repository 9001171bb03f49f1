"""The plain Python example: in its own process with the model that ships, and over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import openai
import pytest

from examples.plain_python import over_http
from tests.examples.support import EXAMPLES
from tests.service.support import Service, one_of

Start = Callable[..., Service]


def test_it_runs_as_it_stands(start: Start) -> None:
    service = start(script=[one_of(7, 0)])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "plain_python.py"), service.url], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_over_http_no_verdict_is_an_exception(start: Start) -> None:
    service = start(script=[one_of(7, 1)])
    assert over_http(service.url) is False
    with pytest.raises(openai.APIError):
        over_http("http://127.0.0.1:1")
