from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import polars as pl
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import InvalidFile
from guard.scan import streams
from guard.scan.readers import open_input
from guard.scan.streams import Stream, known_encoding, shown

PACKERS = {".gz": gzip.compress, ".zst": zstd.compress}
relaxed = settings(max_examples=40)


def unpacked(path):
    return b"".join(Stream(str(path)).pieces())


def read(name, **said):
    reader = open_input([str(name)], "text", **said)
    reader.check()
    return [row.text for row in reader]


# ---- compression


@relaxed
@given(parts=st.lists(st.binary(max_size=300) | st.integers(0, 2**18).map(bytes), min_size=1, max_size=4))
@pytest.mark.parametrize("suffix", PACKERS)
def test_files_of_several_members_are_read_whole(tmp_path_factory, suffix, parts):
    path = tmp_path_factory.mktemp("in") / f"in.jsonl{suffix}"
    path.write_bytes(b"".join(map(PACKERS[suffix], parts)))
    whole = b"".join(parts)
    marks = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", ""), (b"\xfe\xff", ""), (b"\x00\x00\xfe\xff", ""))
    if not whole.startswith(tuple(mark for mark, _ in marks)):
        assert unpacked(path) == whole


def test_padding_behind_a_gzip_file_is_none_of_it(tmp_path):
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"text") + bytes(40_000))
    assert unpacked(tmp_path / "in.gz") == b"text"


@relaxed
@given(lines=st.integers(1, 3000), cut=st.floats(0, 1, exclude_max=True))
@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_is_cut_off_gives_its_rows_and_then_an_error(tmp_path_factory, suffix, lines, cut):
    path = tmp_path_factory.mktemp("in") / f"in.jsonl{suffix}"
    texts = [str(zlib.crc32(b"%d" % number)) for number in range(lines)]
    packed = PACKERS[suffix]("".join(f'{{"text": "{text}"}}\n' for text in texts).encode())
    path.write_bytes(packed[: int(len(packed) * cut)])
    seen = []
    reader = open_input([str(path)], "text")
    with pytest.raises(InvalidFile, match=r"cannot be read.*cut off in the middle of its compressed data"):
        for row in reader:
            seen.append(row.text)
    assert seen == texts[: len(seen)]
    if suffix == ".gz":  # zstd gives whole blocks only
        assert len(seen) >= (cut - 0.1) * lines - 200
    mark = reader.position, reader.digest
    path.write_bytes(packed)
    assert [row.text for row in open_input([str(path)], "text").rows(*mark)] == texts[len(seen) :]


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_is_not_compressed_is_not_taken_for_it(tmp_path, suffix):
    (tmp_path / f"in.csv{suffix}").write_bytes(b"text\na\n")
    with pytest.raises(InvalidFile, match="its compressed data is damaged"):
        read(tmp_path / f"in.csv{suffix}")


@pytest.mark.parametrize("suffix", PACKERS)
def test_damage_in_the_middle_is_told_with_the_row(tmp_path, suffix):
    texts = [str(zlib.crc32(b"%d" % number)) for number in range(50_000)]
    content = "".join(f'{{"text": "{text}"}}\n' for text in texts).encode()
    packed = bytearray(
        gzip.compress(content)
        if suffix == ".gz"
        else zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})
    )
    packed[-2] ^= 1  # of the check sum
    (tmp_path / f"in.jsonl{suffix}").write_bytes(packed)
    seen = []
    with pytest.raises(InvalidFile, match=r"cannot be read after row \d+: its compressed data is damaged"):
        for row in open_input([str(tmp_path / f"in.jsonl{suffix}")], "text"):
            seen.append(row.text)
    assert len(seen) > 30_000
    assert seen == texts[: len(seen)]


def test_dumps_with_the_longest_window_are_read(tmp_path):
    # a window is only allocated as far as there is content, so that this needs no 2 GiB
    options = {zstd.CompressionParameter.window_log: 31, zstd.CompressionParameter.enable_long_distance_matching: 1}
    packer = zstd.ZstdCompressor(options=options)
    packed = b"".join([packer.compress(b'{"body": "a"}\n'), packer.compress(b'{"body": "b"}\n'), packer.flush()])
    (tmp_path / "RC_2023-01.zst").write_bytes(packed)
    assert [row.text for row in open_input([str(tmp_path / "RC_2023-01.zst")], "body", format="reddit")] == ["a", "b"]


def test_a_small_file_that_holds_a_large_one_is_inflated_bit_by_bit(tmp_path):
    for suffix, packer in PACKERS.items():
        (tmp_path / f"in{suffix}").write_bytes(packer(bytes(50 * 2**20)))
        sizes = [len(piece) for piece in Stream(str(tmp_path / f"in{suffix}")).pieces()]
        assert sum(sizes) == 50 * 2**20
        assert max(sizes) <= streams._INFLATED + 4


