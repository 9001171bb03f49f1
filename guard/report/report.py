"""The report of a scan: read → count → compare → watch → review → write.

The one rule: a file under its final name is whole, and a sheet that may hold labels is never overwritten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from guard.errors import InvalidFile, InvalidRequest, NotOffered
from guard.report.clusters import clusters
from guard.report.files import write
from guard.report.found import Found, found
from guard.report.markdown import as_markdown
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
        from guard.report.page import as_html
    except ModuleNotFoundError as cause:
        if (cause.name or "").partition(".")[0] != "matplotlib":
            raise
        raise NotOffered("Reports need matplotlib.", hint="pip install 'guard-moderation[report]'") from cause
    names = terms(watch)
    folder = out.with_name(f"{out.name}.report") if folder is None else folder
    sheet = folder / SAMPLE if sample else None
    if sheet and sheet.exists():
        raise InvalidRequest(
            f"{sheet}: there already, perhaps with labels.", hint="Move it away, or name another folder with --out."
        )
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=folder) as temporary:
            rows = read(out, Path(temporary))
            labels = review(rows, reviewed) if reviewed else None
            counts = found(rows)
            sections = content(rows, counts, clusters(rows, Path(temporary)), watched(rows, counts, names), labels)
            drawn = draw(rows, sample, sheet) if sample and sheet else 0
        line = lead(out.name, counts)
        write(folder / PAGE, as_html(_TITLE, line, sections))
        write(folder / SUMMARY, as_markdown(_TITLE, line, sections))
    except OSError as cause:
        raise InvalidFile(
            f"{folder}: the report cannot be written ({cause.strerror}).", hint="Name another folder with --out."
        ) from cause
    return Report(counts, labels, folder / PAGE, folder / SUMMARY, sheet, drawn)
