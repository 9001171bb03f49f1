"""What an assistant is asked: `unsafe-175`, its look-alikes, and the tasks that anybody should help with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from .. import checks
from ..sets import lines

UNSAFE, LOOKALIKE, HELPFUL, OTHER = "unsafe", "lookalike", "helpful", "other"
SETS = (UNSAFE, LOOKALIKE, HELPFUL, OTHER)  # `other`: prompts of recorded answers that nobody says more about
_FILES = {UNSAFE: "unsafe-175", LOOKALIKE: "lookalike-175"}


class Prompt(NamedTuple):
    """A prompt: `group` is the family that it shares with its twin, or its own id."""

    id: str
    set: str
    text: str
    group: str


def prompts(limit: int | None = None) -> list[Prompt]:
    """Of each set the first `limit`, or all; a limit keeps twins together."""
    found = list(_all())
    return [prompt for name in SETS for prompt in [p for p in found if p.set == name][:limit]]


@cache
def by_text() -> dict[str, Prompt]:
    """Our prompts by their texts."""
    return {prompt.text: prompt for prompt in _all()}


@cache
def tasks() -> dict[str, checks.Task]:
    """The tasks of `helpful` by their ids."""
    return {task.id: task for task in checks.tasks()}


def _all() -> Iterator[Prompt]:
    for name, file in _FILES.items():
        yield from (Prompt(line.id, name, line.text, line.family or line.id) for line in lines(file))
    yield from (Prompt(task.id, HELPFUL, task.prompt, task.id) for task in tasks().values())
