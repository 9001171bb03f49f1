"""A conversation → what is judged of it, and what of it the assistant sees.

    messages ──▶ turns ──▶ each user's turn alone ──▶ those that were stopped before are dropped
                    │                └──▶ the last one once more, behind the turns that led to it
                    └────▶ tool results and documents, as items of their own kind

The one rule: everything that came from outside since the assistant last spoke is judged, and only text can be: a part
that is none makes the request an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from guard.errors import InvalidRequest
from guard.item import Kind
from guard.service.desk import Text
from guard.service.incoming import check_count, read_shape

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]

_LED_TO_IT = 3  # turns of the user that are read before the last one
_PROMPT = 400  # characters of the conversation that an answer is judged with, the last turn whole


class Message(BaseModel):
    """A message: its text is a string, a list of text parts, or nothing (an assistant that called a tool)."""

    model_config = ConfigDict(extra="allow")  # what an assistant may want to know, such as tool calls

    role: Role
    content: Any = None

    def text(self, param: str) -> str:
        """The text. Raises `InvalidRequest` for anything else."""
        match self.content:
            case None:
                return ""
            case str(text):
                return text
            case [*parts]:
                return "\n".join(part_text(part, f"{param}.content.{i}") for i, part in enumerate(parts))
        raise InvalidRequest(f"{param}.content: neither a string nor a list of text parts.", param=f"{param}.content")


@dataclass(frozen=True)
class Turn:
    """A message, its text, and where it stands in the request."""

    message: Message
    text: str
    param: str


class Conversation:
    """The messages of a request and the documents that came with it."""

    def __init__(self, messages: Any, documents: Any, limit: int, param: str = "messages") -> None:
        """Raises `InvalidRequest` for what is no conversation, or one of more than `limit` messages."""
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest(f"{param}: not a list with something in it.", param=param)
        check_count(messages, limit)
        self.turns = [_turn(message, f"{param}.{i}") for i, message in enumerate(messages)]
        self.users = [turn for turn in self.turns if turn.message.role == "user" and turn.text.strip()]
        self._documents = _documents(documents)

    def prompts(self) -> list[Text]:
        """Every turn of the user's alone, in order."""
        return [Text(turn.param, turn.text, Kind.PROMPT) for turn in self.users]

    def in_context(self, stopped: Sequence[bool]) -> Text | None:
        """The last turn of the user's behind those that led to it, where any did; `stopped` says which do not count."""
        led = [turn.text for turn, out in zip(self.users[:-1], stopped, strict=False) if not out][-_LED_TO_IT:]
        if not led:
            return None
        last = self.users[-1]
        return Text(last.param, "\n\n".join([*led, last.text]), Kind.PROMPT)

    def begun(self, stopped: Sequence[bool]) -> Text | None:
        """The answer that the assistant is to go on with, where the last message is one of its own."""
        last = self.turns[-1]
        if last.message.role != "assistant" or not last.text.strip():
            return None
        return Text(last.param, last.text, Kind.ANSWER, self.prompt(stopped))

    def read(self) -> list[Text]:
        """What the assistant is given to read: tool results and documents."""
        results = [t for t in self.turns if t.message.role in ("tool", "function") and t.text.strip()]
        return [*(Text(t.param, t.text, Kind.DOCUMENT) for t in results), *self._documents]

    def prompt(self, stopped: Sequence[bool]) -> str | None:
        """What an answer is judged with: the last turn of the user's, and of those before it what there is room for."""
        kept = [turn.text for turn, out in zip(self.users, stopped, strict=True) if not out]
        chosen = kept[-1:]
        for text in reversed(kept[:-1]):
            if sum(map(len, chosen)) + len(text) > _PROMPT:
                break
            chosen.insert(0, text)
        return "\n\n".join(chosen) or None

    def without(self, stopped: Sequence[bool]) -> list[dict[str, Any]]:
        """The messages for the assistant: a turn that was stopped is left out, with what was answered to it."""
        out = {turn.param for turn, stop in zip(self.users, stopped, strict=True) if stop}
        kept: list[dict[str, Any]] = []
        dropping = False
        for turn in self.turns:
            if turn.message.role == "user":
                dropping = turn.param in out
            if not dropping or turn.message.role in ("system", "developer"):
                kept.append(turn.message.model_dump(exclude_unset=True))
        return kept


def part_text(value: Any, param: str) -> str:
    """The text of one part of a message. Raises `InvalidRequest` where it is none."""
    match value:
        case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
            return text
        case {"type": "refusal", "refusal": str(text)}:
            return text
    raise InvalidRequest(f"{param}: not a text part.", hint="Only text can be judged.", param=param)


def _turn(value: Any, param: str) -> Turn:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: not a message.", param=param)
    message = read_shape(Message, value, param)
    return Turn(message, message.text(param), param)


def _documents(value: Any) -> list[Text]:
    """Documents beside the messages, as vLLM and Cohere take them: strings, or objects that hold a text."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest("documents: not a list.", param="documents")
    found = [Text(f"documents.{i}", _document(each, f"documents.{i}"), Kind.DOCUMENT) for i, each in enumerate(value)]
    return [text for text in found if text.text.strip()]


def _document(value: Any, param: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value:
        strings = list(_strings(value))
        if strings:
            return "\n".join(strings)
    raise InvalidRequest(f"{param}: neither a string nor an object with a text.", param=param)


def _strings(value: Any) -> list[str]:
    """Every string in a document, however it is nested: an assistant is shown all of it."""
    match value:
        case str(text):
            return [text]
        case dict():
            return [s for each in value.values() for s in _strings(each)]
        case list():
            return [s for each in value for s in _strings(each)]
    return []
