"""The verdicts of a scan, as JSONL, CSV or Parquet, in the order of the rows.

The one rule: a file under its final name is whole. Everything is written to a temporary file beside it, which is moved
into place at the end; a run that is killed leaves the earlier file, if there was one, as it was. (Such a run is
started anew; taking up where it ended comes later.)
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from guard.errors import InvalidFile
from guard.verdict import Verdict

COLUMNS = (
    "id", "decision", "score", "categories", "error", "policy", "policy_hash", "model", "passages", "truncated",
    "unsupported_language", "reason", "category_scores",
)  # fmt: skip

Record = Mapping[str, Any]


def record(id_: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict under the names of `COLUMNS`."""
    error = verdict.error and f"{verdict.error.code}: {verdict.error.message}"
    found = {**verdict.model_dump(mode="json", include=set(COLUMNS)), "id": id_, "error": error}
    return {name: found[name] for name in COLUMNS}


class Writer:
    """`with` a writer: an exception removes the temporary file, the ordinary end moves it into place."""

    newline = "\n"

    def __init__(self, path: Path) -> None:
        # through a link to the file it stands for: the link stays one
        self.path = path.resolve()
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> Self:
        try:
            self._file: IO[str] = self._part.open("w", encoding="utf-8", newline=self.newline)
        except OSError as cause:
            raise InvalidFile(
                f"{self.path}: cannot be written: {cause.strerror}.", hint="Name a file in a folder that is there."
            ) from cause
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            if kind is None:
                self._finish()
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, records: Sequence[Record]) -> None:
        """Add records."""
        raise NotImplementedError

    def _begin(self) -> None:
        pass

    def _finish(self) -> None:
        self._part.replace(self.path)


class JsonlWriter(Writer):
    """One object per line."""

    def write(self, records: Sequence[Record]) -> None:
        self._file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in records)


class ErrorsWriter(JsonlWriter):
    """JSONL of the rows that have no verdict; when there are none, the file of an earlier run goes."""

    _empty = True

    def write(self, records: Sequence[Record]) -> None:
        self._empty &= not records
        super().write(records)

    def _finish(self) -> None:
        if self._empty:
            self.path.unlink(missing_ok=True)
        else:
            super()._finish()


class CsvWriter(Writer):
    """RFC 4180: categories joined by ";", their scores as JSON. Ids are written as they came, `=1+1` too."""

    newline = ""

    def _begin(self) -> None:
        self._rows = csv.writer(self._file)
        self._rows.writerow(COLUMNS)

    def write(self, records: Sequence[Record]) -> None:
        for one in records:
            cells = {**one, "categories": ";".join(one["categories"]), "category_scores": _scores(one)}
            self._rows.writerow([_cell(cells[name]) for name in COLUMNS])


class ParquetWriter(Writer):
    """Kept as JSONL until the end, when polars turns it into Parquet; categories are a list, their scores JSON."""

    def write(self, records: Sequence[Record]) -> None:
        self._file.writelines(
            json.dumps({**one, "category_scores": _scores(one)}, ensure_ascii=False) + "\n" for one in records
        )

    def _finish(self) -> None:
        import polars as pl

        types: dict[str, Any] = dict.fromkeys(COLUMNS, pl.String)
        types |= {"score": pl.Float64, "passages": pl.Int64, "categories": pl.List(pl.String)}
        types |= dict.fromkeys(("truncated", "unsupported_language"), pl.Boolean)
        made = self._part.with_suffix(".parquet")
        try:
            # escaped, or a path with brackets is a pattern, which matches nothing and gives no rows
            rows = pl.scan_ndjson(glob.escape(str(self._part)), schema=types)
            rows.sink_parquet(made, row_group_size=2**16)
            made.replace(self.path)
        finally:
            made.unlink(missing_ok=True)


_WRITERS: dict[str, type[Writer]] = {".jsonl": JsonlWriter, ".csv": CsvWriter, ".parquet": ParquetWriter}


def open_writer(path: Path) -> Writer:
    """The writer that belongs to the file's suffix. Raises `InvalidFile`."""
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InvalidFile(f"{path}: not a known kind of output.", hint=f"Known: {', '.join(_WRITERS)}.")
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidFile(f"{path}: cannot be written.", hint="Name a file in a folder that is there.")
    return writer(path)


def _scores(one: Record) -> str:
    return json.dumps(one["category_scores"], ensure_ascii=False)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool) else value
