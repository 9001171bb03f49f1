"""The report of a scan: read → count → compare → watch → review → write.

The one rule: a file under its final name is whole, and a sheet that may hold labels is never overwritten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from guard.errors import InvalidFile, NotOffered
from guard.report.clusters import clusters
from guard.report.found import Found, found
from guard.report.markdown import as_markdown
from guard.report.page import as_html
from guard.report.sample import Reviewed, draw, review
from guard.report.source import read
from guard.report.watch import terms, watched

PAGE, SUMMARY, SAMPLE = "report.html", "report.md", "review.csv"
_TITLE = "What the scan found"


class Report(NamedTuple):
    """What was counted, and the files that were written."""

    found: Found
    reviewed: Reviewed | None
    page: Path
    summary: Path
    sample: Path | None
    drawn: int  # rows of the sample


def report(
    out: Path, folder: Path | None = None, *, watch: Sequence[str] = (), sample: int | None = None,
    reviewed: Path | None = None,
) -> Report:  # fmt: skip
    """Write the report on the scan's output `out` into `folder` (default: `OUT.report`, made if it is not there).

    `watch`: names to look for; `sample`: rows to draw for review; `reviewed`: such a sample with labels. Raises
    `InvalidFile`, `InvalidRequest` and, without matplotlib, `NotOffered`.
    """
    try:
        from guard.report.content import content, lead
    except ModuleNotFoundError as cause:
        if (cause.name or "").partition(".")[0] != "matplotlib":
            raise
        raise NotOffered("Reports need matplotlib.", hint="pip install 'guard-moderation[report]'") from cause
    names = terms(watch)
    folder = out.with_name(f"{out.name}.report") if folder is None else folder
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=folder) as temporary:
            rows = read(out, Path(temporary))
            drawn = draw(rows, sample, folder / SAMPLE) if sample else 0
            labels = review(rows, reviewed) if reviewed else None
            counts = found(rows)
            sections = content(rows, counts, clusters(rows, Path(temporary)), watched(rows, counts, names), labels)
        line = lead(out.name, counts)
        _write(folder / PAGE, as_html(_TITLE, line, sections))
        _write(folder / SUMMARY, as_markdown(_TITLE, line, sections))
    except OSError as cause:
        raise InvalidFile(
            f"{folder}: the report cannot be written ({cause.strerror}).", hint="Name another folder with --out."
        ) from cause
    return Report(counts, labels, folder / PAGE, folder / SUMMARY, folder / SAMPLE if sample else None, drawn)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
