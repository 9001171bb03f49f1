from __future__ import annotations

import io
import json
import sys

import pytest

from guard.errors import InvalidFile
from guard.scan.columns import Columns
from guard.scan.inputs import files, format_of, would_find
from guard.scan.readers import open_input


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text\na\n")


def names(root, found):
    return [name.removeprefix(f"{root}/") for name in found]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.csv", "csv"), ("A.TSV", "tsv"), ("a.b.jsonl", "jsonl"), ("a.ndjson.gz", "jsonl"), ("a.csv.zst", "csv"),
        ("a.parquet", "parquet"), ("s3://b/a.csv?version=1", "csv"), ("https://h/a.jsonl.gz?x=.csv", "jsonl"),
        ("-", "jsonl"),
    ],
)  # fmt: skip
def test_the_suffix_says_the_format(name, format):
    assert format_of(name) == format


@pytest.mark.parametrize("name", ["a", "a.gz", "a.txt", "a.parquet.gz", "a.csv.xz", "csv", "folder.csv/a"])
def test_other_suffixes_are_refused(name):
    with pytest.raises(InvalidFile, match="not a known kind of file"):
        format_of(name)


def test_a_folder_is_all_its_files_sorted_as_text(tmp_path):
    put(tmp_path, "b/1.csv", "b.csv", "a10.csv", "a9.csv", "Z.jsonl", "b/_SUCCESS", ".hidden.csv", "_temporary/x.csv")
    assert names(tmp_path, files(str(tmp_path), None)) == ["Z.jsonl", "a10.csv", "a9.csv", "b.csv", "b/1.csv"]


def test_a_folder_with_other_files_is_refused_unless_a_format_is_given(tmp_path):
    put(tmp_path, "a.csv", *(f"{number}.txt" for number in range(7)))
    with pytest.raises(InvalidFile, match="0.txt.*4.txt and 2 more"):
        files(str(tmp_path), None)
    assert len(files(str(tmp_path), "csv")) == 8


@pytest.mark.parametrize("name", ["none.csv", "none/*.csv", "empty"])
def test_what_names_no_file_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match=f"{tmp_path}/.*: no such file"):
        files(f"{tmp_path}/{name}", None)


def test_patterns_are_sorted_and_names_that_look_like_patterns_are_names(tmp_path):
    put(tmp_path, "b.csv", "a.csv", "a[1].csv", "a1.csv", "deep/er/c.csv")
    assert names(tmp_path, files(f"{tmp_path}/?.csv", None)) == ["a.csv", "b.csv"]
    assert names(tmp_path, files(f"{tmp_path}/**/c.csv", None)) == ["deep/er/c.csv"]
    assert names(tmp_path, files(f"{tmp_path}/a[1].csv", None)) == ["a[1].csv"]


def test_inputs_are_read_in_the_given_order_under_one_numbering(tmp_path):
    for name, texts in (("b", "xy"), ("a", "z")):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text", *texts]))
    (tmp_path / "c.jsonl").write_text('{"text": "w", "more": 1}\nnone\n')
    reader = open_input([f"{tmp_path}/{name}" for name in ("b.csv", "a.csv", "c.jsonl")], "text")
    reader.check()
    assert reader.columns == ("text", "more")
    rows = list(reader)
    assert [(row.number, row.id, row.text) for row in rows] == [
        (1, "1", "x"), (2, "2", "y"), (3, "3", "z"), (4, "4", "w"), (5, "5", "none"),
    ]  # fmt: skip
    assert rows[-1].error.message.startswith("Row 5 cannot be judged: it is not valid JSON")


