"""Items: any text can be judged, none is lost, and an error about one never quotes it."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guard.errors import InvalidItem
from guard.item import Item, Kind

surrogates = st.characters(categories=["Cs"])


@pytest.mark.parametrize("text", ["", " ", "\n\t \r", "\u3000\u2003\xa0", "\x1c\x1f\x85\u2028"])
def test_a_text_of_white_space_is_refused(text: str):
    with pytest.raises(InvalidItem, match="empty") as error:
        Item(text=text)
    assert error.value.hint


@pytest.mark.parametrize("text", ["a", ".", "\0", "\u200b", "\ufeff", "🏳️‍🌈", "\ud800", "\x7f", " a "])
def test_any_other_text_is_an_item(text: str):
    assert Item(text=text).text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("a\udbff", "a\ufffd"),
        ("\ud800\ud800x", "\ufffd\ufffdx"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00!", "😀!"),
        ("a\0b", "a\0b"),
        ("e\u0301", "e\u0301"),
        ("＜ﬁ", "＜ﬁ"),
    ],
)
def test_lone_surrogates_are_replaced_and_nothing_else_is_touched(text: str, kept: str):
    item = Item(text=text, kind=Kind.COMMENT, prompt=text, parent=text, title=text)
    assert (item.text, item.prompt, item.parent, item.title) == (kept,) * 4


def by_hand(text: str) -> str:
    """Pairs of surrogates joined, lone ones replaced, one by one."""
    made, i = "", 0
    while i < len(text):
        one, two = ord(text[i]), ord(text[i + 1]) if i + 1 < len(text) else 0
        if 0xD800 <= one < 0xDC00 <= two < 0xE000:
            made, i = made + chr(0x10000 + (one - 0xD800) * 0x400 + two - 0xDC00), i + 2
        else:
            made, i = made + ("\ufffd" if 0xD800 <= one < 0xE000 else text[i]), i + 1
    return made


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=st.one_of(st.characters(), surrogates), min_size=1).filter(str.strip))
def test_any_text_can_be_encoded_and_loses_no_character(text: str):
    kept = Item(text=text).text
    kept.encode("utf-8")
    assert kept == by_hand(text)


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1).filter(str.strip))
def test_a_text_without_surrogates_stays_as_it_is(text: str):
    assert Item(text=text, prompt=text).text == Item(text="x", prompt=text).prompt == text


SECRET = "the user's own secret words"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": [SECRET]}, "text"),
        ({"text": b"\xff" + SECRET.encode()}, "text"),
        ({"text": None, "prompt": SECRET}, "text"),
        ({"prompt": SECRET}, "text"),
        ({"text": SECRET, "kind": "essay"}, "kind"),
        ({"text": SECRET, "kind": SECRET}, "kind"),
        ({"text": SECRET, "parent": 5}, "parent"),
        ({"text": SECRET, "thread": SECRET}, "thread"),
    ],
)
def test_what_is_no_item_is_refused_by_name_and_not_quoted(fields: dict[str, object], param: str):
    """It was pydantic's error, which quotes the text, in the message and in the traceback."""
    with pytest.raises(InvalidItem) as caught:
        Item(**fields)
    error = caught.value
    assert error.param == param and param in error.message
    assert SECRET not in str(error)
    shown = "".join(line for line in traceback.format_exception(error, chain=True) if "Item(" not in line)
    assert SECRET not in shown and error.__cause__ is None and error.__context__ is None
    with pytest.raises(InvalidItem):
        Item.model_validate(fields)


@pytest.mark.parametrize("data", [SECRET, None, 5, [SECRET]])
def test_what_has_no_fields_is_no_item(data: object):
    with pytest.raises(InvalidItem) as error:
        Item.model_validate(data)
    assert SECRET not in str(error.value)


def test_an_item_is_frozen_and_a_prompt_by_default():
    item = Item(text="a")
    assert (item.kind, item.prompt, item.parent, item.title) == (Kind.PROMPT, None, None, None)
    with pytest.raises(ValidationError):
        item.text = "b"
    assert Item(text="a", kind="answer").kind is Kind.ANSWER
    assert Item.model_validate_json(item.model_dump_json()) == item
    assert [kind.value for kind in Kind] == ["prompt", "answer", "comment", "document"]
