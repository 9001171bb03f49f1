import csv
import json
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import InvalidFile, InvalidItem
from guard.scan import lines, parquet
from guard.scan.readers import open_reader

anything = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\t\n\r\0;\ufeff🙂é\u2028\x85\x1b'))
rows_of_text = st.lists(st.tuples(anything, anything), max_size=8)
relaxed = settings(deadline=None, max_examples=150)


def read(path, text="text", id_=None):
    return list(open_reader(path, text, id_))


def pairs(path):
    rows = read(path, "text", "id")
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert all(row.error is None for row in rows)
    return [(row.id, row.text) for row in rows]


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- round trips


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
@pytest.mark.parametrize("bom", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
@relaxed
@given(rows=rows_of_text)
def test_csv_gives_back_what_was_written(tmp_path_factory, suffix, delimiter, bom, ending, rows):
    path = tmp_path_factory.mktemp("csv") / f"in{suffix}"
    with path.open("w", encoding=bom, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "other", "text"), *((a, "x", b) for a, b in rows)])
    assert pairs(path) == rows


@relaxed
@given(rows=rows_of_text, escaped=st.booleans(), ending=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_jsonl_gives_back_what_was_written(tmp_path_factory, rows, escaped, ending):
    path = tmp_path_factory.mktemp("jsonl") / "in.jsonl"
    lines = [json.dumps({"id": a, "text": b}, ensure_ascii=escaped) + ending for a, b in rows]
    path.write_bytes("".join(lines).encode())
    assert pairs(path) == rows


@relaxed
@given(rows=rows_of_text)
def test_parquet_gives_back_what_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("parquet") / "in.parquet"
    schema = {"id": pl.String, "text": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    assert pairs(path) == rows


@relaxed
@given(content=st.binary(max_size=200) | st.text(st.sampled_from('",\n\rab\0'), max_size=60).map(str.encode))
@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_no_content_breaks_a_reader(tmp_path_factory, name, content):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content if name != "in.csv" else b"id,text\n" + content)
    try:
        rows = read(path)
    except InvalidFile:
        assert name == "in.parquet"
    else:
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))


# ---- CSV


def test_quotes_hold_newlines_and_a_bom_is_no_part_of_the_header(tmp_path):
    path = written(tmp_path, "in.csv", '\ufeffid,text\r\n7,"a\r\n""b"",\n🙂"\r\n8,c')
    assert pairs(path) == [("7", 'a\r\n"b",\n🙂'), ("8", "c")]


def test_invalid_utf8_is_replaced_and_nul_survives(tmp_path):
    for name, content in [("in.csv", b"text\na\xff\0b\n"), ("in.jsonl", b'{"text": "a\xff\0b"}\n')]:
        assert [row.text for row in read(written(tmp_path, name, content))] == ["a�\0b"]


def test_empty_lines_of_a_csv_are_no_rows(tmp_path):
    assert [row.text for row in read(written(tmp_path, "in.csv", "\n\ntext\n\na\n\n\nb\n\n"))] == ["a", "b"]


def test_a_ragged_row_keeps_its_place_and_its_characters(tmp_path):
    rows = read(written(tmp_path, "in.csv", 'id,text\n1,a\n2,"b,",c\n3\n4,d\n'), "text", "id")
    assert [(row.number, row.id, row.text) for row in rows] == [
        (1, "1", "a"), (2, "", '2,"b,",c'), (3, "", "3"), (4, "4", "d"),
    ]  # fmt: skip
    assert isinstance(rows[1].error, InvalidItem)
    assert rows[1].error.message == "Row 2 cannot be judged: it has 3 cells and the header 2."
    assert rows[2].error.message == "Row 3 cannot be judged: it has 1 cells and the header 2."
    assert rows[0].error is rows[3].error is None


@pytest.mark.parametrize("tail", ["4,d\n5,e\n", '4,d\n5,"e"\n'])
def test_a_quote_that_is_never_closed_takes_one_line_and_no_more(tmp_path, tail):
    rows = read(written(tmp_path, "in.csv", 'id,text\n1,a\n2,"b\n3,c\n' + tail), "text", "id")
    assert [row.text for row in rows] == ["a", '2,"b', "c", "d", "e"]
    assert [row.error is None for row in rows] == [True, False, True, True, True]


def test_characters_after_a_closing_quote_are_an_error(tmp_path):
    rows = read(written(tmp_path, "in.csv", 'text\n"a"b\nc\n'))
    assert [(row.text, row.error is None) for row in rows] == [('"a"b', False), ("c", True)]


