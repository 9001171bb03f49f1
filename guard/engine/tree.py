"""Requests → a prefix tree of segments → one flat batch. Pure Python on plain data; no torch.

Requests of one batch share their first segment (the prefix, whose keys and values the engine keeps). Below it, every
distinct segment is laid out once; each node's tokens attend to the prefix, to the node's ancestors and to themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from guard.engine.request import Ids, Request, answers


class Read(NamedTuple):
    """Add ln P(token) after packed token `row` to answer `answer` of request `request`."""

    row: int
    token: int
    request: int
    answer: int


@dataclass(frozen=True)
class Node:
    """Packed tokens start..end-1, and the ranges of its ancestors below the prefix, root first."""

    start: int
    end: int
    ancestors: tuple[tuple[int, int], ...]

    @property
    def keys(self) -> list[int]:
        """Indices of all packed tokens that this node's tokens may attend to, in order of position."""
        return [i for start, end in (*self.ancestors, (self.start, self.end)) for i in range(start, end)]


@dataclass(frozen=True)
class Plan:
    """One flat batch of N tokens behind a shared prefix.

    Two contents under a prefix of 3 tokens, with the labels (7), (7, 8) and (9); label (7) begins (7, 8), so it is
    scored with the terminator 2:

    >>> labels = ((7,), (7, 8), (9,))
    >>> made = plan([Request(((1, 1, 1), content, (6,)), labels, terminator=2) for content in ((4, 5), (3,))])
    >>> made.tokens          # content, question and the one label token that has followers, per request
    [4, 5, 6, 7, 3, 6, 7]
    >>> made.positions       # absolute: the prefix holds 0, 1, 2
    [3, 4, 5, 6, 3, 4, 5]
    >>> [(node.start, node.end, node.ancestors) for node in made.nodes]
    [(0, 3, ()), (3, 4, ((0, 3),)), (4, 6, ()), (6, 7, ((4, 6),))]
    >>> [tuple(read) for read in made.reads if read.request == 0]  # (row, token, request, answer)
    [(2, 7, 0, 0), (2, 7, 0, 1), (2, 9, 0, 2), (3, 2, 0, 0), (3, 8, 0, 1)]
    >>> made.rows            # where something is read: the last token of its node
    [2, 3, 5, 6]
    >>> made.trees           # where a tree of nodes begins, and the end
    [0, 2, 4]
    """

    tokens: list[int]
    positions: list[int]
    nodes: list[Node]  # depth first: a node stands behind its ancestors, and its first position behind their last
    reads: list[Read]

    @cached_property
    def rows(self) -> list[int]:
        """The packed tokens that are read, in order: the only ones whose output the last layer owes."""
        return sorted({read.row for read in self.reads})

    @cached_property
    def trees(self) -> list[int]:
        """Indices of the nodes right below the prefix, and the number of nodes."""
        return [*(i for i, node in enumerate(self.nodes) if not node.ancestors), len(self.nodes)]

    def queries(self, read_only: bool) -> list[range]:
        """Each node's queries as packed tokens: all of its tokens, or the one that is read."""
        if not read_only:
            return [range(node.start, node.end) for node in self.nodes]
        read = set(self.rows)
        return [range(node.end - 1 if node.end - 1 in read else node.end, node.end) for node in self.nodes]


@dataclass
class _Segment:
    """A node while the tree grows. `reads`: (token, request, answer) at its last token."""

    tokens: Ids
    children: dict[Ids, _Segment] = field(default_factory=dict)
    reads: list[tuple[int, int, int]] = field(default_factory=list)

    def child(self, tokens: Ids) -> _Segment:
        return self.children.setdefault(tokens, _Segment(tokens))


def plan(requests: Sequence[Request], behind: int = 0) -> Plan:
    """Lay out requests that share their first segment. Identical paths are folded into one.

    `behind`: tokens that stand before the first segment and are not in it, as those of a stream.
    """
    root = _Segment(requests[0].segments[0])
    for number, request in enumerate(requests):
        node = root
        for segment in request.segments[1:]:
            node = node.child(segment)
        for place, answer in enumerate(answers(request)):
            leaf = node
            for token, following in zip(answer, (*answer[1:], None), strict=True):
                leaf.reads.append((token, number, place))
                if following is not None:
                    leaf = leaf.child((token,))
    made = Plan([], [], [], [])
    for child in root.children.values():
        _lay_out(child, behind + len(root.tokens), (), made)
    return made


