"""Requests → a prefix tree of segments → one flat batch. Pure Python on plain data; no torch.

Requests of one batch share their first segment (the prefix, whose keys and values the engine keeps). Below it, every
distinct segment is laid out once; each node's tokens attend to the prefix, to the node's ancestors and to themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

    @property
    def num_keys(self) -> int:
        """Their number."""
        return self.end - self.start + sum(end - start for start, end in self.ancestors)


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
    """

    tokens: list[int]
    positions: list[int]
    nodes: list[Node]
    reads: list[Read]


@dataclass
class _Segment:
    """A node while the tree grows. `reads`: (token, request, answer) at its last token."""

    tokens: Ids
    children: dict[Ids, _Segment] = field(default_factory=dict)
    reads: list[tuple[int, int, int]] = field(default_factory=list)

    def child(self, tokens: Ids) -> _Segment:
        return self.children.setdefault(tokens, _Segment(tokens))


def plan(requests: Sequence[Request]) -> Plan:
    """Lay out requests that share their first segment. Identical paths are folded into one."""
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
        _lay_out(child, len(root.tokens), (), made)
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


def groups(nodes: Sequence[Node], most: int = 16, slack: float = 1.3) -> Iterator[list[Node]]:
    """Nodes of similar size, to be padded to a common one: none is below 1 / `slack` of the group's largest.

    >>> nodes = [Node(0, 10, ()), Node(10, 11, ((0, 10),)), Node(11, 20, ()), Node(20, 21, ((11, 20),))]
    >>> [[node.end - node.start for node in group] for group in groups(nodes)]
    [[1, 1], [9, 10]]
    """
    group: list[Node] = []
    for node in sorted(nodes, key=lambda n: (n.end - n.start, n.num_keys, n.start)):
        smallest = group[0] if group else node
        own, keys = node.end - node.start, node.num_keys
        too_long = own > slack * (smallest.end - smallest.start) or keys > slack * smallest.num_keys + 8
        if group and (len(group) == most or too_long):
            yield group
            group = []
        group.append(node)
    if group:
        yield group


def batches(requests: Sequence[tuple[int, Request]], budget: int) -> Iterator[list[tuple[int, Request]]]:
    """Split numbered requests into batches that share a prefix and hold at most `budget` tokens (or one request).

    Shorter ones come first, so that a batch holds similar lengths. The split depends on the requests alone.
    """
    by_prefix: dict[Ids, list[tuple[int, Request]]] = {}
    for number, request in requests:
        by_prefix.setdefault(request.segments[0], []).append((number, request))
    for sharing in by_prefix.values():
        batch: list[tuple[int, Request]] = []
        held = 0
        for number, request in sorted(sharing, key=lambda pair: (own_tokens(pair[1]), pair[0])):
            size = own_tokens(request)
            if batch and held + size > budget:
                yield batch
                batch, held = [], 0
            batch.append((number, request))
            held += size
        if batch:
            yield batch


def own_tokens(request: Request) -> int:
    """Tokens behind the prefix, labels included: the price of a request."""
    return sum(map(len, request.segments[1:])) + sum(len(answer) - 1 for answer in answers(request))
