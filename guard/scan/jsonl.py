"""The rows of a JSONL file: one object per line. Keys may differ from line to line.

The one rule: numbers keep their spelling, so an id of 20 digits, or 1.10, stays what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from guard.scan.lines import Lines, TextSource, too_long
from guard.scan.row import Row, as_text, broken, encodable
from guard.scan.source import Seal

_PEEKED = 100  # lines that are looked at for the names of keys; some object among them must have those asked for
_PEEKED_BYTES = 2**22  # and no more than this of them


class JsonlSource(TextSource):
    """The text is a string."""

    def rows(self, seal: Seal, before: int) -> Iterator[Row]:
        number = before
        for line in self._lines:
            self._passed(line, seal)
            if line.strip():
                number += 1
                standing = line.decode("utf-8", "replace").rstrip("\r\n")
                found = self._object(standing)
                if isinstance(found, str) and (problem := too_long(len(line))):
                    found = f"{found}, which is {problem}"
                yield self._row(number, standing, found)

    def _head(self, lines: Lines) -> list[bytes]:
        peeked: list[bytes] = []
        names: dict[str, None] = {}
        size = 0
        for line in lines:
            peeked.append(line)
            size += len(line)
            found = self._object(line.decode("utf-8", "replace").rstrip("\r\n")) if line.strip() else ""
            if isinstance(found, dict):
                names.update(dict.fromkeys(found))
            if len(peeked) == _PEEKED or size > _PEEKED_BYTES:
                break
        lines.back(peeked)
        self.columns = tuple(names)
        if names:
            self.wanted._replace(strict=False).require(self.columns, self.name)
        return []

    def _row(self, number: int, line: str, found: dict[str, Any] | str) -> Row:
        text_column, id_column, more_columns, _ = self.wanted
        if isinstance(found, str):
            return Row(number, "" if id_column else str(number), line, broken(number, found))
        id_ = str(number) if id_column is None else as_text(found.get(id_column))
        text = found.get(text_column)
        if not isinstance(text, str) or isinstance(text, _Number):
            there = f"is {_json_type(text)}, not a string" if text_column in found else "is missing"
            return Row(number, id_, line, broken(number, f"{text_column!r} {there}"))
        more = {name: found[name] for name in more_columns if name in found} if more_columns else {}
        return Row(number, id_, encodable(text), more=more)

    def _object(self, line: str) -> dict[str, Any] | str:
        """The object of a line, or what is wrong with the line."""
        try:
            found = _DECODER.decode(line)
        except json.JSONDecodeError as cause:
            return f"it is not valid JSON: {cause.msg} at character {cause.pos + 1}"
        except RecursionError:
            return "its JSON is nested too deeply"
        return found if isinstance(found, dict) else f"it is {_json_type(found)}, not an object"


class RedditSource(JsonlSource):
    """Dumps of Reddit, comments and submissions in any mixture.

    A submission gets the comments' key `body`: its own text or, where it only is a link, its title. Prefixes of
    `parent_id` go (`t1_abc`, `t3_abc` are the comment and the submission `abc`).
    """

    def _object(self, line: str) -> dict[str, Any] | str:
        found = super()._object(line)
        if isinstance(found, dict):
            if "body" not in found and "title" in found:
                found["body"] = found.get("selftext") or found["title"]
            parent = found.get("parent_id")
            if isinstance(parent, str) and parent.startswith(("t1_", "t3_")):
                found["parent_id"] = parent[3:]
        return found


class _Number(str):
    """A number as it is spelled."""


_DECODER = json.JSONDecoder(strict=False, parse_int=_Number, parse_float=_Number, parse_constant=_Number)


def _json_type(value: Any) -> str:
    names: list[tuple[Any, str]] = [
        (_Number, "a number"), (str, "a string"), (bool, "a boolean"), (dict, "an object"), (list, "a list"),
    ]  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "null")
