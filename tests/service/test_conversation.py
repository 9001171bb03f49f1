"""What is judged of a conversation, and what of it the assistant sees."""

from __future__ import annotations

from typing import Any

import pytest

from guard.errors import InvalidRequest
from guard.item import Kind
from guard.service.conversation import Conversation


def turns(*said: str) -> list[dict[str, Any]]:
    """Of "user: Hello" and so on."""
    return [dict(zip(("role", "content"), each.split(": ", 1), strict=True)) for each in said]


def conversation(*said: str, documents: Any = None) -> Conversation:
    return Conversation(turns(*said), documents, 100)


def test_each_turn_alone_and_the_last_one_behind_those_that_count() -> None:
    talk = conversation("system: S", "user: one", "assistant: A", "user: two", "assistant: B", "user: three")
    assert [(t.param, t.text, t.kind) for t in talk.prompts()] == [
        ("messages.1", "one", Kind.PROMPT), ("messages.3", "two", Kind.PROMPT), ("messages.5", "three", Kind.PROMPT),
    ]  # fmt: skip
    found = talk.in_context([True, False, False])
    assert found is not None and (found.param, found.text) == ("messages.5", "two\n\nthree")
    assert talk.in_context([True, True, False]) is None
    assert conversation("user: one").in_context([False]) is None


def test_no_more_than_three_turns_lead_to_the_last() -> None:
    found = conversation(*[f"user: {i}" for i in range(9)]).in_context([False] * 9)
    assert found is not None and found.text == "5\n\n6\n\n7\n\n8"


def test_an_answers_prompt_is_the_last_turn_and_what_fits_before_it() -> None:
    assert conversation("user: one", "user: two").prompt([False, False]) == "one\n\ntwo"
    assert conversation("user: one", "user: two").prompt([True, False]) == "two"
    long = "x" * 500
    assert conversation("user: one", f"user: {long}").prompt([False, False]) == long
    assert conversation("system: only").prompt([]) is None


def test_a_stopped_turn_goes_with_what_was_answered_to_it() -> None:
    talk = conversation("system: S", "user: bad", "assistant: A", "tool: T", "system: S2", "user: good", "assistant: B")
    kept = [message["content"] for message in talk.without([True, False])]
    assert kept == ["S", "S2", "good", "B"]


def test_messages_reach_the_assistant_as_they_came() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}], "name": "n"}
    talk = Conversation([message, {"role": "user", "content": [{"type": "text", "text": "a"}]}], None, 10)
    assert talk.without([False]) == [message, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert talk.prompts()[0].text == "a"


def test_what_is_read_is_of_its_own_kind() -> None:
    talk = conversation("user: u", "tool: T", "function: F", documents=["D", {"a": {"b": ["E", 5, "G"]}}, " "])
    assert [(t.param, t.text) for t in talk.read()] == [
        ("messages.1", "T"), ("messages.2", "F"), ("documents.0", "D"), ("documents.1", "E\nG"),
    ]  # fmt: skip
    assert {t.kind for t in talk.read()} == {Kind.DOCUMENT}


def test_the_beginning_of_an_answer_is_judged_as_one() -> None:
    found = conversation("user: u", "assistant: So").begun([False])
    assert found is not None and (found.kind, found.text, found.prompt) == (Kind.ANSWER, "So", "u")
    assert conversation("user: u").begun([False]) is None


@pytest.mark.parametrize(
    ("messages", "documents", "param"),
    [
        ([], None, "messages"), ({}, None, "messages"), ([5], None, "messages.0"), ([{}], None, "messages.0.role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], None, "messages.0.content.0"),
        ([{"role": "user", "content": {}}], None, "messages.0.content"), (turns("user: x"), 5, "documents"),
        (turns("user: x"), [5], "documents.0"), (turns("user: x"), [{"n": 5}], "documents.0"),
        (turns("user: x") * 101, None, "input"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(messages: Any, documents: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Conversation(messages, documents, 100)
    assert caught.value.param == param
