"""Arithmetic on shapes, against published counts and against slow sums."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.engine.sizing import (
    KNOWN,
    Machine,
    Shape,
    Work,
    comments_per_second,
    comparison,
    report,
    streams_that_fit,
    tokens_per_second,
)
from guard.errors import InvalidRequest

TINY = Shape(layers=3, hidden=8, heads=4, kv_heads=2, head_size=2, mlp=16, vocab=10, window=5, windowed=2)
PUBLISHED = {  # the counts that the model cards give
    "Llama 3.2 1B": 1_235_814_400,
    "Llama 2 7B": 6_738_415_616,
    "Mistral 7B v0.1": 7_241_732_096,
    "Llama 3.1 8B": 8_030_261_248,
    "Mistral Nemo 12B": 12_247_782_400,
    "Mistral Small 24B": 23_572_403_200,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_those_that_are_published(name: str) -> None:
    assert KNOWN[name].weights == PUBLISHED[name]


@given(before=st.integers(0, 12), tokens=st.integers(1, 12))
def test_operations_against_a_sum_over_every_token(before: int, tokens: int) -> None:
    expected = 0
    for place in range(before, before + tokens):
        for windowed in (True, True, False):
            expected += 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16)  # q, k and v, out, gate up and down
            seen = [key for key in range(place + 1) if not windowed or key > place - 5]
            expected += 4 * 4 * 2 * len(seen)
    assert TINY.operations(tokens, before, read=2) == expected + 2 * 2 * 8 * 10


def test_a_cache_stops_growing_where_all_layers_have_a_window() -> None:
    per_layer = 2 * 2 * 2 * 2
    assert TINY.cache_bytes(4, 2) == 3 * per_layer * 4
    assert TINY.cache_bytes(9, 2) == per_layer * (5 + 5 + 9)
    mistral = KNOWN["Mistral 7B v0.1"]
    assert mistral.cache_bytes(8192, 2) * 2 == KNOWN["Mistral 7B v0.3"].cache_bytes(8192, 2)
    assert mistral.cache_bytes(32768, 2) * 8 == KNOWN["Mistral 7B v0.3"].cache_bytes(32768, 2)


def test_what_fits() -> None:
    one = TINY.cache_bytes(4, 2)
    weights = TINY.weights * 2
    assert streams_that_fit(TINY, weights + 3 * one, 4, 2.0) == 3
    assert streams_that_fit(TINY, weights, 4, 2.0) == 0
    assert streams_that_fit(TINY, weights - 1, 4, 2.0) == -1


def test_rates_from_ceilings() -> None:
    machine = Machine(operations=1e9, bytes=1e6)
    work = Work(tokens=3, policy=4)
    assert comments_per_second(TINY, machine, work, 0.5) == 0.5 * 1e9 / TINY.operations(3, 4, 1)
    read = (TINY.weights - 10 * 8) * 2  # an embedding that is not also the output layer is looked up, not read
    assert tokens_per_second(TINY, machine, 4, 1, 2.0) == pytest.approx(1e6 / (read + TINY.cache_bytes(4, 2)))
    experts = Shape(1, 8, 4, 2, 2, 16, 10, experts=8, chosen=2)
    one, many = (tokens_per_second(experts, machine, 1, n, 2.0) / n for n in (1, 16))
    assert one / many > 2  # sixteen streams need all experts read, one needs two


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no size"),
        ("layers=2", "no hidden"),
        ("layers=x", "no size"),
        ("depth=2", "no size"),
        ("layers=1,hidden=8,heads=3,kv_heads=2,head_size=2,mlp=4,vocab=9", "contradicts"),
        ("layers=1,hidden=8,heads=2,kv_heads=2,head_size=2,mlp=4,vocab=0", "no vocab"),
        ("layers=-1", "no size"),
    ],
)
def test_a_shape_that_is_none(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Shape.parse(text)


def test_a_report_says_where_the_weights_do_not_fit() -> None:
    found = report("m", KNOWN["Mistral Small 24B"], 2**30, Machine(1e12, 1e10), Work(74, 430), 0.76)
    assert "none" in found and "23.57 billion" in found and "no window" in found


def test_the_table_in_the_docs_is_the_commands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    assert comparison(KNOWN, 32768, 4096) in page