def test_what_other_programs_compress_is_read(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n' * 1000)
    subprocess.run(["gzip", "-k", "in.jsonl"], cwd=tmp_path, check=True)
    assert read(tmp_path / "in.jsonl.gz") == ["a"] * 1000


# ---- encodings


@relaxed
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff"), min_size=1))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"])
def test_encodings_are_read_by_their_name_or_mark(tmp_path_factory, encoding, text):
    path = tmp_path_factory.mktemp("in") / "in.tsv"
    path.write_bytes(f'n\ttext\n1\t"{text.replace(chr(34), chr(34) * 2)}"\n'.encode(encoding))
    assert read(path, encoding=encoding) == [text]
    if encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert read(path) == read(path, encoding="cp1252") == [text]


def test_bytes_that_are_not_of_the_encoding_are_replaced(tmp_path):
    (tmp_path / "in.csv").write_bytes(b"text\n\x80\x81\n")
    assert read(tmp_path / "in.csv", encoding="cp1252") == ["€�"]
    assert read(tmp_path / "in.csv") == ["��"]
    (tmp_path / "in.csv").write_bytes("text\na".encode("utf-16-le") + b"\x00")
    assert read(tmp_path / "in.csv", encoding="UTF-16LE") == ["a�"]


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "hex", "", "idna", "undefined", "a\0b"])
def test_an_unknown_encoding_is_refused(name):
    with pytest.raises(InvalidFile, match="is not a known encoding"):
        known_encoding(name)


# ---- elsewhere


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_object_stores_are_read_as_folders_patterns_and_files(memory):
    memory.pipe("/forum/b.csv", b"text\nb\n")
    memory.pipe("/forum/deep/a.jsonl.gz", gzip.compress(b'{"text": "deep"}\n'))
    memory.pipe("/forum/a.csv", b"text\na\n")
    memory.pipe("/forum/_SUCCESS", b"")
    assert read("memory://forum") == read("memory://forum/") == ["a", "b", "deep"]
    assert read("memory://forum/*.csv") == ["a", "b"]
    assert read("memory://forum/b.csv") == ["b"]
    frame = pl.DataFrame({"text": ["p", "q"]})
    with memory.open("/forum/c.parquet", "wb") as file:
        frame.write_parquet(file)
    assert read("memory://forum/c.parquet") == ["p", "q"]
    for name in ("memory://forum/none.csv", "memory://none/*.csv"):
        with pytest.raises(InvalidFile, match="no such file"):
            read(name)


def test_a_file_elsewhere_that_changes_while_it_is_read_is_refused(memory):
    memory.pipe("/in.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    rows = open_input(["memory://in.jsonl"], "text").rows()
    next(rows)
    memory.pipe("/in.jsonl", b'{"text": "c"}\n{"text": "b"}\n')
    with pytest.raises(InvalidFile, match="memory://in.jsonl: the input is not the one"):
        list(rows)


def test_urls_of_this_machine_are_read(tmp_path):
    (tmp_path / "in.csv").write_text("text\na\n")
    assert read(f"file://{tmp_path}/in.csv") == read(f"file://{tmp_path}") == ["a"]


def test_files_of_a_web_server_are_read(tmp_path):
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(b"text\na\nb\n"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert read(f"http://127.0.0.1:{server.server_port}/in.csv.gz") == ["a", "b"]
            with pytest.raises(InvalidFile, match="no such file"):
                read(f"http://127.0.0.1:{server.server_port}/none.csv")
        finally:
            server.shutdown()


def test_urls_that_nobody_knows_are_refused(monkeypatch):
    with pytest.raises(InvalidFile, match="nowhere://host/in.csv: not a URL that can be read"):
        read("nowhere://u:secret@host/in.csv?secret")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InvalidFile, match=r"s3://bucket/in.csv: a package is missing .*guard-moderation\[remote\]"):
        read("s3://key:secret@bucket/in.csv")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@host/db", "postgresql://host/db"),
        ("postgresql://u:p/w?x#y@host/db?password=p", "postgresql://host/db"),
        ("postgresql://u:p@w@host/db", "postgresql://host/db"),
        ("postgresql://u@host/db", "postgresql://host/db"),
        ("https://host:8080/a/b.csv?Signature=secret#x", "https://host:8080/a/b.csv"),
        ("s3://bucket/a@b.csv", "s3://bucket/a@b.csv"),
        ("sqlite:///forum.db", "sqlite:///forum.db"),
        ("a?b@c.csv", "a?b@c.csv"),
    ],
)
def test_nothing_secret_is_shown(url, expected):
    assert shown(url) == expected
