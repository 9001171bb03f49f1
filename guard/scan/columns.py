"""Which column of an input is what, and a row made into a comment that can be judged.

The one rule: who quotes is not blamed for the quote. Quoted words are taken out of a comment and become what it replies
to; only where nothing else is left are they judged as its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from guard.errors import InvalidItem, InvalidSettings
from guard.scan.markup import Markup, reduce
from guard.scan.row import Row, as_text
from guard.yamlfile import load_yaml

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")
_FIRST_SECOND = 1e8  # in 1973; smaller numbers are no times but dates or years
_FIRST_MILLISECOND = 1e11  # in 1973 too; as seconds it would be the year 5138


class Comment(NamedTuple):
    """A row that is ready to be judged, or has an `error`.

    `text` is the author's own words, without quotes and markup; `raw` what stands in the input. `parent` is the text of
    what it replies to: the input's own or, without it, what is quoted. `time` is in UTC, ISO 8601, where it could be
    understood.
    """

    number: int
    id: str
    text: str
    error: InvalidItem | None = None
    parent: str | None = None
    parent_id: str | None = None
    title: str | None = None
    author: str | None = None
    board: str | None = None
    time: str | None = None
    raw: str = ""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns; None for those that there are not. Without `id` the number of a row is its id.

    `parent` holds the text of the comment that is replied to, `parent_id` its id.
    """

    text: str = "text"
    id: str | None = None
    parent: str | None = None
    parent_id: str | None = None
    title: str | None = None
    author: str | None = None
    board: str | None = None
    time: str | None = None
    markup: Markup = Markup.NONE

    @classmethod
    def load(
        cls, path: Path | None = None, *, format: str | None = None, text: str | None = None, id: str | None = None
    ) -> Columns:
        """The columns of a format, changed by what a YAML file says, changed by `text` and `id`.

        Raises `InvalidSettings` for a file that does not hold.
        """
        hint = f"The keys are: {', '.join(_File.model_fields)}."
        said = load_yaml(path, _File, InvalidSettings, hint=hint).model_dump(exclude_unset=True) if path else {}
        said |= {name: value for name, value in (("text", text), ("id", id)) if value is not None}
        return dataclasses.replace(PRESETS.get(format or "", cls()), **said)

    @property
    def more(self) -> tuple[str, ...]:
        """The columns that are read beside text and id."""
        named = (self.parent, self.parent_id, self.title, self.author, self.board, self.time)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def comment(self, row: Row) -> Comment:
        """What is to be judged of a row; one that could not be read keeps its error."""
        if row.error is not None:
            return Comment(row.number, row.id, row.text, row.error, raw=row.text)
        own, quoted = reduce(row.text, self.markup)
        quotes = "\n\n".join(quoted)
        parent = self._cell(row.more, self.parent)
        if parent is not None:
            parent = reduce(parent, self.markup).own or parent
        elif own.strip():
            parent = quotes or None
        return Comment(
            row.number,
            row.id,
            own if own.strip() else quotes or row.text,
            parent=parent,
            parent_id=self._cell(row.more, self.parent_id),
            title=self._cell(row.more, self.title),
            author=self._cell(row.more, self.author),
            board=self._cell(row.more, self.board),
            time=utc(self._cell(row.more, self.time)),
            raw=row.text,
        )

    @staticmethod
    def _cell(cells: Mapping[str, Any], name: str | None) -> str | None:
        return as_text(cells.get(name)) or None if name else None


PRESETS = {
    "reddit": Columns(
        text="body", id="id", parent_id="parent_id", title="title", author="author", board="subreddit",
        time="created_utc", markup=Markup.MARKDOWN,
    )
}  # fmt: skip


class _File(BaseModel):
    """A YAML file of columns; a key that is left out keeps what the format says, null takes it away."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field("", min_length=1)
    id: str | None = Field(None, min_length=1)
    parent: str | None = Field(None, min_length=1)
    parent_id: str | None = Field(None, min_length=1)
    title: str | None = Field(None, min_length=1)
    author: str | None = Field(None, min_length=1)
    board: str | None = Field(None, min_length=1)
    time: str | None = Field(None, min_length=1)
    markup: Markup = Field(Markup.NONE, strict=False)


def utc(time: str | None) -> str | None:
    """A time in UTC, ISO 8601: from seconds or milliseconds since 1970, or from ISO 8601, in which no zone means UTC.

    What is neither stays as it stands.

    >>> utc("1700000000"), utc("1700000000123"), utc("2023-11-14 23:13:20+01:00"), utc("yesterday")
    ('2023-11-14T22:13:20Z', '2023-11-14T22:13:20.123000Z', '2023-11-14T22:13:20Z', 'yesterday')
    """
    if time is None:
        return None
    text = time.strip()
    try:
        if _NUMBER.fullmatch(text) and (number := float(text)) >= _FIRST_SECOND:
            found = datetime.fromtimestamp(number / 1000 if number >= _FIRST_MILLISECOND else number, UTC)
        else:
            found = datetime.fromisoformat(text)
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return time
    return found.isoformat().replace("+00:00", "Z")