@pytest.mark.parametrize("long", ["x" * 250, '"' + "y\n" * 125], ids=["line", "quote"])
def test_a_row_that_does_not_end_is_cut_off(tmp_path, monkeypatch, long):
    monkeypatch.setattr(lines, "MAX_ROW", 100)
    rows = read(written(tmp_path, "in.csv", f"text\na\n{long}\nb\n"))
    assert [row.text for row in rows if row.error is None][0] == "a"
    assert [row.text for row in rows if row.error is None][-1] == "b"
    assert "longer than 100 bytes" in rows[1].error.message
    assert len(rows[1].text) <= 100


def test_a_cell_may_be_longer_than_pythons_usual_limit(tmp_path):
    assert read(written(tmp_path, "in.csv", "text\n" + "x" * 200_000))[0].text == "x" * 200_000


def test_without_an_id_column_the_row_number_is_the_id(tmp_path):
    rows = read(written(tmp_path, "in.csv", "text,b\nx,\ny\nz,\n"))
    assert [(row.id, row.error is None) for row in rows] == [("1", True), ("2", False), ("3", True)]


def test_ids_of_a_csv_keep_every_character(tmp_path):
    rows = read(written(tmp_path, "in.csv", 'id,text\n007,a\n 1.10 ,b\n=1+1,c\n"",d\n'), "text", "id")
    assert [row.id for row in rows] == ["007", " 1.10 ", "=1+1", ""]


# ---- JSONL


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a"', "not valid JSON: Expecting ',' delimiter at character 13"),
        ("[1]", "it is a list, not an object"),
        ('"text"', "it is a string, not an object"),
        ("null", "it is null, not an object"),
        ("12", "it is a number, not an object"),
        ('{"text": 12}', "'text' is a number, not a string"),
        ('{"text": null}', "'text' is null, not a string"),
        ('{"text": true}', "'text' is a boolean, not a string"),
        ('{"text": ["a"]}', "'text' is a list, not a string"),
        ('{"text": {}}', "'text' is an object, not a string"),
        ('{"t": "a"}', "'text' is missing"),
        ("[" * 100_000, "its JSON is nested too deeply"),
    ],
)
def test_a_broken_line_keeps_its_place(tmp_path, line, problem):
    rows = read(written(tmp_path, "in.jsonl", f'{{"text": "a"}}\n{line}\n{{"text": "b"}}'))
    assert [row.number for row in rows] == [1, 2, 3]
    assert (rows[0].text, rows[1].text, rows[2].text) == ("a", line, "b")
    assert problem in rows[1].error.message
    assert rows[0].error is rows[2].error is None


def test_ids_of_a_jsonl_keep_their_spelling(tmp_path):
    ids = ["12345678901234567890123", "1.10", "1e3", "true", "null", '"007"', '"\\ud800"', "9" * 5000]
    lines = "".join(f'{{"id": {id_}, "text": "x"}}\n' for id_ in ids) + '{"text": "x"}\n'
    rows = read(written(tmp_path, "in.jsonl", lines), "text", "id")
    assert [row.id for row in rows] == [
        "12345678901234567890123", "1.10", "1e3", "true", "", "007", "\ufffd", "9" * 5000, "",
    ]  # fmt: skip
    assert all(row.error is None for row in rows)


def test_a_line_without_end_is_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_ROW", 100)
    rows = read(written(tmp_path, "in.jsonl", '{"text": "a"}\n{"text": "' + "x" * 500 + '"}\n{"text": "b"}\n'))
    assert [row.text for row in rows] == ["a", '{"text": "' + "x" * 90, "b"]
    assert "longer than 100 bytes" in rows[1].error.message


def test_a_key_may_be_missing_in_the_first_lines(tmp_path):
    rows = read(written(tmp_path, "in.ndjson", '\ufeff{"a": 1}\n{"text": "b"}\n'))
    assert [(row.id, row.text, row.error is None) for row in rows] == [("1", '{"a": 1}', False), ("2", "b", True)]


# ---- Parquet


def test_parquet_is_read_in_slices_and_keeps_its_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_LARGEST", 7)
    path = tmp_path / "brackets[1].parquet"  # a pattern, were it taken for one
    texts = [f"t{i}" for i in range(50)]
    pl.DataFrame({"text": texts}).write_parquet(path, row_group_size=20)
    assert [(row.id, row.text) for row in read(path)] == [(str(i + 1), text) for i, text in enumerate(texts)]


def test_names_of_columns_are_no_patterns(tmp_path):
    pl.DataFrame({"^t.*$": ["a"], "*": ["b"], "text": ["c"]}).write_parquet(path := tmp_path / "in.parquet")
    assert [(row.id, row.text) for row in read(path, "^t.*$", "*")] == [("b", "a")]


