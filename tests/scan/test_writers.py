import csv
import io
import json
import os
import resource
import signal
from hashlib import blake2b
from pathlib import Path

import fsspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import EngineError, InvalidFile
from guard.scan.streams import Stream
from guard.scan.writers import BESIDE, COLUMNS, check_output, errors_file, judged, size_of, write_output
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
PACKED = [".jsonl.gz", ".jsonl.zst", ".csv.gz", ".csv.zst"]
ALL = (*COLUMNS, *BESIDE)

ids = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\n\r\0=+-@;🙂\u2028'), max_size=20)


def record(id_, verdict, text="text"):
    return {"id": id_, **judged(verdict), "time": None, "board": "b", "author": "a", "text": text}


def as_lines(records):
    return [json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in records]


def write(path, *blocks, errors=(), columns=ALL):
    return write_output(map(as_lines, blocks), map(as_lines, errors), str(path), columns)


def load(path):
    """The records of a file of any kind, as they were before they were written."""
    if path.suffix == ".parquet":
        return [
            {**row, "category_scores": json.loads(row["category_scores"])}
            for row in pl.read_parquet(path, glob=False).to_dicts()
        ]
    content = b"".join(Stream(str(path)).pieces()).decode()
    if ".jsonl" in path.name:
        return [json.loads(line) for line in content.split("\n")[:-1]]
    return [_typed(row) for row in csv.DictReader(io.StringIO(content, newline=""))]


def _typed(row):
    numbers = {"score": float(row["score"]) if row["score"] else None, "passages": int(row["passages"])}
    flags = {name: {"true": True, "false": False}[row[name]] for name in ("truncated", "unsupported_language")}
    lists = {"categories": row["categories"].split(";") if row["categories"] else []}
    nulls = {name: row[name] or None for name in ("error", "time")}
    return {**row, **numbers, **flags, **lists, **nulls, "category_scores": json.loads(row["category_scores"])}


@pytest.mark.parametrize("suffix", SUFFIXES + PACKED)
@settings(deadline=None, max_examples=40)
@given(names=st.lists(ids, max_size=6))
def test_every_kind_of_file_keeps_everything_in_order(tmp_path_factory, suffix, names):
    path = tmp_path_factory.mktemp("out") / f"out{suffix}"
    records = [record(name, (FLAGGED, ERROR)[i % 2], text=name) for i, name in enumerate(names)]
    made = write(path, records[:2], [], records[2:])
    assert load(path) == records
    assert os.listdir(path.parent) == [path.name]
    assert made == {"bytes": size_of(str(path)), "sum": blake2b(path.read_bytes()).hexdigest()[:32]}


@pytest.mark.parametrize("suffix", SUFFIXES + PACKED)
def test_the_same_records_make_the_same_file(tmp_path, suffix):
    for name in ("a", "b"):
        write(tmp_path / f"{name}{suffix}", [record("1", FLAGGED), record("2", ERROR)])
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_record_has_the_columns_in_their_order():
    assert ("id", *judged(FLAGGED)) == COLUMNS == (
        "id", "decision", "score", "categories", "error", "policy", "policy_hash", "model", "passages", "truncated",
        "unsupported_language", "reason", "category_scores",
    )  # fmt: skip
    assert judged(FLAGGED)["error"] is None
    assert judged(ERROR)["error"] == 'engine_error: it "broke",\nbadly'
    assert judged(ERROR)["score"] is None


def test_cells_of_a_csv(tmp_path):
    write(path := tmp_path / "out.csv", [record("=1+1", FLAGGED)])
    header, row, end = path.read_bytes().decode().split("\r\n")
    assert header == ",".join(ALL)
    assert row == (
        "=1+1,flag,0.30000000000000004,a/b;c,,p,h,m,2,true,true,model,"
        '"{""a/b"": 0.3333333333333333, ""c"": 0.0}",,b,a,text'
    )  # fmt: skip
    assert end == ""


