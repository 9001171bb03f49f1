"""Text as it comes: whole characters, nothing of a stop string, and nothing lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.engine.engine import TorchEngine
from guard.engine.generate import Ended, Sampling
from guard.resources import shipped
from guard.tokenizer import load_tokenizer
from guard.writing import written
from tests.families import ids
from tests.oracles import tiny_mistral

TOKENIZER = load_tokenizer(shipped("models") / "embedded")


def letters(some) -> str:
    return "".join(map(chr, some))


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_the_text_up_to_the_first_stop_string(text, stops):
    expected = text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
    # of stop strings that end at different tokens the one that is complete first ends the text
    ends = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    if ends:
        first = ends[0][0]
        expected = text[: min(start for end, start in ends if end == first)]
    parts = list(written(map(ord, text), letters, stops))
    assert "".join(parts) == expected and all(parts)


@given(st.lists(st.text(max_size=12), max_size=5).map(" ".join))
def test_no_character_is_torn(text):
    whole = TOKENIZER.decode(TOKENIZER.encode(text))
    parts = list(written(TOKENIZER.encode(text), TOKENIZER.decode))
    assert "".join(parts) == whole
    assert not any("\ufffd" in part for part in parts) or "\ufffd" in whole


def test_a_character_of_four_tokens_comes_at_once_and_half_of_one_at_the_end():
    face = TOKENIZER.encode("\U0001f642")
    assert len(face) > 1 and list(written(face, TOKENIZER.decode)) == ["\U0001f642"]
    assert list(written(face[:-1], TOKENIZER.decode)) == [TOKENIZER.decode(face[:-1])]


def test_control_tokens_are_no_text():
    before, _ = TOKENIZER.frame()
    assert TOKENIZER.decode([*before, *TOKENIZER.encode("so it goes"), TOKENIZER.terminator]) == "so it goes"


def test_a_stop_string_ends_the_generation_behind_it(tmp_path):
    tiny_mistral(tmp_path, window=8, max_position_embeddings=512)
    engine = TorchEngine.load(tmp_path, dtype="float32")
    whole = list(engine.generate(ids(5), Sampling(max_tokens=40)))
    text = letters(whole)
    stop = text[7:9]
    generation = engine.generate(ids(5), Sampling(max_tokens=400))
    assert "".join(written(generation, letters, [stop])) == text[: text.find(stop)]
    assert generation.ended in (None, Ended.CANCELLED) and len(generation.tokens) < 400


@pytest.mark.parametrize("left_after", [0, 1, 3])
def test_who_leaves_closes_what_is_generated(left_after):
    closed = []

    def tokens() -> Iterator[int]:
        try:
            yield from map(ord, "abcdef")
        finally:
            closed.append(True)

    text = written(tokens(), letters, ["zz"])
    for _ in range(left_after):
        next(text)
    if left_after:
        text.close()
        assert closed
