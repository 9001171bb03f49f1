import json

import pytest

from guard.errors import InvalidFile
from guard.scan import blocks as module
from guard.scan.blocks import Mark, blocks
from guard.scan.columns import Columns
from guard.scan.readers import open_input

COLUMNS = Columns(id="id", parent_id="to")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "CHARACTERS", 100)
    monkeypatch.setattr(module, "WINDOW", 2)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "in.jsonl"


def write(source, texts, to=None):
    to = to or {}
    lines = [{"id": f"c{i}", "text": text, "to": to.get(i)} for i, text in enumerate(texts)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))


def reader(source):
    return open_input([str(source)], "text", "id", COLUMNS.more)


def shape(found):
    return [(block.number, [comment.number for comment in block.comments], block.last) for block in found]


def test_blocks_are_bounded_by_rows_and_by_characters(source):
    write(source, ["x"] * 9 + ["y" * 60] * 2 + ["z" * 200] + ["x"])
    assert shape(blocks(reader(source), COLUMNS)) == [
        (0, [1, 2, 3, 4], False),
        (1, [5, 6, 7, 8], False),
        (2, [9, 10, 11], False),
        (3, [12], False),
        (4, [13], True),
    ]


@pytest.mark.parametrize(("rows", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])])
def test_the_last_block_is_known_to_be_the_last(source, rows, sizes):
    write(source, ["x"] * rows)
    found = list(blocks(reader(source), COLUMNS))
    assert [len(block.comments) for block in found] == sizes
    assert [block.last for block in found] == [False] * (len(sizes) - 1) + [True] * bool(sizes)


def test_from_any_block_the_rest_is_the_same(source):
    write(source, [f"text {i}" for i in range(23)])
    whole = list(blocks(reader(source), COLUMNS))
    assert len({block.digest for block in whole}) == len(whole) == 6
    for block in whole:
        rest = list(blocks(reader(source), COLUMNS, block.number + 1, Mark(block.end, block.digest)))
        assert rest == whole[block.number + 1 :]


def test_another_beginning_is_refused(source):
    write(source, [f"text {i}" for i in range(9)])
    first = next(blocks(reader(source), COLUMNS))
    write(source, ["changed"] + [f"text {i}" for i in range(1, 9)])
    with pytest.raises(InvalidFile, match="not the one"):
        list(blocks(reader(source), COLUMNS, 1, Mark(first.end, first.digest)))


def test_a_parent_is_found_by_its_id_in_its_own_block_and_in_the_window_before(source):
    to = {1: "c0", 2: "c7", 5: "c0", 11: "c0", 12: "c0", 13: "c4", 14: "c99", 15: "c15"}
    write(source, [f"text {i}" for i in range(16)], to)
    found = {c.number - 1: c.parent for block in blocks(reader(source), COLUMNS) for c in block.comments}
    assert {i: parent for i, parent in found.items() if parent} == {
        1: "text 0", 5: "text 0", 11: "text 0", 13: "text 4",
    }  # fmt: skip


def test_the_window_that_is_read_before_gives_the_same_parents(source):
    write(source, [f"text {i}" for i in range(24)], {i: f"c{i - 7}" for i in range(7, 24)})
    whole = list(blocks(reader(source), COLUMNS))
    for first in range(3, len(whole)):
        before = whole[first - 3]
        rest = list(blocks(reader(source), COLUMNS, first - 2, Mark(before.end, before.digest)))
        assert rest[2:] == whole[first:]


def test_of_a_long_parent_a_prompts_worth_is_kept(source, monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS", 10**6)
    write(source, ["y" * 5000, "x"], {1: "c0"})
    (block,) = blocks(reader(source), COLUMNS)
    assert block.comments[1].parent == "y" * 4096