def test_the_share_grows_to_one_over_all_files(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.csv").write_text("text\n" + "x" * 99 + "\n" + "x\n" * 1000)
    reader = open_input([str(tmp_path)], "text")
    shares = [reader.share for _ in reader]
    assert shares == sorted(shares)
    assert abs(shares[2001] - 0.5) < 0.01
    assert reader.share == 1.0


def test_a_column_that_is_asked_for_must_be_in_every_table(tmp_path):
    (tmp_path / "a.csv").write_text("text,title\na,b\n")
    (tmp_path / "b.csv").write_text("text\na\n")
    with pytest.raises(InvalidFile, match="b.csv: there is no column 'title'"):
        open_input([str(tmp_path)], "text", None, ("title",)).check()
    (tmp_path / "b.csv").unlink()
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n')  # a key may be missing
    assert [row.more for row in open_input([str(tmp_path)], "text", None, ("title",))] == [{"title": "b"}, {}]


def test_double_and_missing_ids_are_rows_like_others(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,a\n1,b\n,c\n")
    assert [(row.id, row.text) for row in open_input([str(tmp_path)], "text", "id")] == [
        ("1", "a"),
        ("1", "b"),
        ("", "c"),
    ]


@pytest.mark.parametrize(
    ("inputs", "said", "problem"),
    [
        ([], {}, "There is nothing to read"),
        (["a.csv"], {"format": "xlsx"}, "'xlsx' is not a known format"),
        (["a.csv"], {"encoding": "utf-9"}, "'utf-9' is not a known encoding"),
        (["-", "a.csv"], {}, "cannot be read beside other inputs"),
    ],
)
def test_what_cannot_be_opened_is_refused(tmp_path, monkeypatch, inputs, said, problem):
    put(tmp_path, "a.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidFile, match=problem):
        open_input(inputs, "text", **said)


# ---- standard input


def piped(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_read_once(monkeypatch):
    piped(monkeypatch, b'{"text": "a"}\n{"text": "b"}\n')
    reader = open_input(["-"], "text")
    reader.check()
    assert not reader.resumable
    assert [row.text for row in reader] == ["a", "b"]
    with pytest.raises(InvalidFile, match="can be read only once"):
        list(reader)
    with pytest.raises(InvalidFile, match="can be read only once"):
        list(open_input(["-"], "text").rows({"rows": 1, "source": 0, "at": 14, "open": False}, reader.digest))


def test_standard_input_may_be_of_another_format(monkeypatch):
    piped(monkeypatch, "text\n€\n".encode("cp1252"))
    assert [row.text for row in open_input(["-"], "text", format="csv", encoding="cp1252")] == ["€"]
    with pytest.raises(InvalidFile, match="Parquet cannot be read from standard input"):
        open_input(["-"], "text", format="parquet")


# ---- Reddit


def test_dumps_of_reddit_are_read_whatever_is_in_them(tmp_path):
    records = [
        {"id": "c1", "body": "> quoted\n\nown", "parent_id": "t3_s1", "author": "ann", "created_utc": 1},
        {"id": "c2", "body": "[deleted]", "parent_id": "t1_c1", "author": "[deleted]", "created_utc": "1700000000"},
        {"id": "s1", "title": "A title", "selftext": "A text", "author": "bob", "subreddit": "test"},
        {"id": "s2", "title": "Only a link", "selftext": "", "url": "http://example.org"},
        {"id": "s3", "title": "Removed", "selftext": "[removed]"},
        {"id": "x"},
    ]  # fmt: skip
    path = tmp_path / "RS_2023-01"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    columns = Columns.load(format="reddit")
    reader = open_input([str(path)], columns.text, columns.id, columns.more, format="reddit")
    reader.check()
    comments = [columns.comment(row) for row in reader]
    assert [(one.id, one.text, one.parent_id, one.title) for one in comments[:-1]] == [
        ("c1", "own", "s1", None), ("c2", "[deleted]", "c1", None), ("s1", "A text", None, "A title"),
        ("s2", "Only a link", None, "Only a link"), ("s3", "[removed]", None, "Removed"),
    ]  # fmt: skip
    assert (comments[0].parent, comments[0].time, comments[1].time) == ("quoted", "1", "2023-11-14T22:13:20Z")
    assert comments[2].board == "test"
    assert comments[-1].error.message == "Row 6 cannot be judged: 'body' is missing."


def test_a_folder_that_links_lead_back_to_is_looked_into_once(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.csv").write_text("text\n")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "here").symlink_to(tmp_path / "sub")
    assert len(files(str(tmp_path), None)) == 1


@pytest.mark.parametrize(
    ("name", "file", "found"),
    [
        (".", "out.jsonl", True),
        (".", "sub/out.jsonl", True),
        ("sub", "out.jsonl", False),
        ("sub", "./sub/../out.jsonl", False),
        ("*.jsonl", "out.jsonl", True),
        ("*.jsonl", "out.csv", False),
        ("*.jsonl", "sub/out.jsonl", False),
        ("*/*.jsonl", "sub/out.jsonl", True),
        ("**/*.jsonl", "sub/sub/out.jsonl", True),
        ("**/*.jsonl", "out.jsonl", True),
        ("in.jsonl", "out.jsonl", False),
        ("[x].jsonl", "x.jsonl", False),
        ("-", "out.jsonl", False),
        ("sqlite:///f.db", "out.jsonl", False),
    ],
)
def test_an_output_that_the_input_would_find_the_next_time_is_known(tmp_path, monkeypatch, name, file, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "[x].jsonl").touch()
    assert would_find(name, file) is found
