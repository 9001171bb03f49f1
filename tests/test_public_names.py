"""What `from guard import ...` gives. A change here is a change for everybody who uses the package."""

from __future__ import annotations

import inspect
import re

import guard
from guard import Item, Moderator, Policy, Verdict

NAMES = ["Category", "Decision", "GuardError", "Item", "Kind", "Moderator", "Policy", "Verdict"]


def test_the_names():
    assert guard.__all__ == NAMES
    assert all(hasattr(guard, name) for name in NAMES)
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:[a-z0-9.]+)?", guard.__version__)


def test_every_name_says_what_it_is():
    assert all(inspect.getdoc(getattr(guard, name)) for name in NAMES)


def test_what_a_moderator_is_asked():
    public = {name for name in vars(Moderator) if not name.startswith("_")}
    assert public == {
        "load", "judge", "ajudge", "judge_many", "task", "failed", "pin", "ask", "answer", "score", "worded",
        "wordings",
    }  # fmt: skip
    asked = ["self", "text", "policy", "categories", "kind"]
    for method in (Moderator.judge, Moderator.ajudge, Moderator.task):
        assert list(inspect.signature(method).parameters) == asked
    assert list(inspect.signature(Moderator.judge_many).parameters) == ["self", "tasks"]
    assert list(inspect.signature(Moderator).parameters) == [
        "engine", "tokenizer", "calibration", "languages", "policies", "settings",
    ]  # fmt: skip


def test_the_fields_that_are_written_to_files_and_over_the_wire():
    assert list(Item.model_fields) == ["text", "kind", "prompt", "parent", "title"]
    assert list(Verdict.model_fields) == [
        "decision", "score", "category_scores", "categories", "reason", "policy", "policy_version", "policy_hash",
        "prompt_hash", "model", "passages", "passage", "truncated", "unsupported_language", "uncalibrated",
        "error",
    ]  # fmt: skip
    assert list(Policy.model_fields) == [
        "id", "version", "description", "acceptable", "kinds", "threshold", "categories", "allow", "deny", "tests",
        "calibration", "evidence",
    ]  # fmt: skip
