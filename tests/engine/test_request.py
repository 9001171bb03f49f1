"""What an engine is asked: the answers of a request are free of prefixes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.engine.request import Request, answers

END = 99


def answered(*labels: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return answers(Request(((1,), (2,)), labels, END))


@pytest.mark.parametrize(
    ("labels", "scored"),
    [
        (((7,), (8,)), ((7,), (8,))),
        (((7,), (7, 8)), ((7, END), (7, 8))),
        (((7, 8), (7,)), ((7, 8), (7, END))),
        (((7,), (7, 8), (7, 8, 9)), ((7, END), (7, 8, END), (7, 8, 9))),
        (((7,), (8, 7)), ((7,), (8, 7))),
        (((7, 8), (7, 9)), ((7, 8), (7, 9))),
        (((7,), (7,)), ((7,), (7,))),  # told apart by nobody: an engine refuses them
        ((), ()),
    ],
)
def test_a_label_that_begins_another_ends_with_the_terminator(
    labels: tuple[tuple[int, ...], ...], scored: tuple[tuple[int, ...], ...]
):
    assert answered(*labels) == scored


@settings(deadline=None, max_examples=60)
@given(st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8))
def test_no_answer_begins_another(labels: set[tuple[int, ...]]):
    ordered = sorted(labels)
    scored = answered(*ordered)
    assert len(set(scored)) == len(ordered)
    for i, one in enumerate(scored):
        assert one[: len(ordered[i])] == ordered[i]
        assert one in (ordered[i], (*ordered[i], END))
        assert not any(other[: len(one)] == one for j, other in enumerate(scored) if j != i)
        begins = any(other != ordered[i] and other[: len(ordered[i])] == ordered[i] for other in ordered)
        assert (one[-1] == END) == begins


def test_a_request_is_plain_frozen_data():
    request = Request(((1,), (2,)), ((7,),), END)
    assert request == Request(((1,), (2,)), ((7,),), END) and hash(request)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.terminator = 1  # type: ignore[misc]
    assert not hasattr(request, "__dict__"), "millions of them are made"
