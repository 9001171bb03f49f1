"""The service's fixtures: a plug-in talks over a real socket to a real service in front of the fake engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.keys import KeyBook
from tests.service.conftest import service, start, tokenizer
from tests.service.support import Service

__all__ = ["keyed", "service", "start", "tokenizer"]


@pytest.fixture
def keyed(start: Callable[..., Service], tmp_path: Path) -> Callable[..., tuple[Service, str]]:
    """Starts a service that asks for a key, of which it returns the secret. Keywords but `script` are the key's."""

    def started(script: list[list[float]] | None = None, **key: Any) -> tuple[Service, str]:
        path = tmp_path / "keys.sqlite"
        with KeyBook(path) as book:
            _, secret = book.create("plug-in", **key)
        return start(script=script, keys=path), secret

    return started
