"""Files of labelled texts: every row is an item or is counted with its reason."""

from __future__ import annotations

import json

import polars as pl
import pytest

from guard.errors import InvalidFile
from guard.item import Kind
from guard.labelled import Columns, conflicts, read_labelled
from guard.policy import PolicyBook

POLICY = PolicyBook().get("forum-comments")


def csv(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_labels_kinds_context_and_groups(tmp_path):
    path = csv(tmp_path, "text,label,kind,prompt,parent,group,tags\nYou fool,insult,comment,,Hi,g1,slang;look-alike\n"
               "Hello,0,,,,,\nNo.,acceptable,,Tell me,,,\n")  # fmt: skip
    items = read_labelled(path).items
    assert [(one.label, one.item.kind) for one in items] == [
        ("insult", Kind.COMMENT), ("acceptable", Kind.PROMPT), ("acceptable", Kind.ANSWER),
    ]  # fmt: skip
    assert items[0].item.parent == "Hi" and items[0].group == "g1" and items[0].tags == ("slang", "look-alike")
    assert items[2].item.prompt == "Tell me"


def test_no_row_is_lost(tmp_path):
    path = csv(tmp_path, 'text,label\ngood,0\n"",1\nbad\nno label,\n"never closed,1\nfine,1\n')
    found = read_labelled(path)
    assert [one.item.text for one in found.items] == ["good", "fine"]
    assert [row for row, _ in found.skipped] == [2, 3, 4, 5] and all(reason for _, reason in found.skipped)


def test_jsonl_and_parquet_give_the_same(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": False}, {"text": "c", "label": "hate"}]
    lines = csv(tmp_path, "\n".join(map(json.dumps, rows)), "l.jsonl")
    pl.DataFrame([{**row, "label": str(row["label"])} for row in rows]).write_parquet(tmp_path / "l.parquet")
    as_lines, as_table = read_labelled(lines), read_labelled(tmp_path / "l.parquet")
    assert [one.label for one in as_lines.items] == ["unacceptable", "acceptable", "hate"]
    assert as_lines.hash == as_table.hash


def test_gold_under_a_policy(tmp_path):
    path = csv(tmp_path, "text,label\na,acceptable\nb,hate\nc,1\n")
    assert read_labelled(path).gold(POLICY) == ["acceptable", "hate", "unacceptable"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("text,label\na,hat\nb,hate\n", "knows no label 'hat'"),
        ("text,label\n", "holds no item"),
        ("text,gold\na,0\n", "no column 'label'"),
        ("body,label\na,0\n", "no column 'text'"),
    ],
)
def test_what_is_no_labelled_file_is_refused(tmp_path, text, problem):
    with pytest.raises(InvalidFile, match=problem):
        read_labelled(csv(tmp_path, text)).gold(POLICY)


def test_duplicate_ids_are_refused(tmp_path):
    with pytest.raises(InvalidFile, match="stand more than once: '7'"):
        read_labelled(csv(tmp_path, "id,text,label\n7,a,0\n7,b,1\n"), Columns(id="id"))


def test_the_same_text_stands_or_falls_together(tmp_path):
    found = read_labelled(csv(tmp_path, "text,label\na,0\na,1\nb,0\n"))
    assert found.groups()[0] == found.groups()[1] != found.groups()[2]
    assert conflicts(found.items) == ["1", "2"]


def test_the_hash_is_over_texts_and_labels(tmp_path):
    first = read_labelled(csv(tmp_path, "text,label\na,0\nb,1\n")).hash
    assert first == read_labelled(csv(tmp_path, "text,label\na,0\nb,1\n", "other.csv")).hash
    assert first != read_labelled(csv(tmp_path, "text,label\na,0\nb,0\n")).hash
    assert first != read_labelled(csv(tmp_path, "text,label\na,0\nc,1\n")).hash
