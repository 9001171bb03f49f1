"""The rows of an input, one after the other, whatever it is made of: files, folders, standard input, a database.

The one rule: no row is lost. A row that cannot be read comes at its place, with an error, and the rows after it are
read all the same; only an input that cannot be read at all, lacks a column, or is not the one that it was, is refused
(`InvalidFile`). No more of it is held than a few rows, however large it is.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from guard.errors import InvalidFile
from guard.scan.csvfile import CsvSource, TsvSource
from guard.scan.database import DatabaseSource, is_database
from guard.scan.inputs import files, format_of
from guard.scan.jsonl import JsonlSource, RedditSource
from guard.scan.parquet import ParquetSource
from guard.scan.row import Position, Row, Wanted
from guard.scan.source import Changed, Seal, Source
from guard.scan.streams import STDIN, known_encoding

__all__ = ["FORMATS", "Reader", "Row", "open_input", "open_reader"]

_TEXT = {
    "csv": CsvSource, "tsv": TsvSource, "jsonl": JsonlSource, "ndjson": JsonlSource, "reddit": RedditSource,
}  # fmt: skip
FORMATS = (*_TEXT, "parquet")


class Reader:
    """Iterating gives the rows of all sources, numbered from 1; each source is opened for that, and may be read again.

    `position` and `digest` belong together: with them `rows` goes on later, right behind the row last given. A digest
    is a BLAKE2b hash of all that was read up to there: of text files the bytes, decompressed and in UTF-8; of other
    sources the cells that were asked for. Names of files are not in it.
    """

    def __init__(self, sources: Sequence[Source], *, resumable: bool = True) -> None:
        self.resumable = resumable
        self._sources = sources
        self._weights: list[int] = []
        self._weight = 1
        self._weight_before = 0
        self._index = 0  # of the source that is being read
        self._given = 0
        self._begun = False
        self._done = False
        self._seal = _seal()

    def __iter__(self) -> Generator[Row]:
        return self.rows()

    @property
    def columns(self) -> tuple[str, ...]:
        """Of all sources that were looked at so far: `check` looks at all."""
        return tuple(dict.fromkeys(name for source in self._sources for name in source.columns))

    @property
    def share(self) -> float:
        """Of the input that has been read, 0 to 1."""
        if self._done or not self._weights:
            return float(self._done)
        now = self._weights[self._index] * self._sources[self._index].share
        return (self._weight_before + now) / self._weight

    @property
    def position(self) -> Position:
        """Where it stands: behind the row last given."""
        source = self._sources[self._index]
        return {"rows": self._given, "source": self._index, "at": source.at, "open": source.open_end}

    @property
    def digest(self) -> str:
        """Hash of everything before `position`, in hexadecimal."""
        return self._seal.hexdigest()

    def check(self) -> None:
        """Read as much of each source as shows that it can be read and has the columns. Standard input is left alone:
        it can be read only once. Raises `InvalidFile`."""
        for source in self._sources if self.resumable else ():
            with _told(source, lambda: 0):
                source.start(_seal())
                source.at = 0

    def rows(self, start: Position | None = None, digest: str | None = None) -> Generator[Row]:
        """The rows behind `start`, or all. What lies before is read just far enough to hash it.

        Raises `InvalidFile` if it does not hash to `digest`, and whenever what was read turns out to be something else.
        """
        if not self.resumable and (start or self._begun):
            raise InvalidFile("Standard input can be read only once.", hint="Put it into a file to go on with it.")
        start = start or {"rows": 0, "source": 0, "at": 0, "open": False}
        self._begun, self._done = True, False
        self._given, self._index, self._seal = start["rows"], 0, _seal()
        if start["source"] >= len(self._sources):
            raise _differs(self._sources[-1].name, start["rows"])
        self._weights = [_weighed(source) for source in self._sources]
        self._weight, self._weight_before = sum(self._weights), 0
        for index, source in enumerate(self._sources):
            if index:
                self._weight_before += self._weights[index - 1]
                self._seal.update(b"\0%d\0" % self._sources[index - 1].at)  # two files are not one
            self._index = index
            with _told(source, lambda: self._given):
                if index < start["source"]:
                    source.skip(self._seal)
                    continue
                here = index == start["source"]
                source.start(self._seal, start["at"] if here else 0, open_end=here and start["open"])
                if here and digest is not None and self.digest != digest:
                    raise Changed
                for row in source.rows(self._seal, self._given):
                    self._given = row.number
                    yield row
                if source.changed():
                    self._verify()
        self._done = True

    def _verify(self) -> None:
        """Is everything that was read still there? Raises `InvalidFile`."""
        again = Reader([copy.copy(source) for source in self._sources])
        with closing(again.rows(self.position, self.digest)) as rows:
            next(rows, None)


def open_input(
    inputs: Sequence[str], text_column: str, id_column: str | None = None, more_columns: Sequence[str] = (), *,
    format: str | None = None, encoding: str = "utf-8", query: str | None = None, order: str | None = None,
) -> Reader:  # fmt: skip
    """A reader of everything that `inputs` name: files, folders, patterns, URLs, databases, or "-" for standard input.

    `format` is one of `FORMATS`; without it the suffix of a file says what it is. `encoding` is of text files.
    `query` and `order` (the columns that put its rows in one order, by commas) are of databases. Raises `InvalidFile`.
    """
    if format is not None and format not in FORMATS:
        raise InvalidFile(f"{format!r} is not a known format.", hint=f"Known: {', '.join(FORMATS)}.")
    if not inputs:
        raise InvalidFile("There is nothing to read.", hint="Name a file, a folder or a database.")
    if STDIN in inputs and len(inputs) > 1:
        raise InvalidFile("Standard input cannot be read beside other inputs.", hint="Name it alone.")
    if STDIN in inputs and format == "parquet":
        raise InvalidFile("Parquet cannot be read from standard input.", hint="Put it into a file.")
    encoding = known_encoding(encoding)
    wanted = Wanted(text_column, id_column, more_columns, strict=True)
    databases = [name for name in inputs if is_database(name)]
    if query is not None and not databases:
        raise InvalidFile("A query is for a database, and none is named.", hint="Name one: sqlite:///forum.db.")
    sources: list[Source] = []
    for name in inputs:
        if name in databases:
            sources.append(DatabaseSource(name, wanted, query, order))
        else:
            sources += [
                _file_source(found, wanted, format or format_of(found), encoding) for found in files(name, format)
            ]
    return Reader(sources, resumable=STDIN not in inputs)


def open_reader(path: Path, text_column: str, id_column: str | None = None, more_columns: Sequence[str] = ()) -> Reader:
    """The reader of one file on this machine, by its suffix. Raises `InvalidFile`."""
    format = format_of(str(path))
    if not path.is_file():
        raise InvalidFile(f"{path}: no such file.", hint="Name a file to scan.")
    return Reader([_file_source(str(path), Wanted(text_column, id_column, more_columns), format, "utf-8")])


def _file_source(name: str, wanted: Wanted, format: str, encoding: str) -> Source:
    return ParquetSource(name, wanted) if format == "parquet" else _TEXT[format](name, wanted, encoding)


def _seal() -> Seal:
    return hashlib.blake2b(digest_size=32)


def _differs(name: str, rows: int) -> InvalidFile:
    return InvalidFile(
        f"{name}: the input is not the one that was read before: it differs before row {rows + 1}.",
        hint="Bring back the input as it was, or begin a new run.",
    )


def _weighed(source: Source) -> int:
    with _told(source, lambda: 0):
        return source.weigh()


@contextmanager
def _told(source: Source, rows: Callable[[], int]) -> Iterator[None]:
    """Failures of a source in words for people; whatever happens, it is closed."""
    try:
        yield
    except Changed:
        raise _differs(source.name, rows()) from None
    except OSError as cause:
        after = f" after row {rows()}" if rows() else ""
        raise InvalidFile(
            f"{source.name}: cannot be read{after}: {cause.strerror or cause}.",
            hint="Check it; a scan goes on from there when it is run again.",
        ) from cause
    finally:
        source.close()
