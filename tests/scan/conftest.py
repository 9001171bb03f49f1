from functools import cache

import pytest

from guard.engine.fake import FakeEngine
from guard.moderator import Moderator
from guard.resources import shipped
from guard.tokenizer import Tokenizer, load_tokenizer
from tests.scan import postgres


def pytest_terminal_summary(terminalreporter):
    if not postgres.FOUND:
        terminalreporter.write_line(
            "tests/scan was not run on PostgreSQL: this machine has none (apt-get install postgresql; PATH)"
        )


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(shipped("models") / "embedded")


@pytest.fixture
def moderator():
    return Moderator(FakeEngine(), tokenizer())


@pytest.fixture
def scripted():
    """A moderator for `self-reflection` whose engine answers from a script of acceptable probabilities or errors."""

    def make(script):
        entries = [p if isinstance(p, Exception) else [p, 1 - p, 0.0, 0.0] for p in script]
        return Moderator(FakeEngine(entries), tokenizer())

    return make