@pytest.mark.parametrize(("suffix", "content"), [(".jsonl", b""), (".csv", (",".join(ALL) + "\r\n").encode())])
def test_no_rows_make_a_file_without_rows(tmp_path, suffix, content):
    write(path := tmp_path / f"out{suffix}")
    assert path.read_bytes() == content


def test_a_parquet_file_has_the_same_types_with_rows_and_without(tmp_path):
    for name, records in [("none", []), ("nulls", [record("1", ERROR)]), ("some", [record("1", FLAGGED)])]:
        write(tmp_path / f"{name}.parquet", records)
    schemas = [pl.read_parquet_schema(tmp_path / f"{name}.parquet") for name in ("none", "nulls", "some")]
    assert tuple(schemas[0]) == ALL
    assert schemas[0] == schemas[1] == schemas[2]
    assert (schemas[0]["score"], schemas[0]["categories"]) == (pl.Float64, pl.List(pl.String))


def test_without_texts_there_is_no_column_of_them(tmp_path):
    for suffix in SUFFIXES:
        short = {name: value for name, value in record("7", FLAGGED).items() if name != "text"}
        write(tmp_path / f"out{suffix}", [short], columns=ALL[:-1])
        assert list(load(tmp_path / f"out{suffix}")[0]) == list(ALL[:-1])


def test_a_file_may_lie_under_a_path_that_looks_like_a_pattern(tmp_path):
    """polars took the brackets for a pattern, found nothing and wrote a file without rows."""
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    write(folder / "out?.parquet", [record("7", FLAGGED)])
    assert load(folder / "out?.parquet") == [record("7", FLAGGED)]


@pytest.mark.parametrize("suffix", SUFFIXES + PACKED)
def test_a_run_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("earlier")

    def interrupted():
        yield as_lines([record("1", FLAGGED)])
        assert path.read_text() == "earlier"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_output(interrupted(), (), str(path), ALL)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told_and_leaves_the_earlier_file(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(InvalidFile, match="cannot be written"):
            write(path, [record(str(i), FLAGGED) for i in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]


def test_rows_without_a_verdict_stand_in_a_file_beside_it_which_goes_when_there_are_none(tmp_path):
    path = tmp_path / "out.csv"
    side = Path(errors_file(str(path)))
    write(path, [record("1", ERROR)], errors=[[], [{"id": "1", "text": "é"}], [{"id": "2"}]])
    assert [json.loads(line) for line in side.read_text().splitlines()] == [{"id": "1", "text": "é"}, {"id": "2"}]
    write(path, [record("1", FLAGGED)], errors=[[]])
    assert not side.exists()


def test_an_output_may_be_an_object_of_a_store():
    store = fsspec.filesystem("memory")
    try:
        write("memory://bucket/out.csv", [record("1", ERROR)], errors=[[{"id": "1"}]])
        assert store.cat("/bucket/out.csv").startswith(b"id,decision")
        assert store.cat("/bucket/out.csv.errors.jsonl") == b'{"id": "1"}\n'
        assert size_of("memory://bucket/out.csv") == store.size("/bucket/out.csv")
        write("memory://bucket/out.csv", [record("1", FLAGGED)])
        assert not store.exists("/bucket/out.csv.errors.jsonl")
        assert size_of("memory://bucket/none.csv") is None
    finally:
        store.store.clear()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write(tmp_path / "link.jsonl", [record("1", FLAGGED)])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(load(tmp_path / "real.jsonl")) == 1


@pytest.mark.parametrize("name", ["out", "out.txt", "no/such/out.csv", "folder.csv"])
def test_what_cannot_be_written_is_refused_before_anything_is_judged(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidFile):
        check_output(str(tmp_path / name))


@pytest.mark.parametrize("name", ["-", "out.CSV", "out.jsonl.zst", "s3://bucket/out.parquet"])
def test_what_can_be_written_is_not(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    check_output(name)
    assert os.listdir(tmp_path) == []
