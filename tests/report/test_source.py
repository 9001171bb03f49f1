"""Every format, with every column or without, gives the same rows."""

# ruff: noqa: DTZ001  (times are in UTC and have no zone, as polars keeps them)

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidFile
from guard.report.source import _code, _utc, normal_form, read
from guard.scan.writers import COLUMNS
from tests.report.conftest import ALL, numbered, row, write

ROWS = numbered([
    row(text="fine", time="2024-05-01T10:00:00+02:00", board="cars", author="ann"),
    row(text='"so",\n=1', decision="flag", score=0.75, categories=["insult", "spam"], truncated=True, board="[b]"),
    row(decision="error", text="", unsupported_language=True),
    row(text="Ünï 🙂 \u202e", decision="block", score=1.0, categories=["spam"], time="1714550400", author="bob"),
])  # fmt: skip
FORMATS = ("jsonl", "csv", "parquet", "jsonl.gz", "csv.gz", "jsonl.zst", "csv.zst")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_rows(form: str, tmp_path: Path):
    rows = read(write(tmp_path / f"o[1]*.{form}", ROWS), tmp_path)
    assert (rows.total, rows.bad_times, rows.categories) == (4, 0, ("insult", "spam"))
    found = rows.lazy().collect().rows(named=True)
    assert [one["decision"] for one in found] == ["allow", "flag", "error", "block"]
    assert [one["score"] for one in found] == [0.1, 0.75, None, 1.0]
    assert [one["categories"] for one in found] == [[], ["insult", "spam"], [], ["spam"]]
    assert [one["text"] for one in found] == ["fine", '"so",\n=1', None, "Ünï 🙂 \u202e"]
    assert [one["time"] for one in found] == [datetime(2024, 5, 1, 8), None, None, datetime(2024, 5, 1, 8)]
    assert [one["author"] for one in found] == ["ann", None, None, "bob"]
    assert [one["truncated"] for one in found] == [False, True, False, False]
    assert [one["unsupported_language"] for one in found] == [False, False, True, False]
    assert [one["code"] for one in found] == [None, None, "invalid_item", None]
    assert [(one["judged"], one["stopped"]) for one in found] == [(1, 0), (1, 1), (0, 0), (1, 1)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_columns_that_are_not_there_are_named(form: str, tmp_path: Path):
    rows = read(write(tmp_path / f"o.{form}", ROWS, [name for name in COLUMNS if name in ALL[:13]]), tmp_path)
    assert rows.missing == {"time", "board", "author", "text"}
    rows = read(write(tmp_path / f"p.{form}", ROWS, ["id", "decision"]), tmp_path)
    assert rows.total == 4 and {"score", "categories", "policy"} <= rows.missing


def test_a_scan_without_rows_is_read(tmp_path: Path):
    for form in ("jsonl", "csv", "parquet"):
        assert read(write(tmp_path / f"o.{form}", []), tmp_path).total == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("o.jsonl", b'{"decision": "allow", \n'), ("o.csv", b"id,text\n1,secret\n"), ("o.parquet", b"PAR1secret"),
        ("o.txt", b"secret"), ("o.jsonl.gz", b"secret"), ("o.csv", b""), ("o", b"secret"),
    ],
)  # fmt: skip
def test_what_is_no_output_of_a_scan_is_refused_without_quoting_it(name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidFile) as error:
        read(tmp_path / name, tmp_path)
    assert "secret" not in str(error.value)
    with pytest.raises(InvalidFile):
        read(tmp_path / "none.jsonl", tmp_path)


def utc(said: str) -> datetime | None:
    return pl.DataFrame({"time": [said]}).select(_utc(pl.col("time"))).item()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2024-02-03T04:05:06Z", datetime(2024, 2, 3, 4, 5, 6)),
        ("2024-02-03 04:05:06", datetime(2024, 2, 3, 4, 5, 6)),
        ("2024-02-03 04:05:06 UTC", datetime(2024, 2, 3, 4, 5, 6)),
        ("2024-02-03T04:05:06.25+01:00", datetime(2024, 2, 3, 3, 5, 6, 250000)),
        ("2024-02-03T04:05:06-0130", datetime(2024, 2, 3, 5, 35, 6)),
        ("2024-02-03T04:05", datetime(2024, 2, 3, 4, 5)),
        (" 2024-02-03 ", datetime(2024, 2, 3)),
        ("1706933106", datetime(2024, 2, 3, 4, 5, 6)),
        ("1706933106.5", datetime(2024, 2, 3, 4, 5, 6, 500000)),
        ("1706933106000", datetime(2024, 2, 3, 4, 5, 6)),
        ("1706933106000000", datetime(2024, 2, 3, 4, 5, 6)),
        ("0", datetime(1970, 1, 1)), ("yesterday", None), ("99999-01-01", None), ("1e300", None), ("nan", None),
        ("0001-01-01", None), ("-99999999999", None),
        ("2024-02-31", None), ("99999999999999999999", None),
    ],
)  # fmt: skip
def test_a_time_is_read_as_it_is_meant(said: str, meant: datetime | None):
    assert utc(said) == meant


@given(st.text(alphabet="0123456789-:.TZ+eE infax", max_size=30))
def test_no_time_is_so_strange_that_reading_fails(said: str):
    found = utc(said)
    assert found is None or 1000 <= found.year <= 9999


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))
def test_iso_times_come_back_as_they_were(when: datetime):
    assert utc(when.isoformat()) == when == utc(f"{when.isoformat(' ')}Z")


def test_times_that_nobody_can_read_are_counted(tmp_path: Path):
    rows = read(write(tmp_path / "o.csv", numbered([row(time="soon"), row(time="2024-01-01"), row()])), tmp_path)
    assert rows.bad_times == 1


def form_of(text: str) -> str:
    return pl.DataFrame({"text": [text]}).select(normal_form(pl.col("text"))).item()


def test_what_spammers_vary_makes_no_difference():
    assert form_of("Buy NOW!! 50 % off, ｃａｌｌ 0123") == form_of("buy now: 99% off... call 9876")
    assert form_of("fr\u200bee mo\u00adney") == "free money"
    assert form_of("Привет, МИР") == "привет мир"
    assert len(form_of("ab " * 100_000)) <= 2000


@given(st.text())
def test_a_normal_form_is_its_own_normal_form(text: str):
    once = form_of(text[:300])
    assert form_of(once) == form_of(form_of(once))


def test_the_code_of_an_error_is_what_stands_before_the_colon():
    said = ["engine_error: Judging failed.", "<b>: no", None]
    assert pl.DataFrame({"e": said}).select(_code(pl.col("e"))).to_series().to_list() == ["engine_error", "error", None]
