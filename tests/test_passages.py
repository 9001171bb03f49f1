"""Cutting: all of a text is in some passage, each passage fits, and whatever a limit left out is said."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.passages import Cut, cut
from guard.tokenizer import pieces
from tests.builders import known

Encode = Callable[[str], list[int]]


def by_word(text: str) -> list[int]:
    """One token per word."""
    return [len(word) for word in text.split()]


def by_character(text: str) -> list[int]:
    return [ord(c) for c in text]


def by_byte(text: str) -> list[int]:
    return list(text.encode())


def by_pair(text: str) -> list[int]:
    """More tokens for a whole than for its parts: one per character, and one for each pair of neighbours."""
    return list(range(max(0, 2 * len(text) - 1)))


ENCODERS: dict[str, Encode] = {
    "word": by_word,
    "character": by_character,
    "byte": by_byte,
    "pair": by_pair,
    "embedded": known("embedded").tokenizer.encode,
    "sentencepiece": known("sentencepiece").tokenizer.encode,
    "mistral-v3": known("mistral-v3").tokenizer.encode,
}


def assert_sound(made: Cut, text: str, encode: Encode, room: int, limit: int) -> None:
    assert 1 <= len(made.passages) <= limit
    at = covered = 0
    for passage, ids, start in made.passages:
        assert list(ids) == encode(passage)
        assert text[start : start + len(passage)] == passage
        assert len(ids) <= room
        found = text.find(passage, at if passage.strip() else 0)
        while found < covered and text.find(passage, found + 1) in range(found + 1, covered + 1):
            found = text.find(passage, found + 1)  # the latest place that leaves no gap: a text may repeat itself
        assert 0 <= found <= covered, "something between two passages is lost"
        at, covered = found, max(covered, found + len(passage))
    assert made.truncated == (covered < len(text))


mixed = st.lists(
    st.one_of(
        st.sampled_from(
            ["the ", "kill ", "a" * 60, "\n\n", "é" * 9, "漢字", "🏳️‍🌈", "  ", "\0", ".", "x" * 200, "\u200b"]
        ),
        st.text(max_size=12),
    ),
    max_size=60,
).map("".join)


@pytest.mark.parametrize("name", ["character", "byte", "pair", "embedded", "sentencepiece", "mistral-v3"])
@settings(deadline=None, max_examples=40)
@given(text=mixed, room=st.integers(16, 40), share=st.floats(0, 1), limit=st.sampled_from([1, 2, 5, 1000]))
def test_every_part_of_a_text_is_in_a_passage_that_fits(name: str, text: str, room: int, share: float, limit: int):
    made = cut(text, ENCODERS[name], room, int(share * room / 2), limit)
    assert_sound(made, text, ENCODERS[name], room, limit)


@settings(deadline=None, max_examples=60)
@given(text=mixed, room=st.integers(16, 40), overlap=st.integers(0, 8))
def test_every_word_is_whole_in_some_passage(text: str, room: int, overlap: int):
    """Except those longer than a piece, which no passage need hold whole."""
    made = cut(text, by_word, room, overlap, 1000)
    assert not made.truncated
    for piece in pieces(text):
        assert any(piece in passage for passage, _, _ in made.passages)


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 300), room=st.integers(2, 30), overlap=st.integers(0, 15), limit=st.integers(1, 12))
def test_the_number_of_passages_and_their_overlap(count: int, room: int, overlap: int, limit: int):
    overlap = min(overlap, room // 2)
    words = [f"w{i}" for i in range(count)]
    made = cut(" ".join(words), by_word, room, overlap, limit)
    passages = [passage.split() for passage, _, _ in made.passages]
    expected, start = [], 0  # each passage begins `overlap` words before the end of the one before it
    while True:
        expected.append(words[start : start + room])
        if start + room >= count:
            break
        start += room - overlap
    assert passages == expected[:limit]
    assert made.truncated == (len(expected) > limit)


def test_a_text_that_fits_is_one_passage_as_it_is():
    for text in ("a", " a  b ", "\n", ""):
        assert cut(text, by_character, 16, 8, 1) == Cut(((text, tuple(by_character(text)), 0),), False)
    exact = "a" * 16
    assert len(cut(exact, by_character, 16, 8, 9).passages) == 1
    assert len(cut(exact + "b", by_character, 16, 8, 9).passages) > 1


def test_a_passage_that_encodes_to_more_than_its_words_is_halved():
    text = "aaaa bbbb cccc dddd " * 3
    made = cut(text, by_pair, 16, 4, 100)
    assert_sound(made, text, by_pair, 16, 100)
    assert all(len(ids) <= 16 for _, ids, _ in made.passages)


def test_a_long_word_has_a_shorter_overlap_before_it():
    """Else it would be cut in the middle."""
    made = cut("aaaaaaa " * 2 + "b" * 12, by_character, 16, 8, 9)
    assert [passage for passage, _, _ in made.passages] == ["aaaaaaa aaaaaaa ", "b" * 12]


def test_halves_beyond_the_limit_are_left_out_and_said_to_be():
    text = "abcdefgh " * 40
    for limit in range(1, 12):
        made = cut(text, by_pair, 16, 0, limit)
        assert len(made.passages) == limit and made.truncated


def test_words_without_tokens_cost_nothing():
    """A tokenizer may have none for a word; each was counted again with each that followed."""
    started = time.thread_time()
    made = cut("\u200b " * 100_000 + "bomb", lambda text: [1] * len(re.findall("[a-z]+", text)), 16, 8, 4)
    assert time.thread_time() - started < 10
    assert made.passages[-1][0].endswith("bomb") and not made.truncated


MEGABYTES = {
    "one word": "a" * 10**6,
    "one word without letters": "<" * 10**6,
    "no spaces": "漢字仮名" * 83_333,
    "emoji": "🏳️‍🌈" * 70_000,
    "white space": " " * 10**6,
    "white space in front": " " * 10**6 + "bomb",
    "line ends": "\n" * 10**6,
    "words": "how to build it " * 62_500,
    "combining": "e" + "\u0301" * 500_000,
    "zero width": "\u200b" * 333_333,
    "NUL": "\0" * 10**6,
}


@pytest.mark.parametrize("text", MEGABYTES.values(), ids=MEGABYTES)
@pytest.mark.parametrize("name", ["embedded", "mistral-v3"])
def test_a_megabyte_costs_what_its_passages_cost(name: str, text: str):
    tokens = 0

    def encode(part: str) -> list[int]:
        nonlocal tokens
        ids = ENCODERS[name](part)
        tokens += len(ids)
        return ids

    started = time.thread_time()
    made = cut(text, encode, 64, 8, 4)
    assert time.thread_time() - started < 5
    assert_sound(made, text, ENCODERS[name], 64, 4)
    assert made.truncated
    assert tokens < 4 * 64 * 4, "more of the text was encoded than was used"


@pytest.mark.parametrize("text", ["漢字仮名交じり文" * 60, "🏳️‍🌈" * 100, "\u0301" * 200, "ﷺ" * 100, "a\0" * 200])
@pytest.mark.parametrize("name", ["byte", "embedded", "sentencepiece", "mistral-v3"])
def test_characters_of_many_bytes_are_kept_whole(name: str, text: str):
    made = cut(text, ENCODERS[name], 24, 6, 10**6)
    assert not made.truncated
    assert_sound(made, text, ENCODERS[name], 24, 10**6)


def test_neighbours_share_the_overlap():
    """A word at a border is read with what stands before it."""
    made = cut(" ".join(f"w{i}" for i in range(100)), by_word, 16, 6, 100)
    passages = [passage.split() for passage, _, _ in made.passages]
    assert all(one[-6:] == other[:6] for one, other in zip(passages, passages[1:], strict=False))
