"""Rows that outlive the run that made them: a JSONL file with a key per row, the last row of a key counts.

The one rule: a row that `add` has returned from is on the disk, whole. A torn last line is what was being written when
a run was killed, and goes.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from guard.errors import InvalidFile

Row = dict[str, Any]
ANSWERED, UNANSWERED = "answered", "unanswered"  # the `status` of a row
COMPLIANCE, PARTIAL, REFUSAL = LABELS = ("compliance", "partial", "refusal")  # its `verdict`, and its `human` label


class Kept:
    """The rows of a file by their keys, to be added to by one run at a time. Raises `InvalidFile`."""

    def __init__(self, path: Path) -> None:
        self.rows: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(path)
        except BlockingIOError as cause:
            self._file.close()
            raise InvalidFile(f"{path}: another run is writing to it.", hint="Wait for it.") from cause
        except InvalidFile:
            self._file.close()
            raise

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, *rows: Row) -> None:
        """Keep rows, each under its "key"."""
        self._file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows |= {row["key"]: row for row in rows}

    def _read(self, path: Path) -> None:
        whole = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (ValueError, KeyError, TypeError) as cause:
                raise InvalidFile(f"{path}, line {number}: not a row of ours.", hint="Take a new folder.") from cause
        self._file.truncate(whole)
