"""What every adapter does with a file: its rows by the set's own column names, the words in their cells, the set.

A column is spelled `name|variant|...`: as its set spells it, then as known copies do.
"""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from guard.errors import GuardError, InvalidFile
from guard.item import Item
from guard.labelled import ACCEPTABLE, UNACCEPTABLE, Labelled, LabelledSet, Skipped
from guard.scan.readers import Row, open_reader

Cells = Mapping[str, Any]


class Judged(NamedTuple):
    """What a row says: the item, whether it is harmful, and the set's own words for it."""

    item: Item
    harmful: bool
    tags: tuple[str, ...] = ()
    group: str | None = None


# Gets the cells of a row under their sets' names. Raises `ValueError`, or `InvalidItem`, for a row that is left out.
Judge = Callable[[Cells], Judged]

_UNPACK: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}


def file_columns(path: Path, text: str) -> tuple[str, ...]:
    """The columns of a file, whether `text` is among them or not. Raises `InvalidFile` where it cannot be read."""
    with _plain(path) as plain:
        return _columns(plain, text)


def read_rows(path: Path, text: str, needs: Sequence[str] = (), may: Sequence[str] = ()) -> Iterator[Row]:
    """The rows; `more` has the columns `text`, `needs` and, as far as they are there, `may` under their sets' names.

    Raises `InvalidFile` with the columns of `text` and `needs` that the file lacks.
    """
    variants = {column.partition("|")[0]: column.split("|") for column in (text, *needs, *may)}
    first, *others = variants
    with _plain(path) as plain:
        there = _columns(plain, first)
        # a JSONL key that no early line has may come later
        names = {own: next((name for name in known if name in there), own) for own, known in variants.items()}
        missing = [own for own in (first, *others[: len(needs)]) if names[own] not in there]
        if missing:
            raise InvalidFile(
                f"{path}: it lacks columns of the set: {', '.join(map(repr, missing))}.",
                hint=f"The columns are: {', '.join(map(repr, there)) or 'none'}.",
            )
        for row in open_reader(plain, names[first], None, [names[own] for own in others]):
            cells = {own: row.more[names[own]] for own in others if names[own] in row.more}
            yield row._replace(more={first: row.text, **cells})


def as_set(name: str, rows: Iterable[Row], judge: Judge, id_column: str | None = None) -> LabelledSet:
    """The set of what `judge` makes of the rows; ids are its own if each row has another one, else row numbers."""
    found: list[tuple[int, str, Judged]] = []
    skipped: list[Skipped] = []
    for row in rows:
        try:
            if row.error is not None:
                raise row.error
            judged = judge(row.more)
        except (GuardError, ValueError) as problem:
            message = problem.message if isinstance(problem, GuardError) else str(problem)
            skipped.append(Skipped(row.number, message))
        else:
            found.append((row.number, word(row.more, id_column) if id_column else "", judged))
    own = {id_ for _, id_, _ in found}
    unique = len(own) == len(found) and "" not in own
    items = [
        Labelled(
            id_ if unique else str(number), one.item, UNACCEPTABLE if one.harmful else ACCEPTABLE, one.tags, one.group
        )
        for number, id_, one in found
    ]
    return LabelledSet(name, tuple(items), tuple(skipped))


_FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def word(cells: Cells, column: str) -> str:
    """A cell as a word; what is missing is empty, also as pandas spells it.

    >>> word({"a": " x "}, "a"), word({"a": None}, "a"), word({"a": float("nan")}, "a"), word({}, "a")
    ('x', '', '', '')
    """
    value = cells.get(column)
    found = "" if value is None else str(value).strip()
    return "" if found.casefold() == "nan" else found


def given(cells: Cells, column: str) -> str:
    """A cell that must not be empty. Raises `ValueError`, as all that follow."""
    found = word(cells, column)
    if not found:
        raise ValueError(f"{column!r} is empty")
    return found


def unknown(cells: Cells, column: str) -> ValueError:
    """The reason for a label that the set is not known to have; cut, because a torn row may hold a text there."""
    return ValueError(f"{column!r} is {word(cells, column)[:40]!r}, which the set's rule does not know")


def one_of(cells: Cells, column: str, meanings: Mapping[str, bool]) -> bool:
    """What a label means."""
    found = given(cells, column).casefold()
    if found not in meanings:
        raise unknown(cells, column)
    return meanings[found]


def flag(cells: Cells, column: str) -> bool:
    """A label of 0 or 1, false or true."""
    return one_of(cells, column, _FLAGS)


def share(cells: Cells, column: str) -> float:
    """The share of raters who said so, from 0 to 1."""
    found = given(cells, column)
    try:
        number = float(found)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise unknown(cells, column)
    return number


def tags_of(cells: Cells, columns: Mapping[str, str]) -> tuple[str, ...]:
    """A tag for each column that the row has a word in.

    >>> tags_of({"Category": "Fraud", "Source": ""}, {"category": "Category", "source": "Source"})
    ('category: Fraud',)
    """
    return tuple(f"{tag}: {found}" for tag, column in columns.items() if (found := word(cells, column)))


def categories(names: Iterable[str]) -> tuple[str, ...]:
    """A tag for each of the set's categories that a row is in."""
    return tuple(f"category: {name}" for name in names)


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The file itself or, of a packed one, a temporary copy with the inner suffix, which no error names."""
    unpack = _UNPACK.get(path.suffix.lower())
    if unpack is None:
        yield path
        return
    with TemporaryDirectory(prefix="guard-eval-") as folder:
        plain = Path(folder, path.stem)
        try:
            with unpack(path) as packed, plain.open("wb") as file:
                shutil.copyfileobj(packed, file)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as cause:
            raise InvalidFile(f"{path}: cannot be unpacked: {cause}.", hint="Check the file.") from cause
        try:
            yield plain
        except InvalidFile as problem:
            message = problem.message.replace(str(plain), str(path))
            raise InvalidFile(message, hint=problem.hint) from problem


def _columns(path: Path, text: str) -> tuple[str, ...]:
    reader = open_reader(path, text)
    try:
        reader.check()
    except InvalidFile:
        if not reader.columns:  # else it can be read, and another column may be the text
            raise
    return reader.columns