def _lay_out(segment: _Segment, position: int, ancestors: tuple[tuple[int, int], ...], made: Plan) -> None:
    tokens = list(segment.tokens)
    while len(segment.children) == 1 and not segment.reads:  # a chain is one node
        (segment,) = segment.children.values()
        tokens += segment.tokens
    start, end = len(made.tokens), len(made.tokens) + len(tokens)
    made.tokens.extend(tokens)
    made.positions.extend(range(position, position + len(tokens)))
    made.nodes.append(Node(start, end, ancestors))
    made.reads.extend(Read(end - 1, token, request, answer) for token, request, answer in segment.reads)
    for child in segment.children.values():
        _lay_out(child, position + len(tokens), (*ancestors, (start, end)), made)


class Piece(NamedTuple):
    """Some neighbouring queries of one node, as rows of the query matrix, and the packed tokens that they may see."""

    rows: range
    positions: range
    keys: list[int]
    first_key: int  # its position


def pieces(made: Plan, window: int | None, read_only: bool, longest: int = 256) -> Iterator[Piece]:
    """The queries of a plan in pieces of at most `longest`, each with the keys of its path that it can see.

    >>> made = plan([Request(((1, 1, 1), (4, 5), (6,)), ((7,), (8,)), terminator=2)])
    >>> list(pieces(made, 2, read_only=False, longest=2))  # a window of two: the token itself and the one before
    [Piece(rows=range(0, 2), positions=range(3, 5), keys=[0, 1], first_key=3), \
Piece(rows=range(2, 3), positions=range(5, 6), keys=[1, 2], first_key=4)]
    """
    row = 0
    for node, queries in zip(made.nodes, made.queries(read_only), strict=True):
        keys = node.keys
        beginning = made.positions[keys[0]]
        for start in range(queries.start, queries.stop, longest):
            end = min(start + longest, queries.stop)
            first, last = made.positions[start], made.positions[end - 1]
            skipped = max(0, first - window + 1 - beginning) if window else 0
            seen = keys[skipped : last + 1 - beginning]
            yield Piece(range(row, row + end - start), range(first, last + 1), seen, beginning + skipped)
            row += end - start


def groups(pieces: Iterable[Piece], past: int = 0, most: int = 2**19, slack: float = 1.3) -> Iterator[list[Piece]]:
    """Pieces of similar size, to be padded to a common one: none is below 1 / `slack` of the group's largest.

    A group has at most `most` pairs of a query and a key, with the `past` keys that all share, or it is one piece.
    """
    group: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (len(p.rows), len(p.keys), p.rows.start)):
        smallest = group[0] if group else piece
        too_long = (
            len(piece.rows) > slack * len(smallest.rows) or len(piece.keys) > slack * len(smallest.keys) + 8
        )  # fmt: skip
        if group and ((len(group) + 1) * len(piece.rows) * (past + len(piece.keys)) > most or too_long):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def batches(requests: Sequence[tuple[int, Request]], budget: int) -> Iterator[list[tuple[int, Request]]]:
    """Split numbered requests into batches of one prefix and adapter, of at most `budget` tokens (or one request).

    Questions about one content stay together and pay for it once; shorter contents come first, so that a batch holds
    similar lengths. The split depends on the requests alone.

    >>> paths = [((1,), content, question) for content in ((4,) * 9, (5,)) for question in ((6,), (3,))]
    >>> asked = [Request(path, labels=((7,), (8,)), terminator=2) for path in paths]
    >>> [[number for number, _ in batch] for batch in batches(list(enumerate(asked)), 11)]
    [[2, 3], [0, 1]]
    """
    by_prefix: dict[tuple[str, Ids], dict[Ids, list[tuple[int, Request]]]] = {}
    for number, request in requests:
        prefix, content = request.segments[:2]
        by_prefix.setdefault((request.adapter, prefix), {}).setdefault(content, []).append((number, request))
    for by_content in by_prefix.values():
        batch: list[tuple[int, Request]] = []
        held = 0
        for content, asked in sorted(by_content.items(), key=lambda pair: (len(pair[0]), pair[1][0][0])):
            tails = [own_tokens(request) - len(content) for _, request in asked]
            paid = 0  # what this batch has paid for the content
            for (number, request), tail in zip(asked, tails, strict=True):
                # a content is not begun where only some of its questions have room, unless no batch holds them all
                together = len(content) + sum(tails)
                coming = together if not paid and together <= budget else len(content) - paid + tail
                if batch and held + coming > budget:
                    yield batch
                    batch, held, paid = [], 0, 0
                held += len(content) - paid + tail
                paid = len(content)
                batch.append((number, request))
        if batch:
            yield batch


def own_tokens(request: Request) -> int:
    """Tokens behind the prefix, labels included: the price of a request."""
    return sum(map(len, request.segments[1:])) + sum(len(answer) - 1 for answer in answers(request))
