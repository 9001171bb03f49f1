"""Sentences: every character that is not blank is in one span, whatever the text, in linear time."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.sentences import sentences

MARKS = st.text(st.sampled_from("ab .!?,;:\n\r\t\u3000\u2028。、…\"')-–I.eg5\0\ud800\u200b"), max_size=600)


def cut(text: str, most: int = 64) -> list[str]:
    return [text[start:end] for start, end in sentences(text, most)]


@given(st.one_of(MARKS, st.text(max_size=600), st.text("ab ", min_size=190, max_size=700)), st.integers(1, 9))
def test_spans_are_in_order_and_disjoint_and_cover_all_that_is_not_blank(text: str, most: int):
    spans = sentences(text, most)
    assert len(spans) <= most
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    left = [text[end:start] for (_, end), (start, _) in pairwise([(0, 0), *spans, (len(text), len(text))])]
    assert "".join(left).strip() == ""
    assert sentences(text, most) == spans


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "go." Then he left.', ['He said "go."', "Then he left."]),
        ("So I do. You, too?!  ", ["So I do.", "You, too?!"]),
        ("Dr. Who and J. Smith, e.g. now. End.", ["Dr. Who and J. Smith, e.g. now.", "End."]),
        ("It costs 3.5 at example.com. Buy.", ["It costs 3.5 at example.com.", "Buy."]),
        ("- one\n- two\r\n\n- three", ["- one", "- two", "- three"]),
        ("你好。你是谁？「走。」好", ["你好。", "你是谁？", "「走。」", "好"]),
        ("No end, however long, is a clause", ["No end, however long, is a clause"]),
        ("... !!!", ["...", "!!!"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, found: list[str]):
    assert cut(text) == found


def test_a_long_sentence_is_cut_at_its_clauses():
    clauses = [f"{'so it goes ' * 10}{n}," for n in range(4)]
    assert cut(" ".join(clauses)) == clauses


def test_a_long_clause_is_cut_between_words_and_a_long_word_anywhere():
    words = cut("word " * 100)
    assert len(words) == 3 and all(len(part) <= 200 and set(part.split()) == {"word"} for part in words)
    assert [len(part) for part in cut("x" * 500)] == [200, 200, 100]


def test_many_sentences_are_put_together_with_their_neighbours():
    text = "Yes. " * 1000
    parts = cut(text, most=10)
    assert len(parts) == 10 and {part.count("Yes.") for part in parts} == {100}


@pytest.mark.parametrize("unit", [".", "a.", "J. ", ",", "\n", "。", "-", "a", "(", "' ", '."', " "])
def test_long_runs_of_marks_take_linear_time(unit: str):
    began = time.perf_counter()
    sentences(unit * (300_000 // len(unit)), 64)
    assert time.perf_counter() - began < 5  # a quadratic rule would take hours
