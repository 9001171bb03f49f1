"""Where a scan keeps its ledger: a folder here, or one of an object store.

The one rule: a file is there whole or not at all, and once `put` has returned it survives a loss of power. An object
store gives that by itself; here it takes a temporary file, two calls of fsync and a rename.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

from guard.errors import InvalidFile
from guard.scan.streams import filesystem, is_url, shown


class Store(ABC):
    """Named files of bytes. Raises `InvalidFile` where the place cannot be read or written."""

    def __init__(self, place: str) -> None:
        self.place = place

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""

    @abstractmethod
    def get(self, name: str, size: int | None = None) -> bytes | None:
        """A file's content, or the first `size` bytes of it; None where there is no such file."""

    @abstractmethod
    def names(self) -> list[str]:
        """All files, in the order of their names."""

    @abstractmethod
    def remove(self, names: list[str]) -> None:
        """Remove files, in this order."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """A context within which nobody else is, as far as the place can tell."""


class _Folder(Store):
    def put(self, name: str, content: bytes) -> None:
        path = Path(self.place) / name
        part = path.with_name(f".{name}.{uuid4().hex}.part")  # two machines may be at the same file
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            settle(path.parent)

    def get(self, name: str, size: int | None = None) -> bytes | None:
        with self._explained():
            try:
                with (Path(self.place) / name).open("rb") as file:
                    return file.read(-1 if size is None else size)
            except FileNotFoundError:
                return None

    def names(self) -> list[str]:
        with self._explained():
            try:
                return sorted(entry.name for entry in os.scandir(self.place) if not entry.name.startswith("."))
            except FileNotFoundError:
                return []

    def remove(self, names: list[str]) -> None:
        with self._explained():
            for name in names:
                (Path(self.place) / name).unlink(missing_ok=True)
            if names:
                settle(Path(self.place))

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._explained():
            Path(self.place).mkdir(exist_ok=True)
            file = (Path(self.place) / ".lock").open("wb")
        with file:  # closing it, or dying, gives the lock back
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidFile(
                    f"{self.place}: another scan is writing there.", hint="Wait for it, or name another output."
                ) from None
            self._sweep()
            yield
            self._sweep()

    def _sweep(self) -> None:
        """Remove what was left by those who were killed while they wrote."""
        with self._explained():
            for part in Path(self.place).glob(".*.part"):
                part.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise cannot_write(self.place, cause) from cause


class _Bucket(Store):
    """Through fsspec. There is no lock: two scans into one place overwrite each other's equal blocks."""

    def __init__(self, place: str) -> None:
        super().__init__(shown(place))
        self._files, self._root = filesystem(place)

    def put(self, name: str, content: bytes) -> None:
        with self._explained():
            self._files.pipe_file(f"{self._root}/{name}", content)

    def get(self, name: str, size: int | None = None) -> bytes | None:
        with self._explained():
            try:
                content: bytes = self._files.cat_file(f"{self._root}/{name}", end=size)
            except FileNotFoundError:
                return None
            return content

    def names(self) -> list[str]:
        with self._explained():
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def remove(self, names: list[str]) -> None:
        with self._explained():
            for name in names:
                self._files.rm_file(f"{self._root}/{name}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as cause:  # each store's client has errors of its own
            raise InvalidFile(
                f"{self.place}: cannot be used: {type(cause).__name__}.",
                hint="What is judged so far is kept there; the same command goes on.",
            ) from cause


def open_store(place: str) -> Store:
    """The store at a path, or at a URL that fsspec knows. Raises `InvalidFile`."""
    return _Bucket(place) if is_url(place) else _Folder(place)


def settle(folder: Path) -> None:
    """Have the disk know of what was renamed or removed in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(place: str, cause: OSError) -> InvalidFile:
    """The error for a place that cannot be written (or read): a full disk, missing rights."""
    return InvalidFile(
        f"{place}: cannot be written: {cause.strerror or type(cause).__name__}.",
        hint="Make room or name another place. What is judged so far is kept; the same command goes on.",
    )