def test_ids_of_every_type_become_strings(tmp_path):
    frame = pl.DataFrame({"text": ["a", "b"], "int": [2**60, None], "bool": [True, None], "bytes": [b"\xff1", None]})
    frame = frame.with_columns(pl.Series("when", ["2026-01-02", None]).str.to_date())
    frame.write_parquet(path := tmp_path / "in.parquet")
    for name, expected in [("int", str(2**60)), ("bool", "true"), ("bytes", "�1"), ("when", "2026-01-02")]:
        assert [row.id for row in read(path, "text", name)] == [expected, ""]


def test_null_is_an_error_and_bytes_are_text(tmp_path):
    pl.DataFrame({"text": [b"a\xff", None, b"c"]}).write_parquet(path := tmp_path / "in.parquet")
    rows = read(path)
    assert [row.text for row in rows] == ["a�", "", "c"]
    assert rows[1].error.message == "Row 2 cannot be judged: 'text' is null."


def test_categories_are_text_and_numbers_are_not(tmp_path):
    frame = pl.DataFrame({"text": ["a", "b"], "n": [1, 2]}, schema_overrides={"text": pl.Categorical})
    frame.write_parquet(path := tmp_path / "in.parquet")
    assert [row.text for row in read(path)] == ["a", "b"]
    with pytest.raises(InvalidFile, match="column 'n' holds Int64, not text"):
        read(path, "n")


def test_a_damaged_parquet_file_is_refused_or_read_but_never_crashes(tmp_path):
    path = tmp_path / "in.parquet"
    pl.DataFrame({"id": range(500), "text": [f"some text {i}" for i in range(500)]}).write_parquet(path)
    whole, chance, refused = path.read_bytes(), random.Random(1), 0
    for _ in range(60):
        damaged = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(5)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path, "text", "id")
        except InvalidFile as error:
            assert str(path) in error.message
            refused += 1
    assert refused > 20


# ---- files that cannot be read


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.csv", "a,b\n1,2\n"), ("in.tsv", "a\tb\n1\t2\n"), ("in.jsonl", '{"a": 1}\n{"b": 2}\n'), ("in.parquet", None)],
)
@pytest.mark.parametrize(("text", "id_", "missing"), [("text", None, "text"), ("a", "key", "key")])
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path, name, content, text, id_, missing):
    path = tmp_path / name
    if content is None:
        pl.DataFrame({"a": ["1"], "b": ["2"]}).write_parquet(path)
    else:
        path.write_text(content)
    with pytest.raises(InvalidFile) as caught:
        open_reader(path, text, id_).check()
    assert f"there is no column '{missing}'" in caught.value.message
    assert caught.value.hint == "The columns are: 'a', 'b'."


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("in.csv", "", "no column 'text'"),
        ("in.csv", '"text\n', "the header cannot be read"),
        ("in.csv", "text,text\na,b\n", "the column 'text' stands twice"),
        ("in.parquet", "", "not a readable Parquet file"),
        ("in.parquet", "PAR1 no more", "not a readable Parquet file"),
        ("in.xlsx", "", "not a known kind of file"),
        ("in", "", "not a known kind of file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, problem):
    with pytest.raises(InvalidFile, match=problem):
        open_reader(written(tmp_path, name, content), "text").check()


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name):
    with pytest.raises(InvalidFile, match="no such file"):
        open_reader(tmp_path / name, "text")
    (tmp_path / name).mkdir()
    with pytest.raises(InvalidFile, match="no such file"):
        open_reader(tmp_path / name, "text")


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_a_file_that_goes_away_is_refused(tmp_path, name):
    path = written(tmp_path, name, "text\n")
    reader = open_reader(path, "text")
    path.unlink()
    with pytest.raises(InvalidFile):
        reader.check()


def test_the_suffix_may_be_in_capitals(tmp_path):
    assert read(written(tmp_path, "IN.CSV", "text\na\n"))[0].text == "a"


@pytest.mark.parametrize(
    ("name", "line"), [("in.csv", b"x" * 99 + b"\n"), ("in.jsonl", b'{"text": "' + b"x" * 87 + b'"}\n')]
)
def test_the_share_that_is_read_grows_to_one(tmp_path, name, line):
    path = written(tmp_path, name, (b"text\n" if name == "in.csv" else b"") + line * 2000)
    reader = open_reader(path, "text")
    shares = [reader.share for _ in reader]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert 0.4 < shares[1000] < 0.6
    assert reader.share == 1.0
