"""Keys: who may ask the service, under which policy, how often, and what an answer may do. Kept in an SQLite file.

The one rule: a secret is shown once, to whoever makes the key; what is kept here cannot be turned back into it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from guard.errors import InvalidRequest, InvalidSettings

_SECRET = re.compile(r"gk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_PATIENCE = 10.0  # seconds that one process waits for another one's write
_VERSION = 1
_TABLE = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, policy TEXT, categories TEXT,
    requests_per_minute INTEGER, tokens_per_minute INTEGER, mode TEXT NOT NULL, fail TEXT NOT NULL,
    created TEXT NOT NULL, revoked TEXT
)
"""


class Mode(StrEnum):
    """`shadow` judges, and answers as if nothing was found."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Fail(StrEnum):
    """What becomes of a text that could not be judged: an error (`closed`), or it passes (`open`)."""

    CLOSED = "closed"
    OPEN = "open"


ANONYMOUS = "anonymous"  # the id of whoever asks a service without keys


class Key(BaseModel):
    """What is known of a key, which is all but its secret. Times are UTC; `policy` None: the request chooses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    policy: str | None = None
    categories: tuple[str, ...] | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    mode: Mode = Mode.ENFORCE
    fail: Fail = Fail.CLOSED
    created: datetime
    revoked: datetime | None = None

    @property
    def anonymous(self) -> bool:
        """Is it nobody's in particular?"""
        return self.id == ANONYMOUS


class KeyBook:
    """A file of keys, for several threads and processes at once. One that is not there is made, for its owner alone.

    Every call reads the file, so that what another process revokes counts at once. Raises `InvalidSettings` for a file
    that is no file of keys, with `must_exist` also for one that is missing.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self._path = path
        self._lock = threading.Lock()  # one connection takes one statement at a time
        if must_exist and not path.is_file():
            raise InvalidSettings(f"There is no file of keys {path}.", hint="`guard keys create` makes one.")
        try:
            with suppress(FileExistsError):  # SQLite would make it readable to all; its companions get the same mode
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError as cause:
            raise self._broken(cause) from cause
        with self._explained():
            self._db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def create(
        self, name: str, *, policy: str | None = None, categories: Sequence[str] | None = None,
        requests_per_minute: int | None = None, tokens_per_minute: int | None = None, mode: Mode = Mode.ENFORCE,
        fail: Fail = Fail.CLOSED,
    ) -> tuple[Key, str]:  # fmt: skip
        """A new key and its secret, which nobody can ask for again."""
        id_ = secrets.token_hex(6)
        secret = f"gk_{id_}_{secrets.token_urlsafe(32)}"
        key = Key(
            id=id_, name=name, policy=policy, categories=None if categories is None else tuple(categories),
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, mode=mode, fail=fail,
            created=datetime.now(UTC),
        )  # fmt: skip
        row = key.model_dump(mode="json") | {"digest": _digest(secret)}
        row["categories"] = None if key.categories is None else json.dumps(key.categories)
        columns = ", ".join(row)
        self._run(f"INSERT INTO keys ({columns}) VALUES ({', '.join(f':{name}' for name in row)})", row)
        return key, secret

    def revoke(self, id: str) -> None:
        """The key counts no more; one that was revoked before keeps its time. Raises `InvalidRequest` for no key."""
        if not self._run("SELECT id FROM keys WHERE id = ?", (id,)):
            raise InvalidRequest(f"There is no key {id!r}.", hint="`guard keys list` shows them.")
        now = datetime.now(UTC).isoformat()
        self._run("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (now, id))

    def list(self) -> Sequence[Key]:
        """All keys, the oldest first, and those revoked as well."""
        return [_key(row) for row in self._run("SELECT * FROM keys ORDER BY created, id")]

    def find(self, secret: str) -> Key | None:
        """The key of a secret; None for one that is unknown or revoked."""
        form = _SECRET.fullmatch(secret)
        if form is None:
            return None
        for row in self._run("SELECT * FROM keys WHERE id = ? AND revoked IS NULL", (form[1],)):
            if hmac.compare_digest(row["digest"], _digest(secret)):  # in a time that tells nothing
                return _key(row)
        return None

    def _prepare(self) -> None:
        """The journal and the table; of several processes that meet a new file, one makes it."""
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")  # readers never wait for a writer
        self._db.execute("PRAGMA synchronous = FULL")  # a revocation outlives a power cut
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise sqlite3.DatabaseError("another program's database, or a later version's")
        self._db.execute("COMMIT")

    def _run(self, statement: str, values: Any = ()) -> Sequence[sqlite3.Row]:
        with self._lock, self._explained():
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as cause:
            raise self._broken(cause) from cause

    def _broken(self, cause: Exception) -> InvalidSettings:
        reason = (cause.strerror if isinstance(cause, OSError) else None) or cause
        return InvalidSettings(
            f"The file of keys {self._path} cannot be used: {reason}.",
            hint="Name another one, or let `guard keys create` make it.",
        )


def _digest(secret: str) -> bytes:
    # A slow hash makes guessing costly where people choose passwords; 256 random bits cannot be guessed at any price.
    return hashlib.sha256(secret.encode()).digest()


def _key(row: sqlite3.Row) -> Key:
    found = {name: row[name] for name in row.keys() if name != "digest"}  # noqa: SIM118  a row's `in` looks at values
    if found["categories"] is not None:
        found["categories"] = json.loads(found["categories"])
    return Key.model_validate(found)
