"""What a reader gives: rows, and where in its input it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from guard.errors import InvalidFile, InvalidItem

Position = dict[str, Any]  # JSON; only the reader that made it understands it, but it always has the number of "rows"


class Row(NamedTuple):
    """One row. `number` counts from 1 over the whole input; `text` is what to judge or, with an error, what stands in
    the file.

    `more` holds the cells of further columns that were asked for, as far as the row has them.
    """

    number: int
    id: str
    text: str
    error: InvalidItem | None = None
    more: Mapping[str, Any] = {}


def unfinished(position: Position) -> bool:
    """Does the input end there in a line without a line end, to which more may be written?"""
    return bool(position.get("open"))


class Wanted(NamedTuple):
    """Names of the columns that are asked for. Without `id` the number of the row is its id.

    `strict`: where all rows have the same columns, those of `more` must be among them.
    """

    text: str
    id: str | None = None
    more: Sequence[str] = ()
    strict: bool = False

    def require(self, there: Sequence[str], where: str) -> None:
        """Raises `InvalidFile` unless the columns are among those that are `there`."""
        for name in (self.text, self.id, *(self.more if self.strict else ())):
            if name is not None and name not in there:
                raise InvalidFile(
                    f"{where}: there is no column {name!r}.",
                    hint=f"The columns are: {', '.join(map(repr, there)) or 'none'}.",
                )


def broken(number: int, problem: str) -> InvalidItem:
    """The error of a row that cannot be judged."""
    return InvalidItem(f"Row {number} cannot be judged: {problem}.")


def as_text(value: Any) -> str:
    """An id or another cell as a string; a missing one is empty."""
    if isinstance(value, str):
        return encodable(value)
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool | dict | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return encodable(str(value))


def encodable(text: str) -> str:
    """Lone surrogates, which JSON can spell and UTF-8 cannot, replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
