"""Going on in the middle of an input: the oracle is a reader that reads it all at once."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import InvalidFile
from guard.scan import lines, parquet
from guard.scan.readers import open_input

piece = st.sampled_from(
    ["a", "b", "é", "🙂", ",", ",,", '"', '""', '"a', 'b"', "\n", "\r", "\r\n", "\n\n", "\t", "\0", " ", "1,x\n",
     '{"text": "a"}\n', '{"text": 1}\n', '{"id": "7", "text": "b"}', "\ufeff", "\x85", "\u2028"]
)  # fmt: skip
content = st.lists(piece, max_size=25).map("".join)
contents = st.lists(content, min_size=1, max_size=3)


def folder(root: Path, kind: str, texts: list[str], packed: str = "") -> str:
    for number, text in enumerate(texts):
        data = (f"id,text\n{text}" if kind == "csv" else text).encode()
        data = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[packed](data)
        (root / f"{number}.{kind}{packed}").write_bytes(data)
    return str(root)


def opened(name: str):
    return open_input([name], "text", None)


def whole(name: str):
    """All rows, what to go on with before the first and behind each, and what there is at the end."""
    reader = opened(name)
    rows, marks = [], []
    for row in reader.rows():
        rows.append(row)
        marks.append((json.loads(json.dumps(reader.position)), reader.digest))
    return rows, marks, (reader.position, reader.digest)


def told(rows):
    return [(row.number, row.id, row.text, str(row.error)) for row in rows]


@settings(max_examples=60)
@given(texts=contents, cut=st.integers(0, 100), packed=st.sampled_from(["", ".gz", ".zst"]))
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_going_on_anywhere_gives_the_rest_and_the_same_digest(tmp_path_factory, kind, texts, cut, packed):
    name = folder(tmp_path_factory.mktemp("in"), kind, texts, packed)
    try:
        rows, marks, end = whole(name)
    except InvalidFile:  # no column of that name: nothing to go on with
        assert kind != "csv"
        return
    if not rows:
        return
    cut %= len(rows)
    reader = opened(name)
    assert told(reader.rows(*marks[cut])) == told(rows[cut + 1 :])
    assert (reader.position, reader.digest) == end
    assert list(opened(name).rows(*end)) == []


@settings(max_examples=60)
@given(texts=contents, cut=st.integers(0, 100), where=st.integers(0, 1000), flip=st.integers(1, 127))
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_prefix_that_changed_is_refused(tmp_path_factory, kind, texts, cut, where, flip):
    root = tmp_path_factory.mktemp("in")
    name = folder(root, kind, texts)
    try:
        rows, marks, _ = whole(name)
    except InvalidFile:
        return
    if not rows:
        return
    position, digest = marks[cut % len(rows)]
    path = root / f"{position['source']}.{kind}"
    data = bytearray(path.read_bytes())
    skipped = 3 * data.startswith(b"\xef\xbb\xbf")  # the byte order mark
    data[skipped + where % position["at"]] ^= flip
    path.write_bytes(data)
    with pytest.raises(InvalidFile):
        list(opened(name).rows(position, digest))


@settings(max_examples=60)
@given(text=content, more=content)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_input_that_grew_goes_on_or_is_refused_for_its_last_line(tmp_path_factory, kind, text, more):
    root = tmp_path_factory.mktemp("in")
    name = folder(root, kind, [text])
    try:
        rows, _, (position, digest) = whole(name)
    except InvalidFile:
        return
    (root / f"0.{kind}").write_bytes((root / f"0.{kind}").read_bytes() + more.encode())
    try:
        found = list(opened(name).rows(position, digest))
        everything = told(whole(name)[0])
    except InvalidFile:
        return
    if not any(row.error and "unexpected end" in row.error.message for row in rows):  # a quote that grew has closed
        assert told(rows) + told(found) == everything


def test_a_last_line_that_was_not_complete_is_refused_when_it_grew(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}')
    _, marks, end = whole(str(path))
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}')
    assert told(opened(str(path)).rows(*end)) == [(3, "3", "c", "None")]
    path.write_text('{"text": "a"}\n{"text": "b"}{"text": "c"}')
    with pytest.raises(InvalidFile, match="in.jsonl: the input is not the one .* differs before row 3"):
        list(opened(str(path)).rows(*end))
    assert len(list(opened(str(path)).rows(*marks[0]))) == 1


def test_new_files_behind_are_read_and_new_ones_before_refused(tmp_path):
    name = folder(tmp_path, "jsonl", ['{"text": "a"}\n', '{"text": "b"}\n'])
    _, _, end = whole(name)
    (tmp_path / "2.jsonl").write_text('{"text": "c"}\n')
    assert told(opened(name).rows(*end)) == [(3, "3", "c", "None")]
    (tmp_path / "00.jsonl").write_text('{"text": "d"}\n')
    with pytest.raises(InvalidFile, match="differs before row 3"):
        list(opened(name).rows(*end))


def test_rows_that_move_from_one_file_to_the_next_are_a_change(tmp_path):
    name = folder(tmp_path, "jsonl", ['{"text": "a"}\n', '{"text": "b"}\n{"text": "c"}\n'])
    _, marks, _ = whole(name)
    folder(tmp_path, "jsonl", ['{"text": "a"}\n{"text": "b"}\n', '{"text": "c"}\n'])
    with pytest.raises(InvalidFile, match="differs before row 3"):
        list(opened(name).rows(*marks[1]))


def test_files_that_are_gone_are_refused(tmp_path):
    name = folder(tmp_path, "jsonl", ['{"text": "a"}\n', '{"text": "b"}\n'])
    _, _, end = whole(name)
    (tmp_path / "1.jsonl").unlink()
    with pytest.raises(InvalidFile, match="differs before row 3"):
        list(opened(name).rows(*end))


def test_compression_and_encoding_do_not_change_the_digest(tmp_path):
    text = "id,text\n1,é\n2,🙂\n"
    found = set()
    for name, data, encoding in (
        ("a.csv", text.encode(), "utf-8"), ("b.csv", text.encode("utf-8-sig"), "utf-8"),
        ("c.csv.gz", gzip.compress(text.encode()), "utf-8"), ("d.csv.zst", zstd.compress(text.encode()), "utf-8"),
        ("e.csv", text.encode("utf-16"), "utf-8"), ("f.csv", text.encode("utf-16-be"), "utf-16-be"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        reader = open_input([str(tmp_path / name)], "text", encoding=encoding)
        assert [row.text for row in reader.rows()] == ["é", "🙂"]
        found.add(reader.digest)
    assert len(found) == 1


# ---- Parquet


@given(
    texts=st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=30),
    cut=st.integers(0, 100), changed=st.integers(0, 100),
)  # fmt: skip
def test_parquet_goes_on_anywhere_and_is_refused_where_it_changed(tmp_path_factory, texts, cut, changed):
    root = tmp_path_factory.mktemp("in")
    half = len(texts) // 2
    schema = {"text": pl.String, "n": pl.Int64}

    def write():
        for number, part in enumerate((texts[:half], texts[half:])):
            frame = pl.DataFrame({"text": part, "n": [*range(len(part))]}, schema=schema)
            frame.write_parquet(root / f"{number}.parquet", row_group_size=7)

    write()
    rows, marks, end = whole(str(root))
    cut, changed = cut % len(texts), changed % len(texts)
    reader = opened(str(root))
    assert told(reader.rows(*marks[cut])) == told(rows[cut + 1 :])
    assert (reader.position, reader.digest) == end
    texts[changed] = "another text"
    write()
    if changed <= cut:
        with pytest.raises(InvalidFile):
            list(opened(str(root)).rows(*marks[cut]))
    else:
        assert len(list(opened(str(root)).rows(*marks[cut]))) == len(texts) - cut - 1


@pytest.mark.parametrize("most", [1, 10**4, 10**6])
def test_parquet_files_with_cells_of_very_different_sizes_are_read_whole(tmp_path, monkeypatch, most):
    monkeypatch.setattr(parquet, "_BYTES", most)
    texts = ["x" * (10**6 if number % 50 == 20 else number) for number in range(200)]
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "in.parquet")
    assert [row.text for row in opened(str(tmp_path / "in.parquet"))] == texts


# ---- inputs that change while they are read


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_input_that_changes_while_it_is_read_is_refused_at_its_end(tmp_path, kind):
    path = tmp_path / f"in.{kind}"

    def write(texts):
        frame = pl.DataFrame({"text": texts})
        {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](path)

    texts = [f"text {number}" for number in range(3000)]
    write(texts)
    rows = opened(str(path)).rows()
    for _ in range(2500):
        next(rows)
    write(["changed", *texts[1:]])
    with pytest.raises(InvalidFile, match="differs before row|not a readable|cannot be read"):
        list(rows)


def test_an_input_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "some text"}\n' * 5000)
    reader = opened(str(path))
    rows = reader.rows()
    next(rows)
    os.truncate(path, 22 * 100)
    with pytest.raises(InvalidFile, match="differs before row"):
        list(rows)


def test_an_input_that_only_grows_while_it_is_read_is_read_on(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n' * 3)
    reader = opened(str(path))
    rows = reader.rows()
    next(rows)
    with path.open("a") as file:
        file.write('{"text": "b"}\n')
    seen = 1 + len(list(rows))
    assert seen + len(list(opened(str(path)).rows(reader.position, reader.digest))) == 4


# ---- rows that are too long


@settings(max_examples=60)
@given(
    texts=st.lists(st.sampled_from(["a", "b" * 30, '"', "\n", "\r", "\r\n", ","]), max_size=40), cut=st.integers(0, 99)
)
def test_going_on_behind_rows_that_are_too_long(tmp_path_factory, texts, cut):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_ROW", 50)
        name = folder(tmp_path_factory.mktemp("in"), "csv", ["".join(texts)])
        rows, marks, end = whole(name)
        if rows:
            cut %= len(rows)
            reader = opened(name)
            assert told(reader.rows(*marks[cut])) == told(rows[cut + 1 :])
            assert (reader.position, reader.digest) == end


def test_a_reader_may_be_read_again(tmp_path):
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text",), ("a",), ("b",)])
    reader = opened(str(path))
    reader.check()
    first, digest = told(reader.rows()), reader.digest
    assert told(reader.rows()) == first
    assert reader.digest == digest


# ---- memory


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet", "in.jsonl.gz", "in.csv.zst"])
def test_memory_does_not_grow_with_the_input(tmp_path, monkeypatch, name):
    monkeypatch.setattr(parquet, "_LARGEST", 500)

    def peak(rows: int) -> int:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        if name.endswith("parquet"):
            pl.DataFrame({"text": ["some text " * 5] * rows}).write_parquet(path)
        else:
            line = f"{'some text ' * 5}\n" if "csv" in name else f'{{"text": "{"some text " * 5}"}}\n'
            data = ("text\n" * ("csv" in name) + line * rows).encode()
            path.write_bytes({".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)(data))
        reader = opened(str(path))
        tracemalloc.start()
        try:
            assert sum(1 for _ in reader) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is only made once
    few, many = peak(6_000), peak(30_000)
    assert many < 1.1 * few + 100_000
