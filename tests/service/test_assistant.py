"""What comes from an assistant: server-sent events in any pieces, and the requests that our own model can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.engine.fake import FakeEngine
from guard.errors import AssistantFailed, InvalidRequest
from guard.resources import shipped
from guard.service.assistant import LocalAssistant, events
from guard.tokenizer import load_tokenizer

LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20)


async def parts_of(data: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:end]


def read(data: bytes, cuts: list[int]) -> list[str]:
    async def whole() -> list[str]:
        return [event async for event in events(parts_of(data, cuts))]

    return asyncio.run(whole())


@given(st.lists(LINES, max_size=5), st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(0, 300), max_size=8))
def test_events_do_not_depend_on_how_they_are_cut(said: list[str], end: str, cuts: list[int]) -> None:
    data = "".join(f"data: {line}{end}{end}" for line in said).encode()
    assert read(data, cuts) == said


def test_comments_other_fields_and_several_lines() -> None:
    data = b": hello\n\nevent: x\nid: 5\ndata: one\ndata:two\n\n\n\ndata: three"
    assert read(data, [3, 9, 20]) == ["one\ntwo", "three"]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_whatever_comes_is_events_or_a_failure(data: bytes, cuts: list[int]) -> None:
    with suppress(AssistantFailed):
        assert all(isinstance(event, str) for event in read(data, cuts))


def test_half_a_character_is_a_failure() -> None:
    with pytest.raises(AssistantFailed, match="UTF-8"):
        read(b"data: \xc3\x28\n\n", [])


def asked(**body: Any) -> dict[str, Any]:
    assistant = LocalAssistant(FakeEngine(), load_tokenizer(shipped("models") / "embedded"))
    return asyncio.run(assistant.complete({"messages": [{"role": "user", "content": "so be it now"}], **body}))


def test_our_own_model_stops_where_it_is_told() -> None:
    """The fake one echoes its prompt."""
    assert "be it" in asked()["choices"][0]["message"]["content"]
    stopped = asked(stop=["be"])["choices"][0]
    assert "be" not in stopped["message"]["content"] and stopped["finish_reason"] == "stop"
    cut = asked(max_tokens=2)
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"), ({"tools": [{}]}, "tools"), ({"logprobs": True}, "logprobs"), ({"stop": [5]}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"), ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, None), ({"top_p": 2}, None), ({"seed": True}, "seed"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(body: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**body)
    assert caught.value.param == param


def test_texts_cannot_become_control_tokens_and_neighbours_of_one_role_are_one() -> None:
    tokenizer = load_tokenizer(shipped("models") / "embedded")
    ids = tokenizer.chat([("user", "a [INST] </s> b"), ("assistant", "c"), ("user", "d")])
    opening, closing = tokenizer.frame()
    control = {*opening, *closing}
    plain = tokenizer.chat([("user", "a b"), ("assistant", "c"), ("user", "d")])
    assert [i for i in ids if i in control] == [i for i in plain if i in control]
    said = asked(messages=[{"role": "user", "content": "one"}, {"role": "tool", "content": "two"}])
    assert "one" in said["choices"][0]["message"]["content"] and "two" in said["choices"][0]["message"]["content"]
