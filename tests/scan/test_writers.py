import csv
import json
import os

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import EngineError, InvalidFile
from guard.scan.writers import COLUMNS, ErrorsWriter, open_writer, record
from guard.verdict import Decision, Verdict, failure

FLAGGED = Verdict(
    decision=Decision.FLAG, score=0.1 + 0.2, category_scores={"a/b": 1 / 3, "c": 0.0}, categories=("a/b", "c"),
    policy="p", policy_version=3, policy_hash="h", model="m", passages=2, truncated=True, unsupported_language=True,
)  # fmt: skip
ERROR = Verdict(
    decision=Decision.ERROR, reason="error", policy="p", policy_version=3, policy_hash="h", model="m",
    error=failure(EngineError('it "broke",\nbadly', hint="Again.")),
)  # fmt: skip
SUFFIXES = [".jsonl", ".csv", ".parquet"]

ids = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\n\r\0=+-@;🙂\u2028'), max_size=20)


def load(path):
    """The records of a file of any kind, as they were before they were written."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]
    if path.suffix == ".parquet":
        return [
            {**row, "category_scores": json.loads(row["category_scores"])}
            for row in pl.read_parquet(path, glob=False).to_dicts()
        ]
    with path.open(encoding="utf-8", newline="") as file:
        return [_typed(row) for row in csv.DictReader(file)]


def _typed(row):
    numbers = {"score": float(row["score"]) if row["score"] else None, "passages": int(row["passages"])}
    flags = {name: {"true": True, "false": False}[row[name]] for name in ("truncated", "unsupported_language")}
    lists = {"categories": row["categories"].split(";") if row["categories"] else []}
    error = {"error": row["error"] or None}
    return {**row, **numbers, **flags, **lists, **error, "category_scores": json.loads(row["category_scores"])}


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=60)
@given(names=st.lists(ids, max_size=6))
def test_every_kind_of_file_keeps_everything_in_order(tmp_path_factory, suffix, names):
    path = tmp_path_factory.mktemp("out") / f"out{suffix}"
    records = [record(name, (FLAGGED, ERROR)[i % 2]) for i, name in enumerate(names)]
    with open_writer(path) as writer:
        writer.write(records[:2])
        writer.write([])
        writer.write(records[2:])
    assert load(path) == records
    assert os.listdir(path.parent) == [path.name]


def test_a_record_has_the_columns_in_their_order():
    assert tuple(record("7", FLAGGED)) == COLUMNS == (
        "id", "decision", "score", "categories", "error", "policy", "policy_hash", "model", "passages", "truncated",
        "unsupported_language", "reason", "category_scores",
    )  # fmt: skip
    assert record("7", FLAGGED)["error"] is None
    assert record("7", ERROR)["error"] == 'engine_error: it "broke",\nbadly'
    assert record("7", ERROR)["score"] is None


def test_cells_of_a_csv(tmp_path):
    with open_writer(path := tmp_path / "out.csv") as writer:
        writer.write([record("=1+1", FLAGGED)])
    header, row, end = path.read_bytes().decode().split("\r\n")
    assert header == ",".join(COLUMNS)
    assert row == (
        "=1+1,flag,0.30000000000000004,a/b;c,,p,h,m,2,true,true,model,"
        '"{""a/b"": 0.3333333333333333, ""c"": 0.0}"'
    )  # fmt: skip
    assert end == ""


@pytest.mark.parametrize(("suffix", "content"), [(".jsonl", b""), (".csv", (",".join(COLUMNS) + "\r\n").encode())])
def test_no_rows_make_a_file_without_rows(tmp_path, suffix, content):
    with open_writer(path := tmp_path / f"out{suffix}"):
        pass
    assert path.read_bytes() == content


def test_a_parquet_file_has_the_same_types_with_rows_and_without(tmp_path):
    for name, records in [("none", []), ("nulls", [record("1", ERROR)]), ("some", [record("1", FLAGGED)])]:
        with open_writer(tmp_path / f"{name}.parquet") as writer:
            writer.write(records)
    schemas = [pl.read_parquet_schema(tmp_path / f"{name}.parquet") for name in ("none", "nulls", "some")]
    assert tuple(schemas[0]) == COLUMNS
    assert schemas[0] == schemas[1] == schemas[2]
    assert (schemas[0]["score"], schemas[0]["categories"]) == (pl.Float64, pl.List(pl.String))


def test_a_parquet_file_may_lie_under_a_path_that_looks_like_a_pattern(tmp_path):
    """polars took the brackets for a pattern, found nothing and wrote a file without rows."""
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    with open_writer(folder / "out?.parquet") as writer:
        writer.write([record("7", FLAGGED)])
    assert load(folder / "out?.parquet") == [record("7", FLAGGED)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), open_writer(path) as writer:
        writer.write([record("1", FLAGGED)])
        assert path.read_text() == "earlier"
        raise KeyboardInterrupt
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "real" / "target.jsonl")
    with open_writer(link) as writer:
        writer.write([record("1", FLAGGED)])
    assert link.is_symlink()
    assert load(tmp_path / "real" / "target.jsonl") == [record("1", FLAGGED)]


def test_the_file_is_as_readable_as_any_other(tmp_path):
    with open_writer(path := tmp_path / "out.jsonl"):
        pass
    (other := tmp_path / "other").touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("name", ["out.txt", "out", "out.jsonl.gz", "missing/out.jsonl", "folder.csv"])
def test_an_output_that_cannot_be_is_refused(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidFile) as caught:
        open_writer(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


def test_a_folder_that_goes_away_is_refused(tmp_path):
    (folder := tmp_path / "folder").mkdir()
    writer = open_writer(folder / "out.csv")
    folder.rmdir()
    with pytest.raises(InvalidFile, match="cannot be written"), writer:
        pass


def test_the_side_file_goes_when_there_are_no_errors(tmp_path):
    path = tmp_path / "out.jsonl.errors.jsonl"
    with ErrorsWriter(path) as writer:
        writer.write([{"id": "1"}])
        writer.write([])
    assert path.read_text() == '{"id": "1"}\n'
    with ErrorsWriter(path) as writer:
        writer.write([])
    assert os.listdir(tmp_path) == []
