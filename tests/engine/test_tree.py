"""The plan: what is laid out, where, who sees whom, and how requests are split into batches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from guard.engine.request import Request, answers
from guard.engine.tree import batches, groups, own_tokens, plan

SEGMENT = st.lists(st.integers(3, 6), min_size=1, max_size=4).map(tuple)
REQUEST = st.builds(
    Request,
    segments=st.lists(SEGMENT, min_size=1, max_size=3).map(lambda tail: ((1, 1), *tail)),
    labels=st.lists(SEGMENT, min_size=1, max_size=4, unique=True).map(tuple),
    terminator=st.just(2),
)


def test_identical_contents_are_laid_out_once():
    request = Request(((1, 1), (4, 5), (6,)), ((7,), (8,)), 2)
    one, three = plan([request]), plan([request] * 3)
    assert one.tokens == three.tokens == [4, 5, 6]
    assert len(three.reads) == 3 * len(one.reads)


def test_several_questions_about_one_content_share_it():
    content = (4, 5, 6, 4)
    made = plan([Request(((1, 1), content, (question,)), ((7,), (8,)), 2) for question in (10, 11, 12)])
    assert made.tokens == [*content, 10, 11, 12]
    assert made.positions == [2, 3, 4, 5, 6, 6, 6]


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=5))
def test_every_read_stands_behind_its_own_path(requests):
    """What a read attends to is exactly the request's tokens up to the label token that is read."""
    made = plan(requests)
    found: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for read in made.reads:
        node = next(n for n in made.nodes if n.start <= read.row < n.end)
        seen = tuple(made.tokens[i] for i in node.keys if i <= read.row)
        assert [made.positions[i] for i in node.keys if i <= read.row] == list(range(2, 2 + len(seen)))
        found.setdefault((read.request, read.answer), set()).add((*seen, read.token))
    for number, request in enumerate(requests):
        path = tuple(token for segment in request.segments[1:] for token in segment)
        for place, answer in enumerate(answers(request)):
            expected = {(*path, *answer[: i + 1]) for i in range(len(answer))}
            assert found[number, place] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=12), st.integers(1, 40))
def test_batches_hold_every_request_once_and_keep_the_budget(requests, budget):
    made = list(batches(list(enumerate(requests)), budget))
    assert sorted(number for batch in made for number, _ in batch) == list(range(len(requests)))
    for batch in made:
        assert len(batch) == 1 or sum(own_tokens(request) for _, request in batch) <= budget
        assert len({request.segments[0] for _, request in batch}) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=8))
def test_groups_hold_every_node_once(requests):
    nodes = plan(requests).nodes
    grouped = [node for group in groups(nodes) for node in group]
    assert sorted(node.start for node in grouped) == sorted(node.start for node in nodes)
