"""Edits of a text, beside an oracle that keeps a place for each character."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from guard.reading.reading import Edit, Reading

Placed = list[tuple[str, int]]  # each character with the place that it came from


@st.composite
def edits(draw: st.DrawFn, length: int) -> list[Edit]:
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=8)))
    return [(start, end, draw(st.text("xyz", max_size=4))) for start, end in zip(cuts[::2], cuts[1::2], strict=False)]


def slowly(placed: Placed, end: int, made: list[Edit]) -> Placed:
    """The edits made one by one from behind, so that none moves another."""
    places = [*(place for _, place in placed), end]
    placed = list(placed)
    for start, stop, new in reversed(made):
        own = places[start:stop] if len(new) == stop - start else [places[start]] * len(new)
        placed[start:stop] = zip(new, own, strict=True)
    return placed


@given(st.data(), st.text("abc", max_size=20))
def test_edits_upon_edits_are_those_of_the_oracle(data: st.DataObject, text: str):
    reading, placed = Reading(text), [(letter, at) for at, letter in enumerate(text)]
    for _ in range(3):
        made = data.draw(edits(len(reading.text)))
        reading, placed = reading.edited(made), slowly(placed, len(text), made)
        assert reading.text == "".join(letter for letter, _ in placed)
        places = [place for _, place in placed] + [len(text)]
        for start in range(len(placed)):
            for end in range(start + 1, len(placed) + 1):
                behind = next((place for place in places[end:] if place > places[end - 1]), len(text))
                assert reading.span(start, end) == (places[start], behind)


@given(st.data(), st.text("abc", max_size=20))
def test_spans_are_inside_the_text_and_in_order(data: st.DataObject, text: str):
    reading = Reading(text).edited(data.draw(edits(len(text))))
    spans = [reading.span(at, at + 1) for at in range(len(reading.text))]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert spans == sorted(spans)


@given(st.text("ab1", max_size=20), st.sampled_from(["", "x", "xy"]))
def test_sub_gives_the_text_of_re(text: str, new: str):
    assert Reading(text).sub(re.compile("[a1]+"), new).text == re.sub("[a1]+", new, text)


def test_sub_leaves_what_is_answered_with_none():
    reading = Reading("aba").sub(re.compile("a"), lambda match: None if match.start() == 0 else "x")
    assert reading.text == "abx"


def test_a_text_without_edits_is_the_same_reading():
    reading = Reading("abc")
    assert reading.edited([]) is reading
    assert reading.sub(re.compile("c"), "c") is reading


@given(st.text("abc", max_size=9), st.text("abc", max_size=9), st.data())
def test_what_stands_behind_keeps_its_place(head: str, rest: str, data: st.DataObject):
    reading = Reading(head).edited(data.draw(edits(len(head)))).before(rest)
    assert reading.text.endswith(rest)
    for at in range(len(rest)):
        shown = len(reading.text) - len(rest) + at
        assert reading.span(shown, shown + 1) == (len(head) + at, len(head) + at + 1)


def test_an_empty_span_is_empty():
    assert Reading("k..ill").edited([(1, 3, "")]).span(1, 1) == (3, 3)
