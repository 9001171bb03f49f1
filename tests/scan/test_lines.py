from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.scan import lines
from guard.scan.lines import Lines
from guard.scan.readers import open_input

pieces = st.lists(
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\0"]), max_size=8).map(b"".join), max_size=8
)


def slowly(data, returns):
    """Byte by byte."""
    found, line = [], b""
    for at in range(len(data)):
        line += data[at : at + 1]
        followed = data[at + 1 : at + 2] == b"\n"
        if line.endswith(b"\n") or (returns and line.endswith(b"\r") and not followed):
            found.append(line)
            line = b""
    return [*found, line] if line else found


@given(pieces=pieces, returns=st.booleans())
def test_lines_are_the_same_however_they_come_in_pieces(pieces, returns):
    assert list(Lines(iter(pieces), returns=returns)) == slowly(b"".join(pieces), returns)


@given(pieces=pieces, returns=st.booleans(), taken=st.integers(0, 9), data=st.data())
def test_what_is_skipped_is_hashed_and_the_rest_comes_in_lines(pieces, returns, taken, data):
    whole = b"".join(pieces)
    found = Lines(iter(pieces), returns=returns)
    first = [line for _, line in zip(range(taken), found, strict=False)]
    found.back(first[1:])  # and are skipped as those that were never given
    first = first[:1]
    begun = sum(map(len, first))
    ends = [0]
    for line in slowly(whole[begun:], returns):
        ends.append(ends[-1] + len(line))
    size = data.draw(st.sampled_from(ends))
    seal = hashlib.blake2b()
    assert found.skip(seal, size) == size
    assert seal.digest() == hashlib.blake2b(whole[begun : begun + size]).digest()
    assert list(found) == slowly(whole[begun + size :], returns)


@given(pieces=pieces, most=st.integers(1, 5))
def test_long_lines_come_in_pieces_that_make_up_the_whole(pieces, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_ROW", most)
        found = list(Lines(iter(pieces), returns=False))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(line) <= most for line in found)
    expected = [line[at : at + most] for line in slowly(b"".join(pieces), False) for at in range(0, len(line), most)]
    assert found == expected


def test_skipping_more_than_there_is_says_how_much_there_was():
    assert Lines(iter([b"ab\n", b"c"]), returns=True).skip(hashlib.blake2b(), 10) == 4


def test_cells_of_ten_megabytes_are_read(tmp_path):
    cell = "0123456789" * 10**6
    (tmp_path / "in.csv").write_text(f'text\n"{cell}\n"\nb\n')
    (tmp_path / "in.jsonl").write_text(f'{{"text": "{cell}\\n"}}\n{{"text": "b"}}\n')
    for name in ("in.csv", "in.jsonl"):
        assert [row.text for row in open_input([str(tmp_path / name)], "text")] == [f"{cell}\n", "b"]
