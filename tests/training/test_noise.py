"""Disguise that people can still read."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from training.noise import accompanied, noised


@given(st.text(max_size=200), st.integers())
def test_short_words_stay_and_the_same_draw_gives_the_same_text(text: str, seed: int) -> None:
    found = noised(random.Random(seed), text)
    assert found == noised(random.Random(seed), text)
    short = [word for word in text.split(" ") if len(word) <= 3]
    rest = iter(found.split(" "))
    assert all(any(word == other for other in rest) for word in short)  # in order


@given(st.text(max_size=200), st.lists(st.text(max_size=50), max_size=3), st.integers())
def test_company_leaves_the_text_whole(text: str, others: list[str], seed: int) -> None:
    found = accompanied(random.Random(seed), text, others)
    assert text in found and len(found) > len(text)
    assert found == accompanied(random.Random(seed), text, others)


def test_something_changes() -> None:
    text = "people write ordinary sentences about their dinner"
    assert len({noised(random.Random(seed), text) for seed in range(20)} - {text}) >= 10
