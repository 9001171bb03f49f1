"""From rows to blocks: what is judged and committed together.

The one rule: where a block ends depends on the input alone, so a run that goes on after a crash, a second run and a run
on many machines all cut the same blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import NamedTuple

from guard.scan.columns import Columns, Comment
from guard.scan.readers import Reader
from guard.scan.row import Position, Row

ROWS = 1000  # of a block at most: what a crash can cost
CHARACTERS = 4 * 2**20  # a block of very long texts has fewer rows
WINDOW = 20  # earlier blocks in which a comment's parent, or an equal text's verdict, is looked for
_PARENT_CHARACTERS = 4096  # of a comment that are kept for its replies: more than a prompt has room for


class Block(NamedTuple):
    """Rows judged together. `end` and `digest` say where the reader stood behind the last one; `share` of the input had
    been read by then. `last`: the input ended there, so that the block would be larger if the input grew."""

    number: int
    comments: list[Comment]
    end: Position
    digest: str
    share: float
    last: bool


class Cut(NamedTuple):
    """The rows of a block as they were read; the rest is as of a `Block`."""

    number: int
    rows: list[Row]
    end: Position
    digest: str
    share: float
    last: bool


class Mark(NamedTuple):
    """Where a block ended."""

    end: Position
    digest: str


def blocks(reader: Reader, columns: Columns, first: int = 0, after: Mark | None = None) -> Generator[Block]:
    """The blocks of an input from number `first`, which begins right behind `after`. Raises what the reader raises.

    An input without rows has no block. A parent that is given by its id is found in this block and in the `WINDOW`
    blocks before, as far as they have come through here.
    """
    parents: deque[dict[str, str]] = deque(maxlen=WINDOW + 1)
    for cut in cuts(reader, first, after):
        parents.append({})
        comments: list[Comment] = []
        for comment in map(columns.comment, cut.rows):
            if columns.parent_id is not None:
                if comment.parent is None and comment.parent_id:
                    found = (known[comment.parent_id] for known in reversed(parents) if comment.parent_id in known)
                    comment = comment._replace(parent=next(found, None))
                if comment.id and not comment.error:
                    parents[-1][comment.id] = comment.text[:_PARENT_CHARACTERS]
            comments.append(comment)
        yield Block(cut.number, comments, cut.end, cut.digest, cut.share, cut.last)


def cuts(reader: Reader, first: int = 0, after: Mark | None = None) -> Generator[Cut]:
    """As `blocks`, of rows that are only read."""
    source = reader.rows(after.end, after.digest) if after else reader.rows()
    number = first
    rows: list[Row] = []
    characters = 0
    end, digest, share = reader.position, reader.digest, 0.0
    for row in source:
        # one row ahead, so that the last block is known to be the last
        if len(rows) == ROWS or characters >= CHARACTERS:
            yield Cut(number, rows, end, digest, share, last=False)
            number, rows, characters = number + 1, [], 0
        rows.append(row)
        characters += len(row.text)
        end, digest, share = reader.position, reader.digest, reader.share
    if rows:
        yield Cut(number, rows, end, digest, share, last=True)
