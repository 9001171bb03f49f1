"""A real Chromium, for tests of what a person sees.

Chromium is no Python package, so these tests are collected only where the machine has one (Debian's `chromium`), as the
tests beside other people's programs are; a run without it says so at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from benchmarks.screenshot import chromium, launched
from tests.service.conftest import tokenizer

__all__ = ["tokenizer"]

collect_ignore = [] if chromium() else ["test_playground.py"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if collect_ignore:
        terminalreporter.write_line(
            "tests/browser was not run: this machine has no Chromium (apt-get install chromium)"
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, launched(playwright) as browser:
        yield browser
