"""A reader with the embedded model's tokenizer."""

from __future__ import annotations

import pytest

from guard.reading.read import Reader
from guard.resources import shipped
from guard.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def reader() -> Reader:
    return Reader(load_tokenizer(shipped("models") / "embedded").encode)
