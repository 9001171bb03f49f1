from pathlib import Path

import pytest

from eval.predict import predict
from eval.run import Source, run
from guard.engine.fake import FakeEngine
from guard.labelled import read_labelled
from guard.moderator import Moderator
from guard.policy import PolicyBook
from guard.resources import shipped
from guard.settings import Settings
from guard.tokenizer import load_tokenizer

ROWS = [
    ("You silly fool number", "insult", "g"), ("A nice day number", "acceptable", "g"),
    ("Buy pills now number", "spam", ""),
    ("<b>bold</b> & \u202e number", "hate", ""), ("All of them are animals number", "acceptable", ""),
]  # fmt: skip


@pytest.fixture
def moderator():
    return Moderator(FakeEngine(), load_tokenizer(shipped("models") / "embedded"))


@pytest.fixture
def policy():
    return PolicyBook().get("forum-comments")


@pytest.fixture
def labels(tmp_path) -> Path:
    """A labelled file of 60 comments, in pairs and alone."""
    path = tmp_path / "labels.csv"
    lines = [f"{text} {n},{label},{g and g + str(n)},comment" for n in range(12) for text, label, g in ROWS]
    path.write_text("text,label,group,kind\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def a_run(tmp_path, labels, policy):
    """The folder of a run on the fake engine."""
    folder = tmp_path / "run"
    source = Source(read_labelled(labels), str(labels))
    run([source], [policy], [Settings(model="fake")], folder, command="python -m eval run")
    return folder


@pytest.fixture
def cell(tmp_path, labels, policy, moderator):
    return predict(moderator, read_labelled(labels), policy, tmp_path / "cell", source=str(labels))
