"""`guard report` from end to end: files, refusals, hostile rows, and many of everything."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from guard import cli
from guard.errors import InvalidFile, InvalidRequest, NotOffered
from guard.report.report import report
from tests.report.conftest import ALL, numbered, row, write
from tests.report.hostile import hostile_rows
from tests.report.test_found import scan


def test_a_report_is_a_page_and_a_summary_beside_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = write(tmp_path / "verdicts.jsonl", scan(400))
    assert cli.run(["report", str(out), "--watch", "text,nothing at all", "--sample", "40"]) == 0
    folder = tmp_path / "verdicts.jsonl.report"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.md", "review.csv"]
    printed = capsys.readouterr().out
    assert "400 rows" in printed and "sample: 40 rows" in printed
    page, summary = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for title in ("In short", "Categories", "Over time", "Boards", "Authors", "Near-duplicates", "Scores"):
        assert f">{title}</h2>" in page and f"## {title}\n" in summary
    assert "Watched: text" in page and "## `Watched: text`" in summary
    assert "text 0." in page and "text 0." not in summary


def test_the_same_output_gives_the_same_report(tmp_path: Path):
    out = write(tmp_path / "o.csv", scan(300))
    for name in ("a", "b"):
        report(out, tmp_path / name, watch=["text"])
    for name in ("report.html", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_reviewed_sample_gives_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = write(tmp_path / "o.parquet", scan(400))
    made = report(out, sample=60)
    assert "## Review" not in made.summary.read_text()
    assert made.sample
    made.sample.write_text(re.sub(r",\r?\n", ",harmful\n", made.sample.read_text(encoding="utf-8-sig")))
    assert cli.run(["report", str(out), "--reviewed", str(made.sample), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    summary = made.summary.read_text()
    assert "| harmful, of those stopped (precision) | 45 | 100.0 % (" in summary


def test_each_part_says_what_the_output_does_not_have(tmp_path: Path):
    out = write(tmp_path / "o.csv", scan(50), [name for name in ALL if name not in ("time", "board", "author", "text")])
    summary = report(out, watch=["acme"]).summary.read_text()
    for said in (
        "No row has a time.",
        "No row names its board",
        "No row names its author",
        "has no texts (`--no-text`)",
    ):
        assert said in summary
    bare = report(write(tmp_path / "b.jsonl", scan(50), ["decision"]), watch=["acme"]).summary.read_text()
    assert "No row has a score." in bare
    assert "The scan has no rows." in report(write(tmp_path / "c.parquet", [])).summary.read_text()


def test_hostile_words_come_through_every_format(tmp_path: Path):
    for form in ("csv", "parquet"):  # JSONL: test_page_in_browser.py
        made = report(write(tmp_path / f"o.{form}", hostile_rows()), watch=["acme"], sample=50)
        page = made.page.read_text()
        assert not re.search(
            r"<script|<img|<h1>mine|onerror=[^&]*>", page.replace("&quot;", "").split("</style>", 1)[1]
        )
        assert not set(page) & set("\x1b\u202e\x07\x00\x9b")
        assert not set(made.summary.read_text()) & set("\x1b\u202e\x07\x00\x9b\u2066")


def test_as_many_boards_as_rows_are_no_trouble(tmp_path: Path):
    rows = numbered(
        row(board=f"board {i}", author=f"author {i}", decision="flag", categories=[f"c{i}"], text=f"text {i}")
        for i in range(3000)
    )
    made = report(write(tmp_path / "o.jsonl", rows))
    assert "3,000 boards, 3,000 of them with stopped rows" in made.summary.read_text()
    assert made.page.stat().st_size < 3_000_000


def test_what_goes_wrong_is_told_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = write(tmp_path / "o.jsonl", scan(20))
    assert cli.run(["report", str(tmp_path / "none.jsonl")]) == 2
    assert cli.run(["report", str(out), "--out", str(tmp_path / "no" / "folder")]) == 2
    assert cli.run(["report", str(out), "--watch", ","]) == 2
    assert cli.run(["report", str(out), "--reviewed", str(tmp_path / "none.csv")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 4
    with pytest.raises(InvalidFile):
        report(out, out)
    report(out, sample=5)
    with pytest.raises(InvalidRequest):
        report(out, sample=5)
    assert sorted(path.name for path in (tmp_path / "o.jsonl.report").iterdir()) == [
        "report.html", "report.md", "review.csv",
    ]  # fmt: skip


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("content", "page", "plots", "svg"):
        monkeypatch.delitem(sys.modules, f"guard.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NotOffered, match="guard-moderation"):
        report(write(tmp_path / "o.jsonl", scan(5)))
    assert not (tmp_path / "o.jsonl.report").exists()
