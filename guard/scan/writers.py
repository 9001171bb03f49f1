"""The verdicts of a scan as JSONL, CSV or Parquet, in the order of the rows, made of the ledger's blocks.

The one rule: a file under its final name is whole. It is written under another name beside it and moved into place; a
run that is killed leaves the earlier file, if there was one, as it was, and the ledger to make the new one of.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

from guard.errors import InvalidFile
from guard.scan.store import cannot_write, settle
from guard.scan.streams import filesystem, is_url, zstd
from guard.verdict import Verdict

COLUMNS = (
    "id", "decision", "score", "categories", "error", "policy", "policy_hash", "model", "passages", "truncated",
    "unsupported_language", "reason", "category_scores",
)  # fmt: skip
JUDGED = COLUMNS[1:]  # what the verdict says
BESIDE = ("time", "board", "author", "text")  # what of the input stands beside it
STDOUT = "-"

Lines = Iterable[list[bytes]]  # the records as lines of JSON, block by block


def judged(verdict: Verdict) -> dict[str, Any]:
    """A verdict under the names of `JUDGED`."""
    error = verdict.error and f"{verdict.error.code}: {verdict.error.message}"
    found = {**verdict.model_dump(mode="json", include=set(JUDGED)), "error": error}
    return {name: found[name] for name in JUDGED}


def errors_file(output: str) -> str:
    """The side file for the rows without a verdict."""
    return f"{output}.errors.jsonl"


class Writer:
    """Makes one kind of file. `columns` are the records' keys, in order."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    def write(self, lines: Lines, path: Path) -> None:
        """Make the file at `path`, which is not its final place."""
        raise NotImplementedError


class JsonlWriter(Writer):
    """One object per line, as the ledger has them."""

    def write(self, lines: Lines, path: Path) -> None:
        with _opened(path) as file:
            for some in lines:
                file.writelines(some)


class CsvWriter(Writer):
    """RFC 4180: categories joined by ";", their scores as JSON. Ids are written as they came, `=1+1` too."""

    def write(self, lines: Lines, path: Path) -> None:
        with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(self.columns)
            for some in lines:
                for one in map(json.loads, some):
                    cells = {**one, "categories": ";".join(one["categories"]), "category_scores": _scores(one)}
                    rows.writerow([_cell(cells[name]) for name in self.columns])


class ParquetWriter(Writer):
    """By polars, from a JSONL file beside it; categories are a list, their scores JSON."""

    def write(self, lines: Lines, path: Path) -> None:
        import polars as pl

        types: dict[str, Any] = dict.fromkeys(self.columns, pl.String)
        types |= {"score": pl.Float64, "passages": pl.Int64, "categories": pl.List(pl.String)}
        types |= dict.fromkeys(("truncated", "unsupported_language"), pl.Boolean)
        plain = path.with_name(f"{path.name}.jsonl")
        try:
            with plain.open("w", encoding="utf-8") as file:
                for some in lines:
                    for one in map(json.loads, some):
                        file.write(json.dumps({**one, "category_scores": _scores(one)}, ensure_ascii=False) + "\n")
            # escaped, or a path with brackets is a pattern, which matches nothing and gives no rows
            pl.scan_ndjson(glob.escape(str(plain)), schema=types).sink_parquet(path, row_group_size=2**16)
        finally:
            plain.unlink(missing_ok=True)


_WRITERS: dict[str, type[Writer]] = {
    ".jsonl": JsonlWriter, ".jsonl.gz": JsonlWriter, ".jsonl.zst": JsonlWriter, ".csv": CsvWriter,
    ".csv.gz": CsvWriter, ".csv.zst": CsvWriter, ".parquet": ParquetWriter,
}  # fmt: skip


def check_output(output: str) -> None:
    """Can this be written? Raises `InvalidFile`; an object store is not asked before there is something to write."""
    if output == STDOUT:
        return
    _writer(output)
    if not is_url(output):
        path = Path(output).resolve()
        if path.is_dir() or not path.parent.is_dir():
            raise InvalidFile(f"{output}: cannot be written.", hint="Name a file in a folder that is there.")
        if not os.access(path.parent, os.W_OK):
            raise InvalidFile(f"{output}: its folder cannot be written.", hint="Name another one.")


def write_output(lines: Lines, errors: Lines, output: str, columns: Sequence[str]) -> dict[str, Any]:
    """Make the output and, if there are any errors, the file for them. Size and checksum of the output come back.

    Raises `InvalidFile`.
    """
    made = _placed(output, _writer(output)(columns), lines)
    side = JsonlWriter(())
    first = next((some for some in errors if some), None)
    if first is not None:
        _placed(errors_file(output), side, _all(first, errors))
    elif is_url(output):
        _remove_there(errors_file(output))
    else:
        Path(errors_file(output)).unlink(missing_ok=True)
    return made


def size_of(output: str) -> int | None:
    """Bytes of an output, or None where there is none."""
    if is_url(output):
        files, path = filesystem(output)
        return int(files.size(path)) if files.exists(path) else None
    here = Path(output)
    return here.stat().st_size if here.is_file() else None


def _writer(output: str) -> type[Writer]:
    name = output.lower()
    kind = next((kind for suffix, kind in _WRITERS.items() if name.endswith(suffix)), None)
    if kind is None:
        raise InvalidFile(f"{output}: not a known kind of output.", hint=f"Known: {', '.join(_WRITERS)}.")
    return kind


def _all(first: list[bytes], rest: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    yield first
    yield from rest


def _placed(output: str, writer: Writer, lines: Lines) -> dict[str, Any]:
    """Write a file beside its place, then move it there."""
    if is_url(output):
        import tempfile

        with tempfile.TemporaryDirectory(prefix="guard-scan-") as folder:
            path = Path(folder) / output.rpartition("/")[2]
            made = _placed(str(path), writer, lines)
            files, there = filesystem(output)
            files.put_file(str(path), there)
            return made
    # through a link to the file it stands for: the link stays one
    final = Path(output).resolve()
    # the suffix stays the last part: it says whether to compress
    part = final.with_name(f".part.{final.name}")
    try:
        try:
            writer.write(lines, part)
            with part.open("rb") as file:
                made = {"bytes": part.stat().st_size, "sum": file_digest(file, "blake2b").hexdigest()[:32]}
                os.fsync(file.fileno())
            part.replace(final)
            settle(final.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as cause:
        raise cannot_write(output, cause) from cause
    return made


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A new file of bytes, compressed as its name says; the same content gives the same file."""
    with path.open("wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                yield packed  # type: ignore[misc]  # it is a file, but not typed as IO
        elif path.suffix == ".zst":
            with zstd.ZstdFile(raw, "wb") as frames:
                yield frames  # type: ignore[misc]
            if not raw.tell():  # nothing was written, and no frame is no zstd
                raw.write(zstd.compress(b""))
        else:
            yield raw


def _remove_there(output: str) -> None:
    files, path = filesystem(output)
    if files.exists(path):
        files.rm_file(path)


def _scores(one: Mapping[str, Any]) -> str:
    return json.dumps(one["category_scores"], ensure_ascii=False)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool) else value
