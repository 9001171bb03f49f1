"""The rows of a CSV or TSV file: RFC 4180 with a header.

The one rule: where a quote is never closed, or a record cannot be read otherwise, its first line is an error and
reading goes on with the line behind it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from guard.errors import InvalidFile
from guard.scan.lines import MAX_ROW, Lines, TextSource, too_long
from guard.scan.row import Row, broken
from guard.scan.source import Seal


class CsvSource(TextSource):
    """A line may end with any of "\\n", "\\r" and "\\r\\n"; empty lines are no rows."""

    returns = True
    delimiter = ","

    def rows(self, seal: Seal, before: int) -> Iterator[Row]:
        header = self.columns
        text_at = header.index(self.wanted.text)
        id_at = None if self.wanted.id is None else header.index(self.wanted.id)
        more_at = [(name, header.index(name)) for name in self.wanted.more if name in header]
        number = before
        for cells, taken, problem in self._records(self._lines):
            for line in taken:
                self._passed(line, seal)
            if not cells and not problem:
                continue
            number += 1
            if not problem and len(cells) != len(header):
                problem = f"it has {len(cells)} cells and the header {len(header)}"
            if problem:
                known = str(number) if id_at is None else ""
                standing = b"".join(taken).decode("utf-8", "replace").rstrip("\r\n")
                yield Row(number, known, standing, broken(number, problem))
            else:
                more = {name: cells[at] for name, at in more_at} if more_at else {}
                yield Row(number, str(number) if id_at is None else cells[id_at], cells[text_at], more=more)

    def _head(self, lines: Lines) -> list[bytes]:
        head: list[bytes] = []
        header: list[str] = []
        for header, taken, problem in self._records(lines):
            head += taken
            if problem:
                raise InvalidFile(f"{self.name}: the header cannot be read: {problem}.", hint="Mend the first line.")
            if header:
                break
        self.columns = tuple(header)
        self.wanted.require(self.columns, self.name)
        for name in (self.wanted.text, self.wanted.id, *self.wanted.more):
            if name is not None and header.count(name) > 1:
                raise InvalidFile(f"{self.name}: the column {name!r} stands twice.", hint="Rename one of them.")
        return head

    def _records(self, lines: Lines) -> Iterator[tuple[list[str], list[bytes], str]]:
        """(cells, the lines that they were made of, problem or "") of each record; an empty line has no cells."""
        csv.field_size_limit(max(MAX_ROW, csv.field_size_limit()))
        feed = _Feed(lines)
        reader = csv.reader(feed, delimiter=self.delimiter, strict=True)
        while True:
            taken: list[bytes] = []
            feed.taken = taken
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as cause:
                lines.back(taken[1:])
                yield [], taken[:1], str(cause)
            else:
                yield cells, taken, ""


class TsvSource(CsvSource):
    """As CSV, quotes included, with tabs between the cells."""

    delimiter = "\t"


class _Feed:
    """Lines for `csv.reader`, and which of them it has taken."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._size = 0
        self.taken: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        taken = self.taken
        self._size = self._size + len(line) if taken else len(line)
        taken.append(line)
        if problem := too_long(self._size):
            raise csv.Error(problem)
        return line.decode("utf-8", "replace")
