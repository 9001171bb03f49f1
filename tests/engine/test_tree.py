"""The plan: what is laid out, where, who sees whom, and how requests are split into batches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from guard.engine.request import Request, answers
from guard.engine.tree import Piece, batches, groups, pieces, plan

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
@given(st.lists(REQUEST, min_size=1, max_size=5))
def test_nodes_stand_depth_first_behind_their_ancestors(requests):
    """The native kernels know a node's ancestors by this alone: what stands on the path when it is written there."""
    made = plan(requests)
    path: list[int] = []  # packed tokens, as a kernel's buffer would hold them
    for node in made.nodes:
        offset = made.positions[node.start] - 2
        path[offset:] = range(node.start, node.end)
        assert path == node.keys
    assert [bool(node.ancestors) for node in made.nodes].count(False) == len(made.trees) - 1
    assert all(not made.nodes[i].ancestors for i in made.trees[:-1]) and made.trees[-1] == len(made.nodes)


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=5), st.integers(1, 5) | st.none(), st.booleans(), st.integers(1, 4))
def test_pieces_hold_every_query_once_with_every_key_it_sees(requests, window, read_only, longest):
    made = plan(requests)
    asked = made.rows if read_only else list(range(len(made.tokens)))
    found = list(pieces(made, window, read_only, longest))
    assert [row for piece in found for row in piece.rows] == list(range(len(asked)))
    for piece in found:
        assert 1 <= len(piece.rows) == len(piece.positions) <= longest
        assert [made.positions[key] for key in piece.keys] == [piece.first_key + i for i in range(len(piece.keys))]
        for row, position in zip(piece.rows, piece.positions, strict=True):
            token = asked[row]
            node = next(n for n in made.nodes if n.start <= token < n.end)
            assert made.positions[token] == position
            seen = {k for k in node.keys if position - (window or 10**6) < made.positions[k] <= position}
            assert seen <= set(piece.keys) <= set(node.keys)


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=12), st.integers(1, 40))
def test_batches_hold_every_request_once_and_keep_the_budget(requests, budget):
    made = list(batches(list(enumerate(requests)), budget))
    assert sorted(number for batch in made for number, _ in batch) == list(range(len(requests)))
    for batch in made:
        laid_out = plan([request for _, request in batch])
        assert len(batch) == 1 or len(laid_out.tokens) <= budget
        assert len({request.segments[0] for _, request in batch}) == 1


def test_a_batch_pays_for_a_content_once():
    questions = [Request(((1, 1), (4,) * 50, (n,)), ((7,), (8,)), 2) for n in range(3, 63)]
    assert len(list(batches(list(enumerate(questions)), 120))) == 1
    one_over = [*questions, *questions[:11]]
    assert [len(batch) for batch in batches(list(enumerate(one_over)), 120)] == [70, 1]


def test_the_questions_about_one_content_are_not_torn_apart_where_one_batch_holds_them():
    """Each tear computes a content once more: 13 questions about each of 32 contents once cost an eighth more."""
    asked = [Request(((1, 1), (4,) * 20 + (n,), (q,)), ((7,), (8,)), 2) for n in range(3, 9) for q in range(3, 16)]
    for batch in batches(list(enumerate(asked)), 75):  # 21 + 13 tokens a content: two fit, and half of a third
        found = [request.segments[1] for _, request in batch]
        assert sorted(map(found.count, set(found))) == [13, 13]


def test_groups_stay_within_their_pairs_of_queries_and_keys():
    found = [Piece(range(10), range(10), [0] * 30, 0)] * 20
    assert [len(group) for group in groups(found, past=70, most=3999)] == [3] * 6 + [2]
    assert [len(group) for group in groups(found, past=70, most=1)] == [1] * 20


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=8))
def test_groups_hold_every_piece_once(requests):
    found = list(pieces(plan(requests), None, False))
    grouped = [piece for group in groups(found) for piece in group]
    assert sorted(piece.rows.start for piece in grouped) == [piece.rows.start for piece in found]
