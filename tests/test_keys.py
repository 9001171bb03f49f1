"""Keys in a file: real files, threads and processes."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from guard.errors import InvalidRequest, InvalidSettings
from guard.keys import Fail, Key, KeyBook, Mode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite"


@pytest.fixture
def book(path: Path) -> Iterator[KeyBook]:
    with KeyBook(path) as opened:
        yield opened


def test_a_secret_finds_its_key_and_nothing_else_does(book: KeyBook):
    key, secret = book.create("forum")
    other, _ = book.create("other")
    assert re.fullmatch(rf"gk_{key.id}_[A-Za-z0-9_-]{{43}}", secret)
    assert book.find(secret) == key != other
    last = "A" if secret[-1] != "A" else "B"
    for wrong in (secret[:-1] + last, secret.replace(key.id, other.id), secret + "A", secret[:-1], f" {secret}", ""):
        assert book.find(wrong) is None
    for odd in ("none", "gk__", "\0", "\udcff", "gk_' OR 1=1 --_x", "é" * 60):
        assert book.find(odd) is None


def test_a_key_keeps_what_was_said_of_it(book: KeyBook):
    plain, _ = book.create("plain")
    made, secret = book.create(
        "forum", policy="mistral-9", categories=["pii", "hate"], requests_per_minute=5, tokens_per_minute=700,
        mode=Mode.SHADOW, fail=Fail.OPEN,
    )  # fmt: skip
    assert book.find(secret) == made and list(book.list()) == [plain, made]
    assert (made.categories, made.mode, made.fail, made.revoked) == (("pii", "hate"), "shadow", "open", None)
    assert (plain.policy, plain.categories, plain.mode, plain.fail) == (None, None, "enforce", "closed")
    assert made.created.tzinfo is not None and abs(datetime.now(UTC) - made.created) < timedelta(minutes=1)
    with pytest.raises(ValidationError):
        made.name = "x"  # type: ignore[misc]
    for wrong in ({"requests_per_minute": 0}, {"tokens_per_minute": -1}):
        with pytest.raises(ValidationError):
            book.create("x", **wrong)  # type: ignore[arg-type]


def test_a_revoked_key_is_not_found_and_stays_in_the_list(book: KeyBook):
    key, secret = book.create("forum")
    book.revoke(key.id)
    assert book.find(secret) is None
    (listed,) = book.list()
    assert listed.revoked is not None and listed.revoked >= key.created
    book.revoke(key.id)
    assert list(book.list()) == [listed], "the first time stands"
    with pytest.raises(InvalidRequest, match="no key 'nope'"):
        book.revoke("nope")


def test_the_file_holds_no_secret_and_is_its_owners_alone(book: KeyBook, path: Path):
    _, secret = book.create("forum")
    files = list(path.parent.iterdir())
    assert path in files and len(files) > 1, "the write-ahead log stands beside it"
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        assert secret.rpartition("_")[2].encode() not in file.read_bytes()


_REVOKE = """
import sys
from pathlib import Path
from guard.keys import KeyBook
KeyBook(Path(sys.argv[1])).revoke(sys.argv[2])
"""
_CREATE = """
import sys
from pathlib import Path
from guard.keys import KeyBook
with KeyBook(Path(sys.argv[1])) as book:
    for i in range(20):
        book.create(f"{sys.argv[2]}-{i}")
"""


def test_what_another_process_revokes_counts_at_once(book: KeyBook, path: Path):
    key, secret = book.create("forum")
    assert book.find(secret) == key
    subprocess.run([sys.executable, "-c", _REVOKE, str(path), key.id], check=True, timeout=60)
    assert book.find(secret) is None


def test_processes_that_meet_a_new_file_lose_nothing(path: Path):
    processes = [subprocess.Popen([sys.executable, "-c", _CREATE, str(path), str(i)]) for i in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    with KeyBook(path, must_exist=True) as book:
        assert len({key.name for key in book.list()}) == 80


def test_threads_share_a_book(book: KeyBook):
    def made_and_found(i: int) -> Key | None:
        key, secret = book.create(str(i))
        book.revoke(book.create("gone")[0].id)
        return book.find(secret) if book.find(secret) == key else None

    with ThreadPoolExecutor(8) as pool:
        assert [key.name for key in pool.map(made_and_found, range(40)) if key] == [str(i) for i in range(40)]


def test_threads_that_open_a_new_file_at_once(path: Path):
    with ThreadPoolExecutor(8) as pool:
        books = list(pool.map(lambda _: KeyBook(path), range(8)))
    _, secret = books[0].create("forum")
    assert all(book.find(secret) for book in books)
    for book in books:
        book.close()


def test_what_is_no_file_of_keys_is_refused(path: Path, tmp_path: Path):
    def refused(at: Path, must_exist: bool = False) -> str:
        with pytest.raises(InvalidSettings) as error:
            KeyBook(at, must_exist=must_exist)
        assert str(at) in error.value.message and "guard keys create" in error.value.hint
        return error.value.message

    assert "no file of keys" in refused(path, must_exist=True) and not path.exists()
    refused(tmp_path)
    refused(tmp_path / "no" / "folder" / "keys.sqlite")
    path.write_text("keys: none\n" * 100)
    assert "not a database" in refused(path) and path.read_text().startswith("keys")
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (a)")
    other.close()
    assert "another program" in refused(path)


def test_a_file_that_goes_bad_is_told(book: KeyBook, path: Path):
    _, secret = book.create("forum")
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE keys")
    other.close()
    with pytest.raises(InvalidSettings, match="no such table"):
        book.find(secret)
