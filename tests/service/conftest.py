"""A service on a real socket, in front of the fake engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import openai
import pytest

from guard.moderator import Moderator
from guard.resources import shipped
from guard.service.app import create_app
from guard.settings import Settings
from guard.tokenizer import Tokenizer, load_tokenizer
from tests.service.support import Engine, Service, listening, one_of, until


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(shipped("models") / "embedded")


@contextmanager
def starting(tokenizer: Tokenizer) -> Iterator[Callable[..., Service]]:
    """Starts services. `script` is what the engine answers after the self-test; other keywords are settings."""
    with ExitStack() as stack:

        def started(script: Sequence[Sequence[float]] | None = None, **changed: Any) -> Service:
            settings = Settings(**changed)
            engine = Engine(None if script is None else [one_of(14, 0), *script])
            moderator = Moderator(engine, tokenizer, settings=settings)
            app = create_app(moderator, settings)
            url = stack.enter_context(listening(app))
            stack.callback(engine.go)  # lest a held engine keep the service from stopping
            http = stack.enter_context(httpx.Client(base_url=url, timeout=60))
            sdk = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60))
            until(lambda: http.get("/readyz").status_code == 200)
            return Service(engine, moderator, tokenizer, app.state.desk, url, http, sdk)

        yield started


@pytest.fixture
def start(tokenizer: Tokenizer) -> Iterator[Callable[..., Service]]:
    with starting(tokenizer) as started:
        yield started


@pytest.fixture(scope="module")
def module_start(tokenizer: Tokenizer) -> Iterator[Callable[..., Service]]:
    """As `start`, for services that a module's tests share."""
    with starting(tokenizer) as started:
        yield started


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    """A service with the default settings, whose engine answers by hash."""
    return start()
