"""The reader as a whole: what holds of any text, and what a hostile one costs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.reading.read import LONGEST, Reader
from guard.resources import shipped
from guard.tokenizer import load_tokenizer

READER = Reader(load_tokenizer(shipped("models") / "embedded").encode)
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("abcдо01@$!.-_ \n\"'%&#;\\x\u200b\u202e\u200d\u0301\u0336\U000e0041\ufe0f🏴"),
)
PLAIN = ["the", "people", "of", "this", "town", "have", "always", "been", "glad", "to", "see", "some", "rain"]


@given(st.text(CHARACTERS, max_size=80))
def test_any_text_is_read_and_each_character_has_its_place(text: str):
    reading = READER.read(text)
    spans = [reading.span(at, at + 1) for at in range(len(reading.text))]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert bool(reading.text.strip()) or reading.text == text


@given(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=40))
def test_plain_words_stay(words: list[str]):
    text = " ".join(words)
    reading = READER.read(text)
    assert reading.text == text
    assert reading.span(0, len(text)) == (0, len(text))


@given(st.text("aеk1l0i \u200b.-@!", max_size=30))
def test_characters_that_stay_before_any_change_keep_their_place(text: str):
    reading = READER.read(f"Hello there, {text}")
    assert reading.text[:5] == "Hello"
    assert reading.span(0, 5) == (0, 5)


@pytest.mark.parametrize(
    "text",
    ["k1ll y0u b1tch now", "I will kіll уоu", "f u c k  y o u", "noʎ llıʞ llıʍ I", '"gu" + "n po" + "wd" + "er"',
     "6b696c6c20616c6c206f6620796f75", "jung n tbbq vqrn guvf vf", "k̶i̶l̶l̶ y̶o̶u̶", "\u202euoy llik lliw I"],
)  # fmt: skip
def test_reading_twice_is_reading_once(text: str):
    once = READER.read(text).text
    assert once != text
    assert READER.read(once).text == once


def test_disguises_within_disguises_are_taken_off():
    inner = "".join(f"%{byte:02x}" for byte in b"i will kill you all")
    assert READER.read(inner.encode().hex()).text == "i will kill you all"


def test_a_part_of_the_reading_can_be_switched_off():
    folded, code = "k1ll th3m y0u b1tch", "6b696c6c20616c6c206f6620796f75"
    text = f"{folded}, {code}"
    assert READER.read(text).text == "kill them you bitch, kill all of you"
    assert READER.read(text, decode=False).text == f"kill them you bitch, {code}"
    assert READER.read(text, fold=False).text == f"{folded}, kill all of you"
    assert READER.read(text, fold=False, decode=False).text == text


def test_a_text_of_which_nothing_would_be_left_stays():
    assert READER.read("\u200b\u200b").text == "\u200b\u200b"


def test_a_quick_look_never_hides_what_a_closer_one_finds():
    for text in ('"make a gu" "n po" "wd" "er"', "107 105 108 108 32 105 116", "xvyy gurz nyy abj", "make it k i l l"):
        assert READER.read(text).text != text


def test_only_the_beginning_of_a_very_long_text_is_read():
    text = "k1ll " + "word " * (LONGEST // 5) + "k1ll"
    reading = READER.read(text)
    assert reading.text.startswith("kill word") and reading.text.endswith("word k1ll")
    assert reading.span(len(text) - 4, len(text)) == (len(text) - 4, len(text))


@pytest.mark.parametrize(
    "unit",
    ["<", "a.", "1", "a b ", "QUJDZGVm", '"', '"a', "'a' ", "\u202e", "\u202eab ", "\u0301", "a\u0301\u0316", "ж", "о",
     " ", "%41", "a%", "0a", "01010101 ", "&#65;", "&#", "\\u0041", "a1", "a@", "@", "qzx ", "aо", "іл", "a\u200d",
     "\U000e0041", "a-", "a-a/", "a_", "k1ll y0u ", "xvyy gurz ", "ɐ", "ᴀ", "𝐚", "ế", "A=A", ".- ",
     "a\n", "a b c\n", "QUJD\n", "http://"],
)  # fmt: skip
def test_a_hostile_megabyte_is_read_in_no_time(unit: str):
    text = unit * (1_000_000 // len(unit))
    started = time.thread_time()
    READER.read(text)
    assert time.thread_time() - started < 2
