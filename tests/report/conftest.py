"""Outputs of scans, written as `guard scan` writes them, and a browser."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.screenshot import chromium
from guard.report.source import Rows, read
from guard.scan.writers import COLUMNS
from tests.browser.conftest import browser, pytest_terminal_summary

__all__ = ["browser", "pytest_terminal_summary"]

collect_ignore = [] if chromium() else ["test_page_in_browser.py"]

ALL = tuple(dict.fromkeys((*COLUMNS, "time", "board", "author", "text")))
EMPTY: dict[str, Any] = {
    "id": "1", "decision": "allow", "score": 0.1, "categories": [], "error": None, "policy": "forum-comments",
    "policy_hash": "abc", "model": "fake", "passages": 1, "truncated": False, "unsupported_language": False,
    "reason": "model", "category_scores": {"insult": 0.1, "spam": 0.05}, "time": None, "board": None, "author": None,
    "text": None,
}  # fmt: skip


def row(**changed: Any) -> dict[str, Any]:
    """A row of a scan's output."""
    if changed.get("decision") == "error":
        changed = {"score": None, "error": "invalid_item: There is no text.", "category_scores": {}, **changed}
    return {**EMPTY, **changed}


def numbered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "id": str(i)} for i, one in enumerate(rows)]


def write(path: Path, rows: list[dict[str, Any]], columns: Iterable[str] = ALL) -> Path:
    """Rows as the format of `path` has them; compressed where its name ends so."""
    columns = tuple(columns)
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    if plain.suffix == ".jsonl":
        plain.write_text("".join(json.dumps({name: one[name] for name in columns}) + "\n" for one in rows))
    elif plain.suffix == ".csv":
        with plain.open("w", encoding="utf-8", newline="") as file:
            sheet = csv.writer(file)
            sheet.writerow(columns)
            for one in rows:
                sheet.writerow([_cell(one[name]) for name in columns])
    else:
        scores = [{**one, "category_scores": json.dumps(one["category_scores"])} for one in rows]
        types = {"score": pl.Float64, "passages": pl.Int64, "categories": pl.List(pl.String)}
        types |= dict.fromkeys(("truncated", "unsupported_language"), pl.Boolean)
        schema = {name: types.get(name, pl.String) for name in columns}
        pl.DataFrame([{name: one[name] for name in columns} for one in scores], schema=schema).write_parquet(plain)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".zst":
        import zstandard

        path.write_bytes(zstandard.compress(plain.read_bytes()))
    return path


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ";".join(value)
    return json.dumps(value) if isinstance(value, dict | bool) else value


@pytest.fixture
def rows_of(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Rows]:
    """Rows, read from a file that a scan could have written."""

    def made(rows: list[dict[str, Any]]) -> Rows:
        folder = tmp_path / "temporary"
        folder.mkdir(exist_ok=True)
        return read(write(tmp_path / "out.jsonl", rows), folder)

    return made
