"""The rows of a CSV, JSONL or Parquet file, one after the other.

The one rule: no row is lost. A row that cannot be read comes at its place, with an error, and the rows after it are
read all the same; only a file that cannot be read at all, or lacks a column, is refused (`InvalidFile`). No more of
a file is held than a few rows, however large it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from guard.errors import InvalidFile, InvalidItem

MAX_ROW = 16 * 2**20  # characters (bytes in JSONL): beyond that, a quote was never closed or it is not a file of rows
_PEEKED = 100  # objects of a JSONL file that are looked at for the names of its keys
_SLICE = 1024  # rows of a Parquet file that are held at a time


class Row(NamedTuple):
    """One row. `number` counts from 1; `text` is what to judge or, with an error, what stands in the file.

    `more` holds the cells of further columns that were asked for, as far as the row has them.
    """

    number: int
    id: str
    text: str
    error: InvalidItem | None = None
    more: Mapping[str, Any] = {}


class Reader:
    """Iterating gives the rows; the file is opened for that, and may be read again. Raises `InvalidFile`."""

    def __init__(
        self, path: Path, text_column: str, id_column: str | None = None, more_columns: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.share = 0.0  # of the file that has been read
        self.columns: tuple[str, ...] = ()  # of the file; known once reading has begun
        self._text_column = text_column
        self._id_column = id_column
        self._more_columns = more_columns

    def __iter__(self) -> Generator[Row]:
        try:
            yield from self._rows()
        except OSError as cause:
            raise InvalidFile(f"{self.path}: cannot be read: {cause.strerror}.", hint="Check the file.") from cause
        self.share = 1.0

    def check(self) -> None:
        """Read as much of the file as shows that it can be read and has the columns."""
        with closing(iter(self)) as rows:
            next(rows, None)

    def _rows(self) -> Iterator[Row]:
        raise NotImplementedError

    def _require_columns(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        for name in (self._text_column, self._id_column):
            if name is not None and name not in columns:
                raise InvalidFile(
                    f"{self.path}: there is no column {name!r}.",
                    hint=f"The columns are: {', '.join(map(repr, columns)) or 'none'}.",
                )


class _Csv(Reader):
    """RFC 4180 with a header. Where a quote is never closed, its line is an error and reading resumes on the next."""

    delimiter = ","

    def _rows(self) -> Iterator[Row]:
        csv.field_size_limit(max(MAX_ROW, csv.field_size_limit()))
        size = self.path.stat().st_size
        with (
            self.path.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as file,
        ):
            records = self._records(file)
            header, _, problem = next(records, ([], "", ""))
            if problem:
                raise InvalidFile(f"{self.path}: the header cannot be read: {problem}.", hint="Mend the first line.")
            self._require_columns(header)
            text_at = self._position(header, self._text_column)
            id_at = None if self._id_column is None else self._position(header, self._id_column)
            more_at = [(name, self._position(header, name)) for name in self._more_columns if name in header]
            for number, (cells, line, problem) in enumerate(records, 1):
                self.share = raw.tell() / size
                if not problem and len(cells) != len(header):
                    problem = f"it has {len(cells)} cells and the header {len(header)}"
                if problem:
                    known = str(number) if id_at is None else ""
                    yield Row(number, known, line, _broken(number, problem))
                else:
                    more = {name: cells[at] for name, at in more_at}
                    yield Row(number, str(number) if id_at is None else cells[id_at], cells[text_at], more=more)

    def _position(self, header: list[str], name: str) -> int:
        if header.count(name) > 1:
            raise InvalidFile(f"{self.path}: the column {name!r} stands twice.", hint="Rename one of them.")
        return header.index(name)

    def _records(self, file: IO[str]) -> Iterator[tuple[list[str], str, str]]:
        """(cells, lines as they stand in the file, problem or "") of each record; empty lines are none."""
        waiting: deque[str] = deque()  # lines that a broken record had taken and that are read once more
        taken: list[str] = []

        def lines() -> Iterator[str]:
            length = 0
            while line := waiting.popleft() if waiting else file.readline(MAX_ROW):
                taken.append(line)
                length += len(line)
                if length >= MAX_ROW:
                    raise csv.Error(f"longer than {MAX_ROW} characters")
                yield line

        while True:
            taken.clear()
            try:
                cells = next(csv.reader(lines(), delimiter=self.delimiter, strict=True), None)
            except csv.Error as cause:
                waiting.extendleft(reversed(taken[1:]))
                _skip_rest(taken[0], waiting, file)
                yield [], taken[0].rstrip("\r\n"), str(cause)
                continue
            if cells is None:
                return
            if cells:
                yield cells, "".join(taken).rstrip("\r\n"), ""


class _Tsv(_Csv):
    """As CSV, quotes included, with tabs between the cells."""

    delimiter = "\t"


class _Jsonl(Reader):
    """One object per line. Keys may differ from line to line, but some line must have those that are asked for."""

    def _rows(self) -> Iterator[Row]:
        size = self.path.stat().st_size
        with self.path.open("rb") as raw:
            lines = ((line, self._object(line)) for line in self._lines(raw))
            first = list(islice(lines, _PEEKED))
            objects = [found for _, found in first if isinstance(found, dict)]
            if objects:
                self._require_columns(list(dict.fromkeys(key for found in objects for key in found)))
            for number, (line, found) in enumerate(chain(first, lines), 1):
                self.share = raw.tell() / size
                yield self._row(number, line, found)

    def _row(self, number: int, line: str, found: dict[str, Any] | str) -> Row:
        if isinstance(found, str):
            return Row(number, "" if self._id_column else str(number), line, _broken(number, found))
        id_ = str(number) if self._id_column is None else _id(found.get(self._id_column))
        text = found.get(self._text_column)
        if not isinstance(text, str) or isinstance(text, _Number):
            there = f"is {_json_type(text)}, not a string" if self._text_column in found else "is missing"
            return Row(number, id_, line, _broken(number, f"{self._text_column!r} {there}"))
        more = {name: found[name] for name in self._more_columns if name in found}
        return Row(number, id_, _encodable(text), more=more)

    @staticmethod
    def _lines(raw: IO[bytes]) -> Iterator[str]:
        start = raw.read(3)
        if start != b"\xef\xbb\xbf":
            raw.seek(0)
        while line := raw.readline(MAX_ROW):
            if line.strip():
                yield line.decode("utf-8", "replace").rstrip("\r\n")
            while len(line) == MAX_ROW and not line.endswith(b"\n"):
                line = raw.readline(MAX_ROW)

    @staticmethod
    def _object(line: str) -> dict[str, Any] | str:
        """The object of a line, or what is wrong with the line."""
        try:
            found = _DECODER.decode(line)
        except json.JSONDecodeError as cause:
            cut = f", which is longer than {MAX_ROW} bytes" if len(line.encode()) >= MAX_ROW else ""
            return f"it is not valid JSON: {cause.msg} at character {cause.pos + 1}{cut}"
        except RecursionError:
            return "its JSON is nested too deeply"
        return found if isinstance(found, dict) else f"it is {_json_type(found)}, not an object"


class _Parquet(Reader):
    """Read by polars, a slice of rows at a time; text is a column of strings (or of UTF-8 bytes)."""

    def _rows(self) -> Iterator[Row]:
        import polars as pl

        try:
            # the path is no pattern: `a[1].parquet` is a file of that name
            file = pl.scan_parquet(self.path, glob=False)
            schema = file.collect_schema()
            self._require_columns(schema.names())
            if not isinstance(schema[self._text_column], (pl.String, pl.Binary, pl.Categorical, pl.Enum)):
                raise InvalidFile(
                    f"{self.path}: column {self._text_column!r} holds {schema[self._text_column]}, not text.",
                    hint=f"The columns are: {', '.join(map(repr, schema.names()))}.",
                )
            # by their exact names: a plain string such as "^a.*$" is a pattern to polars
            more = [name for name in self._more_columns if name in schema]
            wanted = {self._text_column, self._id_column or self._text_column, *more}
            columns = file.select(pl.selectors.by_name(wanted))
            total: int = file.select(pl.len()).collect().item()
            for start in range(0, total, _SLICE):
                part = columns.slice(start, _SLICE).collect()
                texts = part[self._text_column].to_list()
                ids = part[self._id_column].to_list() if self._id_column else range(start + 1, start + 1 + len(texts))
                cells = part.select(more).to_dicts() if more else [{}] * len(texts)
                for number, (text, id_, beside) in enumerate(zip(texts, ids, cells, strict=True), start + 1):
                    self.share = number / total
                    yield self._row(number, _id(id_), text)._replace(more=beside)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as cause:
            problem = str(cause).partition("\n")[0]
            raise InvalidFile(f"{self.path}: not a readable Parquet file: {problem}.", hint="Check it.") from cause

    def _row(self, number: int, id_: str, text: str | bytes | None) -> Row:
        if text is None:
            return Row(number, id_, "", _broken(number, f"{self._text_column!r} is null"))
        return Row(number, id_, text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


_READERS: dict[str, type[Reader]] = {
    ".csv": _Csv, ".tsv": _Tsv, ".jsonl": _Jsonl, ".ndjson": _Jsonl, ".parquet": _Parquet,
}  # fmt: skip


def open_reader(path: Path, text_column: str, id_column: str | None = None, more_columns: Sequence[str] = ()) -> Reader:
    """The reader that belongs to the file's suffix. Raises `InvalidFile`."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidFile(f"{path}: not a known kind of file.", hint=f"Known: {', '.join(_READERS)}.")
    if not path.is_file():
        raise InvalidFile(f"{path}: no such file.", hint="Name a file to scan.")
    return reader(path, text_column, id_column, more_columns)


class _Number(str):
    """A number of a JSON file as it is spelled there: an id of 20 digits, or 1.10, keeps them all."""


_DECODER = json.JSONDecoder(strict=False, parse_int=_Number, parse_float=_Number, parse_constant=_Number)


def _broken(number: int, problem: str) -> InvalidItem:
    return InvalidItem(f"Row {number} cannot be judged: {problem}.")


def _json_type(value: Any) -> str:
    names: list[tuple[Any, str]] = [
        (_Number, "a number"), (str, "a string"), (bool, "a boolean"), (dict, "an object"), (list, "a list"),
    ]  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _id(value: Any) -> str:
    """An id as a string; a missing one is empty."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool | dict | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return _encodable(str(value))


def _encodable(text: str) -> str:
    """Lone surrogates, which JSON can spell and UTF-8 cannot, replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _skip_rest(line: str, waiting: deque[str], file: IO[str]) -> None:
    """Read on to the end of a line of which only a beginning was taken."""
    while not waiting and line and not line.endswith(("\n", "\r")):
        line = file.readline(MAX_ROW)
