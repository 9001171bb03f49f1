"""A moderator from settings: what belongs together is put together, and what does not is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guard.errors import ModelUnavailable
from guard.loading import load_moderator
from guard.resources import shipped
from guard.settings import Settings
from tests.oracles import tiny_mistral


def with_tokenizer(folder: Path, vocab_size: int) -> Path:
    """A random model of that many tokens beside the embedded model's tokenizer."""
    tiny_mistral(folder, window=None, vocab_size=vocab_size, max_position_embeddings=2048)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped("models") / "embedded" / name, folder)
    return folder


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="the tokenizer has 20480 tokens and the model 61"):
        load_moderator(Settings(model=str(with_tokenizer(tmp_path, 61))))


def test_one_that_fits_is_taken(tmp_path: Path) -> None:
    moderator = load_moderator(Settings(model=str(with_tokenizer(tmp_path, 20480))))
    assert 0 <= moderator.judge("hello there").score <= 1
