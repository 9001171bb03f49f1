"""A moderator from settings: what belongs together is put together, and what does not is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


@pytest.mark.parametrize("apart", [False, True])
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, apart: bool) -> None:
    with pytest.raises(ModelUnavailable, match="the tokenizer has 20480 tokens and the model 61"):
        load_moderator(Settings(model=str(with_tokenizer(tmp_path, 61))), apart=apart)


def test_one_that_fits_is_taken(tmp_path: Path) -> None:
    moderator = load_moderator(Settings(model=str(with_tokenizer(tmp_path, 20480))))
    assert 0 <= moderator.judge("hello there").score <= 1


_APART = """
import sys
from guard.loading import load_moderator
from guard.settings import Settings
moderator = load_moderator(Settings(model=sys.argv[1]), apart=True)
print(moderator.judge("hello there").score)
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_apart_it_says_the_same_and_this_process_needs_no_torch(tmp_path: Path) -> None:
    settings = Settings(model=str(with_tokenizer(tmp_path, 20480)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _APART, settings.model], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    score, loaded = done.stdout.splitlines()
    assert loaded == "[]" and float(score) == load_moderator(settings).judge("hello there").score
