"""System prompts that an assistant is asked under: those of `prompts/system/`, none at all, or a file of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from guard.errors import InvalidRequest
from guard.resources import shipped

NONE = "none"


class System(NamedTuple):
    """A system prompt under the name that a report gives it; without a text none is sent."""

    name: str
    text: str

    @property
    def hash(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def known() -> dict[str, System]:
    """`none` and the shipped ones, by name."""
    files = sorted((shipped("prompts") / "system").glob("*.txt"))
    return {NONE: System(NONE, "")} | {file.stem: _read(file) for file in files}


def chosen(names: str) -> list[System]:
    """The system prompts of a list by commas; what ends with .txt is a file. Raises `InvalidRequest`."""
    found = [_one(name.strip()) for name in names.split(",")]
    if len({system.name for system in found}) != len(found):
        raise InvalidRequest("A system prompt is named twice.", param="system")
    return found


def recorded(said: str | None) -> System:
    """What a recorded answer says of its system prompt: a known name, or the text itself.

    >>> recorded(None).name, recorded("").name, recorded("guardrail").name, recorded("Be brief.").name
    ('not stated', 'none', 'guardrail', 'text 213c22ed')
    """
    if said is None:
        return System("not stated", "")
    text = said.strip()
    if text in known():
        return known()[text]
    named = {system.text: system for system in known().values()}
    return named.get(text) or System(f"text {System('', text).hash[:8]}", text)


def _one(name: str) -> System:
    if name in known():
        return known()[name]
    if not name.endswith(".txt"):
        raise InvalidRequest(
            f"There is no system prompt {name!r}.", hint=f"Known: {', '.join(known())}; or name a .txt file.",
            param="system",
        )  # fmt: skip
    try:
        return _read(Path(name))
    except (OSError, UnicodeDecodeError) as cause:
        raise InvalidRequest(f"{name}: cannot be read as text.", param="system") from cause


def _read(file: Path) -> System:
    return System(file.stem, file.read_text(encoding="utf-8").strip())
